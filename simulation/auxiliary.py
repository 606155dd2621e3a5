"""Procedural complexes that are no one's class: auxiliary classes for training, and neighbours."""

import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common.cli import InputError
from common.files import atomic_path
from common.progress import progress
from physics.grid import Grid
from simulation.procedural import VERSION
from simulation.structures import procedural_complex

FIRST_AUXILIARY, FIRST_NEIGHBOUR = 10**5, 10**6  # indices of complexes: far from those of data sets
NEIGHBOURS = 32  # complexes that neighbours are drawn from


def auxiliary_densities(count: int, grid: Grid, seed: int, cache: Path) -> torch.Tensor:
    """The first `count` auxiliary complexes of a seed that fit the grid's box, float32 (count, D, H, W).

    They are kept in float16 in the folder `cache`, and read from there the next time; a longer list begins with a
    shorter one.

    Raises InputError where that file is damaged, or hardly any complex fits the box.
    """
    of_grid = f"{grid.box}_{grid.voxel_size:g}A_{grid.resolution:g}A_{grid.margin:g}"
    path = cache / f"auxiliary{VERSION}_{of_grid}_seed{seed}.npz"
    densities, after = np.empty((0, *[grid.box] * 3), np.float16), FIRST_AUXILIARY
    if path.is_file():
        try:
            with np.load(path) as kept:
                densities, after = kept["densities"], int(kept["after"])
        except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
            raise InputError(f"{path}: not readable ({error}); delete it, and it is made anew") from error
    if len(densities) < count:
        new, after = fitting(count - len(densities), after, grid, seed)
        densities = np.concatenate([densities, new.astype(np.float16)])
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, densities=densities, after=after)
    return torch.from_numpy(densities[:count].astype(np.float32))


def neighbour_densities(grid: Grid, seed: int) -> torch.Tensor:
    """The complexes that neighbours are drawn from, (NEIGHBOURS, D, H, W); the grid's margin is for targets alone."""
    return torch.from_numpy(fitting(NEIGHBOURS, FIRST_NEIGHBOUR, replace(grid, margin=0.0), seed)[0])


def fitting(count: int, first: int, grid: Grid, seed: int) -> tuple[np.ndarray, int]:
    """The next `count` procedural complexes that fit the box, (count, D, H, W), and the index after the last tried."""
    found, index = [], first
    with progress("procedural shapes", total=count, unit="shape") as bar:
        while len(found) < count:
            try:
                found.append(procedural_complex(index, seed, grid))
                bar.update()
            except InputError as error:
                if index - first >= 20 * (len(found) + 1):
                    raise InputError(f"hardly a procedural complex fits; of the last: {error}") from error
            index += 1
    return np.stack(found) if found else np.empty((0, *[grid.box] * 3), np.float32), index
