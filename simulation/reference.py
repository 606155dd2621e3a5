"""What particles are compared with, simulated: volumes of the known classes, others to set the threshold with, and a
cohort of shapes that are none of the classes."""

from typing import NamedTuple

import torch

from simulation.as_trained import AsTrained
from simulation.cohort import Pool

SHAPES, PER_SHAPE = 48, 8  # of a cohort: made-up shapes of every size, and volumes of each

Volumes = tuple[torch.Tensor, torch.Tensor]  # (N, 1, D, H, W) float16 on the CPU, mean 0 and deviation 1; labels (N,)


class Compared(NamedTuple):
    """Volumes and labels: of the known classes, of others of them, and of the cohort, whose shapes have its labels."""

    reference: Volumes
    validation: Volumes
    cohort: Volumes


def compared_volumes(imaging: AsTrained, densities: torch.Tensor, per_class: int, seed: int) -> Compared:
    """`per_class` volumes of each known density (C, D, H, W) to compare with and as many others, under an imaging.

    They come on whole pieces of the stream, so that some classes have a few volumes more. The cohort's shapes are the
    same for every seed; they are made on the densities' device.
    """
    labels = torch.arange(len(densities)).repeat_interleave(per_class)
    sides = [simulated(imaging, densities, labels, seed + number) for number in range(2)]
    return Compared(*sides, cohort_volumes(imaging, seed + 2, densities.device))


def cohort_volumes(imaging: AsTrained, seed: int, device: torch.device) -> Volumes:
    """PER_SHAPE volumes of each of SHAPES made-up shapes, as far as they fit the box."""
    shapes = Pool(imaging.grid).of_all_sizes(SHAPES).to(device)
    return simulated(imaging, shapes, torch.arange(len(shapes)).repeat_interleave(PER_SHAPE), seed)


def simulated(imaging: AsTrained, densities: torch.Tensor, labels: torch.Tensor, seed: int) -> Volumes:
    """Volumes of labels (N,) under an imaging."""
    parts = [
        (volumes.half().cpu(), found.cpu())
        for volumes, found in imaging.volumes(imaging.simulator(densities), labels, seed)
    ]
    volumes, found = (torch.cat(part) for part in zip(*parts, strict=True))
    return volumes, found
