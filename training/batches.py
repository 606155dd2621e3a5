"""Where the batches of an epoch come from: the volumes of a split.

A batch follows from seed, epoch and number alone, and several processes share it; but simulated ones (online.py) follow
from the number of processes too, each of which draws its own part.
"""

from typing import Any, NamedTuple, Protocol

import torch

from common.cli import InputError, plural
from common.group import Group
from loader import augment
from loader.dataset import Split, on_device
from loader.prepare import Preprocessing

FEWEST = 2  # volumes of a batch on a process: batch normalisation needs them


class Labelled(NamedTuple):
    """Volumes (N, 1, D, H, W) and their classes (N,)."""

    images: torch.Tensor
    labels: torch.Tensor


class Batches(Protocol):
    """A source of training batches; every process of a group asks for its own part of each."""

    count: int  # batches of an epoch
    volumes: int  # volumes of an epoch
    text: str  # what the user is told of it
    imaging_record: dict | None  # what a checkpoint keeps of the imaging of simulated volumes; None for files

    def size(self, number: int) -> int:
        """Volumes of a batch, on all processes together."""

    def batch(self, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Volumes (n, 1, D, H, W) float32, mean 0 and standard deviation 1, and labels (n,), on the device."""


class FileBatches:
    """Batches of a split's volumes, shuffled or class-balanced, augmented on the device.

    Args:
        cfg: of train.py: batch_size, class_samples, half_turns, shift, noise, rotate, seed.
        split: the training volumes, on any device.
        device: of the batches.
        group: the processes that share each batch.

    Raises:
        InputError: as `check_files`.
    """

    imaging_record = None

    def __init__(self, cfg: Any, split: Split, device: torch.device, group: Group):
        self.cfg, self.split, self.device, self.group = cfg, split, device, group
        self.labels = split.labels.to(device)
        check_files(cfg, split.labels, split.preprocessing, group)
        tilts = split.preprocessing.tilt_range
        self.tilt_range = tuple(tilts) if cfg.rotate else None
        self.turns = augment.safe_half_turns(*(tilts or (None, None))) if cfg.half_turns else ()
        last = len(split) % cfg.batch_size  # a last batch of too few volumes is left out
        self.count = len(split) // cfg.batch_size + (last >= FEWEST * group.size)
        self.volumes = sum(map(self.size, range(self.count)))
        self.text = f"{len(split)} training volumes {split.place}; half turns: {', '.join(self.turns) or 'none'}"
        self._draw(0)

    def size(self, number: int) -> int:
        return min(self.cfg.batch_size, len(self.split) - number * self.cfg.batch_size)

    def batch(self, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        if epoch != self.epoch:
            self._draw(epoch)
        whole = slice(number * self.cfg.batch_size, (number + 1) * self.cfg.batch_size)
        index, drawn = (numbers[whole][self.group.rank :: self.group.size] for numbers in (self.order, self.drawn))
        volumes = on_device(self.split.images[index.to(self.split.images.device, non_blocking=True)], self.device)
        if self.tilt_range:
            volumes = augment.apply_rotations(volumes, self.rotations[drawn], self.tilt_range)
        if self.turns:
            volumes = augment.apply_half_turns(volumes, self.choice[drawn], self.turns)
        if self.cfg.shift:
            volumes = augment.apply_shifts(volumes, self.shifts[drawn].to(self.device, non_blocking=True))
        if self.cfg.noise:
            volumes = augment.apply_noise(volumes, self.noise[drawn], self.cfg.noise)
        return volumes, self.labels[index.to(self.device, non_blocking=True)]

    def _draw(self, epoch: int) -> None:
        """Order and augmentation of all volumes in an epoch."""
        cfg, n = self.cfg, len(self.split)
        generator = torch.Generator().manual_seed(epoch_seed(cfg.seed, epoch))
        self.order = epoch_order(self.split.labels, cfg.batch_size, cfg.class_samples, generator)
        # Which augmentation each has: that of its place where a volume may recur, else that of the volume.
        self.drawn = torch.arange(n) if cfg.class_samples else self.order
        self.choice = augment.draw_half_turns(n, self.turns, generator)
        self.shifts = augment.draw_shifts(n, cfg.shift, generator)
        self.noise = augment.draw_noise(n, generator)
        self.rotations = augment.draw_rotations(n, generator)
        self.epoch = epoch


def check_files(cfg: Any, labels: torch.Tensor, preprocessing: Preprocessing, group: Group) -> None:
    """Refuse settings that do not go with the training files; it needs their labels (N,) and preprocessing alone.

    Raises InputError: rotations are wanted, and the tilt range is unknown; shifts beyond the box; a batch or a split of
    fewer than two volumes per process; a batch that cannot hold the class samples.
    """
    if cfg.rotate and not preprocessing.tilt_range:
        raise InputError("--rotate: the tilt range of the volumes is unknown (columns Tilt Min and Tilt Max)")
    check_batch_size(cfg.batch_size, group)
    fewest = FEWEST * group.size
    if len(labels) < fewest:
        found = f"{len(labels)} training {plural('volume', len(labels))}"
        raise InputError(f"{found}: expected {fewest} or more, {FEWEST} for each process, for batch normalisation")
    if cfg.shift >= preprocessing.box / 2:
        raise InputError(f"--shift {cfg.shift}: expected less than half of the box, {preprocessing.box} voxels")
    if cfg.class_samples:
        check_class_samples(cfg.class_samples, cfg.batch_size, torch.bincount(labels))


def check_class_samples(class_samples: int, batch_size: int, counts: torch.Tensor) -> None:
    """Refuse P x K sampling that cannot fill a batch from classes of these numbers of volumes (C,)."""
    counts = counts[counts > 0]
    per_batch, smallest = batch_size // class_samples, int(counts.min())
    given = f"--class-samples {class_samples} with --batch-size {batch_size}"
    if batch_size % class_samples:
        raise InputError(f"{given}: expected a batch size that is a multiple of {class_samples}")
    if per_batch > len(counts):
        most = class_samples * len(counts)
        raise InputError(
            f"{given}: {batch_size} / {class_samples} = {per_batch} classes per batch, there are {len(counts)}; "
            f"expected a batch size of at most {most}, or more class samples"
        )
    if class_samples > smallest:
        raise InputError(
            f"{given}: the smallest class has {smallest} {plural('volume', smallest)}; expected fewer samples"
        )


def check_batch_size(batch_size: int, group: Group) -> None:
    """Refuse a batch of which a process would get too few volumes for batch normalisation."""
    if batch_size < FEWEST * group.size:
        raise InputError(f"--batch-size {batch_size}: expected {FEWEST} or more for each of {group.size} processes")


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of an epoch: another one for each run and epoch."""
    return seed * 1_000_003 + epoch


def epoch_order(labels: torch.Tensor, batch_size: int, class_samples: int, generator: torch.Generator) -> torch.Tensor:
    """The order (N,) in which an epoch takes its volumes.

    With class_samples = 0 a shuffle. Else P x K sampling: each batch holds K = class_samples volumes of each of
    P = batch_size / K different classes; classes come equally often, and those with few volumes repeat them.

    Raises InputError where a batch cannot be filled so.
    """
    n = len(labels)
    if not class_samples:
        return torch.randperm(n, generator=generator)
    check_class_samples(class_samples, batch_size, torch.bincount(labels))
    members = [(labels == label).nonzero().squeeze(1) for label in labels.unique()]
    per_batch = batch_size // class_samples
    often = torch.zeros(len(members))  # how often a class was taken: the rarest are next
    chosen = []
    for _ in range(-(-n // batch_size)):
        rarest = (often + 0.5 * torch.rand(len(members), generator=generator)).argsort()[:per_batch]
        often[rarest] += 1
        chosen += rarest.tolist()
    queues = [
        iter(endless(own, int(times) * class_samples, generator).split(class_samples))
        for own, times in zip(members, often, strict=True)
    ]
    return torch.cat([next(queues[label]) for label in chosen])[:n]


def endless(values: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` of the values (M,), shuffled anew each time that all of them are used up."""
    times = max(1, -(-count // len(values)))
    return torch.cat([values[torch.randperm(len(values), generator=generator)] for _ in range(times)])[:count]
