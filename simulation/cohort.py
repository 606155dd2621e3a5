"""Shapes that are like a structure in nothing but size: what else of that size would be taken for it?"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from common.cli import InputError
from common.progress import progress
from physics.grid import Grid
from simulation.procedural import RESIDUE_VOLUME, procedural_residues
from simulation.structures import density_from_points

FIRST_COHORT = 2 * 10**6  # index of procedural complexes: far from those of data sets, training and neighbours
POOL = 96  # complexes that a cohort is chosen from; their sizes are log-uniform from 28 kDa to 1.5 MDa
SOLID = 1210.0  # A^3 of solid protein per kDa


@dataclass(frozen=True)
class Pool:
    """Procedural complexes of every size, of a seed; the same for the same seed. The grid is that of the densities."""

    grid: Grid
    seed: int = 0

    @cached_property
    def residues(self) -> list[np.ndarray]:
        """Their residues, (P, 3) each, from the smallest complex on."""
        numbers = progress("shapes to compare with", range(POOL), unit="shape")
        return sorted((procedural_residues(FIRST_COHORT + number, self.seed) for number in numbers), key=len)

    def of_size(self, volume: float, count: int) -> torch.Tensor:
        """The densities of the `count` complexes nearest in size to a volume in A^3, scaled to it: (n, D, H, W).

        n < count where others do not fit the box. Their chains are as dense as before, only longer or shorter.
        """
        nearest = sorted(self.residues, key=lambda residues: abs(np.log(len(residues) * RESIDUE_VOLUME / volume)))
        found: list[np.ndarray] = []
        for residues in nearest:
            factor = volume / (len(residues) * RESIDUE_VOLUME)
            found += self._density(residues * factor ** (1 / 3), factor)
            if len(found) == count:
                break
        return self._stack(found)

    def of_all_sizes(self, count: int) -> torch.Tensor:
        """The densities of `count` complexes from the smallest to the largest, as far as they fit: (n, D, H, W)."""
        chosen = np.linspace(0, POOL - 1, count).round().astype(int)
        return self._stack([density for number in chosen for density in self._density(self.residues[number], 1.0)])

    def _density(self, residues: np.ndarray, factor: float) -> list[np.ndarray]:
        """One density, or none where it leaves the box; each residue has `factor` times its volume."""
        weights = np.full(len(residues), RESIDUE_VOLUME * factor)
        try:
            return [density_from_points(residues, weights, replace(self.grid, margin=0.0), "a procedural complex")]
        except InputError:
            return []

    def _stack(self, densities: list[np.ndarray]) -> torch.Tensor:
        side = self.grid.box
        return torch.from_numpy(np.stack(densities)) if densities else torch.empty(0, side, side, side)


def protein_volume(density: torch.Tensor, voxel_size: float) -> float:
    """The volume in A^3 that a density (D, H, W), whose unit is that of solid protein, would fill if it were solid."""
    return float(density.sum()) * voxel_size**3
