"""An epoch: its steps (`train_epoch`), then validation, log and checkpoints (`finish_epoch`).

What changes from step to step is the state (state.py); where its volumes come from is batches.py or online.py; what an
epoch leaves behind on the disk is record.py.
"""

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.cli import InputError
from common.progress import progress
from evaluation.junk import JunkCalibration, junk_of_loss
from evaluation.rejection import LESS_COHORT, Calibration, calibrate, classify
from evaluation.whitening import Whitening, fit_whitening
from loader.dataset import Split
from model import Whitened, embed, with_views
from simulation.junk import JUNK
from training.batches import Batches, Labelled
from training.record import save_epoch, summary
from training.state import TrainingState
from training.stop import StopRequest

Embedded = tuple[np.ndarray, np.ndarray]  # embeddings (N, E) and labels (N,)

EMBED_BATCH = 256  # volumes at once where no gradient is needed


@dataclass(frozen=True)
class Validation:
    """What an epoch is validated on: the validation volumes, and what they are compared with."""

    valid: Split
    compared: Split | Labelled  # training volumes, or such as training has
    gallery: torch.Tensor  # indices of those that are taken, as `draw_gallery` gives them
    threshold: Labelled | None = None  # what sets the threshold of unknowns; None: the validation volumes
    cohort: Labelled | None = None  # shapes that are none of the classes


def train_epoch(state: TrainingState, batches: Batches, stop: StopRequest) -> int:
    """The steps of an epoch that are still to do; last.pt is written every `save_every` steps, and where asked to stop.

    Returns the signal that asked any of the processes to stop; 0 where the epoch is done.

    Raises InputError for a loss or gradient that is not finite; what was saved before stays.
    """
    cfg = state.cfg
    state.start_epoch()
    text = f"epoch {state.epoch + 1}/{cfg.epochs}"
    with progress(text, total=batches.volumes, begun=state.seen, hidden=not state.group.first) as bar:
        while state.step < state.steps_per_epoch:
            before = state.seen
            stopped = take_step(state, batches, stop)
            bar.update(state.seen - before)
            due = cfg.save_every and state.step % cfg.save_every == 0 and state.step < state.steps_per_epoch
            if (stopped or due) and state.group.first:
                check_weights(state, batches)
                state.save(Path(cfg.save_dir) / "last.pt")
            if stopped:
                return stopped
    return 0


def take_step(state: TrainingState, batches: Batches, stop: StopRequest) -> int:
    """One step of the optimiser, on `accumulate` batches; returns the signal that asked any process to stop, or 0."""
    cfg, device = state.cfg, state.device
    numbers = range(state.step * cfg.accumulate, min((state.step + 1) * cfg.accumulate, batches.count))
    sizes = [batches.size(number) for number in numbers]
    state.optimizer.zero_grad(set_to_none=True)
    values = torch.zeros(len(state.terms) + 2, device=device)  # terms times their volumes, and norms of the gradients
    for number, size in zip(numbers, sizes, strict=True):
        volumes, labels = batches.batch(state.epoch, number)
        volumes = volumes.contiguous(memory_format=state.layout)
        alone = state.group.size == 1 or number == numbers[-1]
        with nullcontext() if alone else state.module.no_sync():
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and cfg.bfloat16):
                terms = state.module(volumes, labels, **beside(state, batches, number))
            (terms.total * (size / sum(sizes))).backward()
        values[:-2] += torch.stack(terms).detach() * size
    values[-2] = nn.utils.clip_grad_norm_(state.model.parameters(), cfg.clip or float("inf"))
    values[-1] = nn.utils.get_total_norm([p.grad for p in state.criterion.parameters() if p.grad is not None])
    values = values.double().cpu()  # here the step waits for the device
    flags = [float(not values.isfinite().all()), float(stop.number)]
    failed, stopped = state.group.largest(flags, device)
    if failed:
        raise not_finite(state, "loss or gradient")
    state.lr = state.optimizer.param_groups[0]["lr"]
    state.advance()
    state.step += 1
    state.sums += values[:-2]
    state.seen += sum(sizes)
    return int(stopped)


def beside(state: TrainingState, batches: Batches, number: int) -> dict[str, torch.Tensor]:
    """What the simulator knows of a batch beside its labels, as far as the settings ask for it; a stream alone may."""
    found = {}
    if state.cfg.clean_twin:
        found["twins"] = batches.twins(state.epoch, number).contiguous(memory_format=state.layout)
    if state.cfg.margin_snr:
        found["margins"] = batches.margins(state.epoch, number)
    return found


def not_finite(state: TrainingState, what: str) -> InputError:
    """The error that stops a run, where it is."""
    return InputError(
        f"epoch {state.epoch + 1}, batch {state.step * state.cfg.accumulate + 1}: {what} is not finite; the last good "
        f"checkpoint is kept in {state.cfg.save_dir}; try a lower --lr"
    )


@torch.no_grad()
def check_weights(state: TrainingState, batches: Batches) -> None:
    """Refuse to save weights that no longer give a finite loss: of the next batch, which training has not seen."""
    state.module.eval()
    volumes, labels = batches.batch(state.epoch, min(state.step * state.cfg.accumulate, batches.count - 1))
    loss = state.criterion(state.model(volumes.contiguous(memory_format=state.layout)), labels).total
    if not loss.isfinite():
        raise not_finite(state, "the loss")
    state.module.train()


def finish_epoch(state: TrainingState, sets: Validation, started: float, before: int) -> None:
    """Validate, log and save an epoch; the first process does, the others wait for its figures.

    Args:
        started: when the epoch, or what was left of it, began: time.perf_counter().
        before: volumes that it had seen then.
    """
    seconds = time.perf_counter() - started
    terms = dict(zip(state.terms, (state.sums / state.seen).tolist(), strict=True))
    speed = round((state.seen - before) / seconds, 1)
    found = validate(state, sets) if state.group.first else None
    figures, state.calibration, state.junk, state.whitening = state.group.share(found)
    state.end_epoch(figures["valid_loss"])
    state.log.append({"epoch": state.epoch, **terms, **figures, "lr": state.lr, "volumes_per_s": speed})
    if state.group.first:
        save_epoch(state)
        left = (state.cfg.epochs - state.epoch) * (time.perf_counter() - started)
        print(summary(state, left), flush=True)


@torch.inference_mode()
def validate(
    state: TrainingState, sets: Validation
) -> tuple[dict[str, float], Calibration, JunkCalibration | None, Whitening | None]:
    """Validation loss, accuracy by class prototypes, what tells known from unknown, particle from junk, and whitening.

    With averaged weights, network and loss are both the averaged ones, as the checkpoint keeps them.
    """
    cfg, criterion = state.cfg, state.loss.eval()
    network = with_views(state.network, asdict(cfg), state.data.preprocessing)
    images, gallery = sets.compared.images, sets.gallery
    found = embed(network, images[gallery.to(images.device)], state.device, EMBED_BATCH, "prototypes")
    raw = embed(network, sets.valid.images, state.device, EMBED_BATCH, "validation", normalised=False)
    if not (np.isfinite(raw).all() and np.isfinite(found).all()):
        raise not_finite(state, "an embedding in validation")
    labels, known = sets.valid.labels, len(state.data.classes)
    compared = sets.compared.labels[gallery].numpy()
    whitening = fit_whitening(found, compared, known, cfg.whiten) if cfg.whiten else None
    found, embeddings = (whitening.apply(found), whitening.apply(raw)) if whitening else (found, raw)
    whole = Whitened(network, whitening).to(state.device) if whitening else network
    calibration = calibrated(state, sets, whole, (found, compared), (embeddings, labels.numpy()))
    predictions = classify(embeddings, calibration.prototypes)[0]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))  # the file has class after class
    parts = torch.from_numpy(raw)[order].split(cfg.batch_size), labels[order].split(cfg.batch_size)
    losses = [
        float(criterion(part.to(state.device), own.to(state.device)).total) * len(own)
        for part, own in zip(*parts, strict=True)
    ]
    accuracy = float(np.mean(predictions == labels.numpy()))
    junk = junk_of_loss(criterion.state_dict(), len(JUNK), embeddings, whitening) if cfg.online_junk else None
    return {"valid_loss": sum(losses) / len(labels), "accuracy": accuracy}, calibration, junk, whitening


def calibrated(
    state: TrainingState, sets: Validation, network: nn.Module, compared: Embedded, valid: Embedded
) -> Calibration:
    """What tells known from unknown: by the validation volumes, or by what is simulated as training's volumes are."""
    classes, rate = len(state.data.classes), state.cfg.false_rejection_rate
    if sets.threshold is None:
        return calibrate(compared, valid, classes, rate)
    threshold, cohort = (
        (embed(network, part.images, state.device, EMBED_BATCH, text), part.labels.numpy())
        for part, text in ((sets.threshold, "threshold"), (sets.cohort, "cohort"))
    )
    return calibrate(compared, threshold, classes, rate, LESS_COHORT, cohort)


def draw_gallery(labels: torch.Tensor, per_class: int, seed: int) -> torch.Tensor:
    """Indices of at most `per_class` training volumes of each class, in order."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = [order[labels[order] == label][:per_class] for label in labels.unique()]
    return torch.cat(chosen).sort().values
