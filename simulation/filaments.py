"""Filaments that run through the whole box: rods and tubes with a helical lattice, as microtubules, actin and viruses
have one. Classes of particles that no list of residues describes, as they have no ends; for training.

A filament is a wall about an axis, wavy around the axis and along it:

    exp(-(rho - R)^2 / 2 W^2) (1 + a cos(n phi - 2 pi t / P)) (1 + b cos(2 pi t / p)), on the scale 1 for solid protein

with rho, phi, t the cylindrical coordinates. R = 0 is a rod. No wave is shorter than twice the resolution of complexes.
"""

from dataclasses import dataclass

import numpy as np
import torch

from physics.pose import random_rotations, rotation_matrices
from simulation.junk import Maker
from simulation.simulator import Simulator

RADII = (25.0, 130.0)  # A of tubes, log-uniform
WALLS = (12.0, 25.0)  # A, of the wall
SHORTEST = 40.0  # A, of a wave
RODS = 0.3  # share of the filaments
MOST = 0.9  # of the density of solid protein, at most


@dataclass(frozen=True)
class Filament:
    """The shape of one; lengths in A.

    radius: of the middle of the wall; wall: its standard deviation.
    strands: waves around the axis, which wind once along `pitch`, left-handed where that is negative.
    rise: period along the axis.
    depth, depth_along: of the waves, 0 to 1.
    """

    radius: float
    wall: float
    strands: int
    pitch: float
    rise: float
    depth: float
    depth_along: float

    def densities(self, n: int, simulator: Simulator, generator: torch.Generator) -> torch.Tensor:
        """In random poses near the centre, (n, W, W, W): any direction, turn about the axis and place along it."""
        device, size = simulator.device, simulator.imaging.voxel_size
        turns = rotation_matrices(random_rotations(n, generator, device))  # (n, 3, 3)
        away = (2 * torch.rand(n, 2, generator=generator, device=device) - 1) * simulator.imaging.shift
        along = torch.rand(n, generator=generator, device=device) * self.rise
        offset = torch.arange(simulator.wide_side, device=device) - (simulator.wide_side - 1) / 2
        z, y, x = torch.meshgrid(offset, offset, offset, indexing="ij")
        own = torch.einsum("nij,jzyx->nizyx", turns, torch.stack([x, y, z]))  # voxels, along the filament's axes
        u, v = ((own[:, i] - away[:, i, None, None, None]) * size for i in (0, 1))
        t = own[:, 2] * size + along[:, None, None, None]
        rho = (u.square() + v.square()).sqrt()
        wall = torch.exp(-((rho - self.radius) ** 2) / (2 * self.wall**2))
        around = torch.cos(self.strands * torch.atan2(v, u) - 2 * torch.pi * t / self.pitch)
        middle = (rho / SHORTEST * 2).clamp(max=1.0)  # waves fade where they would become too short
        wave = (1 + self.depth * middle * around) * (1 + self.depth_along * torch.cos(2 * torch.pi * t / self.rise))
        return MOST * wall * wave / ((1 + self.depth) * (1 + self.depth_along))


def filament(index: int, seed: int) -> Filament:
    """Number `index` of a seed, always the same."""
    rng = np.random.default_rng([seed, index])
    rod = rng.random() < RODS
    low, high = np.log(RADII)
    radius = 0.0 if rod else float(np.exp(rng.uniform(low, high)))
    wall = float(rng.uniform(20, 35) if rod else rng.uniform(*WALLS))
    outer = max(radius, wall)
    most = max(1, int(2 * np.pi * outer / SHORTEST))
    return Filament(
        radius,
        wall,
        strands=int(rng.integers(1, most + 1)),
        pitch=float(rng.choice([-1, 1]) * np.exp(rng.uniform(np.log(SHORTEST), np.log(1000)))),
        rise=float(np.exp(rng.uniform(np.log(SHORTEST), np.log(90)))),
        depth=float(rng.uniform(0.2, 0.9)),
        depth_along=float(rng.uniform(0.0, 0.7)),
    )


def filament_makers(count: int, seed: int) -> list[Maker]:
    """What makes densities of the first `count` filaments of a seed, as the functions in JUNK do."""
    return [filament(index, seed).densities for index in range(count)]
