"""One epoch of training, step by step; and its validation."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from common.cli import InputError
from evaluation.rejection import DEFAULT_SCORE, calibrate, calibrated_score, classify, fit_threshold
from loader.dataset import Split
from model import embed
from training.batches import Batches
from training.run import Run
from training.stop import StopRequest

TERMS = ("train_loss", "softmax", "margin", "center")
EMBED_BATCH = 256  # volumes at once where no gradient is needed


def train_epoch(state: Run, batches: Batches, stop: StopRequest) -> bool:
    """The steps of an epoch that are still to do; last.pt is written every `save_every` steps, and where asked to stop.

    Returns whether the epoch is done; False where a signal asked to stop.

    Raises InputError for a loss or gradient that is not finite; what was saved before stays.
    """
    cfg, last = state.cfg, Path(state.cfg.save_dir) / "last.pt"
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
                state.save(last)
            if stopped:
                return False
    return True


def take_step(state: Run, batches: Batches, stop: StopRequest) -> bool:
    """One step of the optimiser, on `accumulate` batches; returns whether any process was asked to stop."""
    cfg, device = state.cfg, state.device
    numbers = range(state.step * cfg.accumulate, min((state.step + 1) * cfg.accumulate, batches.count))
    state.optimizer.zero_grad(set_to_none=True)
    values = torch.zeros(6, device=device)  # the terms times their volumes, and the norms of the gradients
    for number in numbers:
        volumes, labels = batches.batch(state.epoch, number)
        volumes = volumes.contiguous(memory_format=torch.channels_last_3d)
        alone = state.group.size == 1 or number == numbers[-1]
        with nullcontext() if alone else state.module.no_sync():
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                terms = state.module(volumes, labels)
            (terms.total / len(numbers)).backward()
        values[:4] += torch.stack(terms).detach() * batches.size(number)
    values[4] = nn.utils.clip_grad_norm_(state.model.parameters(), cfg.clip or float("inf"))
    values[5] = nn.utils.get_total_norm([p.grad for p in state.criterion.parameters() if p.grad is not None])
    values = values.double().cpu()  # the one place where a step waits for the device
    flags = torch.tensor([float(not values.isfinite().all()), float(stop.number > 0)], device=device)
    failed, stopped = state.group.any(flags)
    if failed:
        raise InputError(
            f"epoch {state.epoch + 1}, batch {numbers[0] + 1}: loss or gradient is not finite; the last good "
            f"checkpoint is kept in {cfg.save_dir}; try a lower --lr"
        )
    state.advance()
    state.step += 1
    state.sums += values[:4]
    state.seen += sum(batches.size(number) for number in numbers)
    return stopped


def draw_gallery(labels: torch.Tensor, per_class: int, seed: int) -> torch.Tensor:
    """Indices of at most `per_class` training volumes of each class, in order."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = [order[labels[order] == label][:per_class] for label in labels.unique()]
    return torch.cat(chosen).sort().values


@torch.inference_mode()
def validate(state: Run, train: Split, valid: Split, gallery: torch.Tensor) -> tuple[dict, dict]:
    """Validation accuracy by class prototypes and loss; and the threshold below which a particle is unknown."""
    cfg, network = state.cfg, state.network
    found = embed(network, train.images[gallery.to(train.images.device)], state.device, EMBED_BATCH, "prototypes")
    compared = calibrate(found, train.labels[gallery].numpy(), len(state.classes))
    raw = embed(network, valid.images, state.device, EMBED_BATCH, "validation", normalised=False)
    predictions = classify(raw, compared["prototypes"])[0]
    state.criterion.eval()
    batches = zip(torch.from_numpy(raw).split(cfg.batch_size), valid.labels.split(cfg.batch_size), strict=True)
    losses = [
        float(state.criterion(part.to(state.device), labels.to(state.device)).total) * len(labels)
        for part, labels in batches
    ]
    figures = {"valid_loss": sum(losses) / len(valid), "accuracy": float(np.mean(predictions == valid.labels.numpy()))}
    calibration = {"score": DEFAULT_SCORE, **{key: torch.from_numpy(value) for key, value in compared.items()}}
    threshold = float(fit_threshold(calibrated_score(raw, calibration), cfg.false_rejection_rate))
    calibration |= {"threshold": threshold, "false_rejection_rate": cfg.false_rejection_rate, "n": len(valid)}
    return figures, calibration
