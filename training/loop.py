"""One epoch of training, step by step; and its validation."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from common.cli import InputError
from evaluation.rejection import DEFAULT_SCORE, calibrate, calibrated_score, classify, fit_threshold
from loader.dataset import Split
from model import embed, with_views
from training.batches import Batches
from training.run import Run
from training.stop import StopRequest

EMBED_BATCH = 256  # volumes at once where no gradient is needed


def train_epoch(state: Run, batches: Batches, stop: StopRequest) -> int:
    """The steps of an epoch that are still to do; last.pt is written every `save_every` steps, and where asked to stop.

    Returns the signal that asked any of the processes to stop; 0 where the epoch is done.

    Raises InputError for a loss or gradient that is not finite; what was saved before stays.
    """
    cfg = state.cfg
    state.module.train()
    state.criterion.start_epoch(state.epoch)
    text = f"epoch {state.epoch + 1}/{cfg.epochs}"
    hidden = not state.group.first
    with tqdm(total=batches.volumes, initial=state.seen, desc=text, unit="volume", leave=False, disable=hidden) as bar:
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


def take_step(state: Run, batches: Batches, stop: StopRequest) -> int:
    """One step of the optimiser, on `accumulate` batches; returns the signal that asked any process to stop, or 0."""
    cfg, device = state.cfg, state.device
    numbers = range(state.step * cfg.accumulate, min((state.step + 1) * cfg.accumulate, batches.count))
    sizes = [batches.size(number) for number in numbers]
    state.optimizer.zero_grad(set_to_none=True)
    values = torch.zeros(6, device=device)  # the terms times their volumes, and the norms of the gradients
    for number, size in zip(numbers, sizes, strict=True):
        volumes, labels = batches.batch(state.epoch, number)
        volumes = volumes.contiguous(memory_format=state.layout)
        alone = state.group.size == 1 or number == numbers[-1]
        with nullcontext() if alone else state.module.no_sync():
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and cfg.bfloat16):
                terms = state.module(volumes, labels)
            (terms.total * (size / sum(sizes))).backward()
        values[:4] += torch.stack(terms).detach() * size
    values[4] = nn.utils.clip_grad_norm_(state.model.parameters(), cfg.clip or float("inf"))
    values[5] = nn.utils.get_total_norm([p.grad for p in state.criterion.parameters() if p.grad is not None])
    values = values.double().cpu()  # here the step waits for the device
    flags = [float(not values.isfinite().all()), float(stop.number)]
    failed, stopped = state.group.largest(flags, device)
    if failed:
        raise not_finite(state, "loss or gradient")
    state.lr = state.optimizer.param_groups[0]["lr"]
    state.advance()
    state.step += 1
    state.sums += values[:4]
    state.seen += sum(sizes)
    return int(stopped)


def not_finite(state: Run, what: str) -> InputError:
    """The error that stops a run, where it is."""
    return InputError(
        f"epoch {state.epoch + 1}, batch {state.step * state.cfg.accumulate + 1}: {what} is not finite; the last good "
        f"checkpoint is kept in {state.cfg.save_dir}; try a lower --lr"
    )


@torch.no_grad()
def check_weights(state: Run, batches: Batches) -> None:
    """Refuse to save weights that no longer give a finite loss: of the next batch, which training has not seen."""
    state.module.eval()
    volumes, labels = batches.batch(state.epoch, min(state.step * state.cfg.accumulate, batches.count - 1))
    loss = state.criterion(state.model(volumes.contiguous(memory_format=state.layout)), labels).total
    if not loss.isfinite():
        raise not_finite(state, "the loss")
    state.module.train()


def draw_gallery(labels: torch.Tensor, per_class: int, seed: int) -> torch.Tensor:
    """Indices of at most `per_class` training volumes of each class, in order."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = [order[labels[order] == label][:per_class] for label in labels.unique()]
    return torch.cat(chosen).sort().values


@torch.inference_mode()
def validate(state: Run, train: Split, valid: Split, gallery: torch.Tensor) -> tuple[dict, dict]:
    """Validation accuracy by class prototypes and loss; and the threshold below which a particle is unknown."""
    cfg, network = state.cfg, with_views(state.network, asdict(state.cfg), state.preprocessing)
    found = embed(network, train.images[gallery.to(train.images.device)], state.device, EMBED_BATCH, "prototypes")
    raw = embed(network, valid.images, state.device, EMBED_BATCH, "validation", normalised=False)
    if not (np.isfinite(raw).all() and np.isfinite(found).all()):
        raise not_finite(state, "an embedding in validation")
    compared = calibrate(found, train.labels[gallery].numpy(), len(state.classes))
    predictions = classify(raw, compared["prototypes"])[0]
    state.criterion.eval()
    order = torch.randperm(len(valid), generator=torch.Generator().manual_seed(0))  # the file has class after class
    parts = torch.from_numpy(raw)[order].split(cfg.batch_size), valid.labels[order].split(cfg.batch_size)
    losses = [
        float(state.criterion(part.to(state.device), labels.to(state.device)).total) * len(labels)
        for part, labels in zip(*parts, strict=True)
    ]
    figures = {"valid_loss": sum(losses) / len(valid), "accuracy": float(np.mean(predictions == valid.labels.numpy()))}
    calibration = {"score": DEFAULT_SCORE, **{key: torch.from_numpy(value) for key, value in compared.items()}}
    threshold = float(fit_threshold(calibrated_score(raw, calibration), cfg.false_rejection_rate))
    calibration |= {"threshold": threshold, "false_rejection_rate": cfg.false_rejection_rate, "n": len(valid)}
    return figures, calibration
