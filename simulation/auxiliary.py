"""Densities of auxiliary classes: procedural complexes that are no one's class, made once and kept beside the data."""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.cli import InputError, is_first_process
from common.files import atomic_path
from simulation.structures import procedural_complex

FIRST = 10**5  # index of the first auxiliary complex: far from those of data sets


def auxiliary_densities(
    count: int, box: int, voxel_size: float, resolution: float, seed: int, margin: float, cache: Path
) -> torch.Tensor:
    """The first `count` auxiliary complexes of a seed, float32 (count, D, H, W); other arguments as `load_densities`.

    They are kept in float16 in the folder `cache`, and read from there the next time; a longer list begins with a
    shorter one.

    Raises InputError where that file is damaged.
    """
    path = cache / f"auxiliary_{box}_{voxel_size:g}A_{resolution:g}A_{margin:g}_seed{seed}.npy"
    densities = np.empty((0, box, box, box), np.float16)
    if path.is_file():
        try:
            densities = np.load(path)
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"{path}: not a readable array ({error}); delete it, and it is made anew") from error
    if len(densities) < count:
        new = [
            procedural_complex(FIRST + index, seed, voxel_size, resolution, box, margin).astype(np.float16)
            for index in tqdm(
                range(len(densities), count), desc="auxiliary classes", leave=False, disable=not is_first_process()
            )
        ]
        densities = np.concatenate([densities, new])
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, densities)
    return torch.from_numpy(densities[:count].astype(np.float32))
