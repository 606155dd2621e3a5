"""Boxes cut from a tomogram at another voxel size, each about its particle to a fraction of a voxel, into one stack."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np

from common.files import atomic_path
from loader.volume import normalise
from physics.resample import resample_about

CONTEXT = 8  # of the coarser voxels, on each side: what is read beyond a box and fades out, so that no edge rings
MODES = {"float16": 12, "float32": 2}  # of MRC


@dataclass(frozen=True)
class Box:
    """The boxes to cut.

    side: voxels, of voxel_size in A. pad: whether boxes that leave the tomogram are filled up with the mean of what
    lies inside.
    """

    side: int
    voxel_size: float
    pad: bool = False


def centres_inside(places: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Whether each place (N, 3) = (z, y, x) in voxels lies in the tomogram: (N,)."""
    return ((places >= -0.5) & (places <= np.array(shape) - 0.5)).all(axis=1)


def boxes_inside(places: np.ndarray, shape: tuple[int, int, int], voxel_size: float, box: Box) -> np.ndarray:
    """Whether the whole box about each place (N, 3) lies in a tomogram of `shape` voxels of voxel_size A: (N,)."""
    half = box.side * box.voxel_size / voxel_size / 2 - 1e-6
    return ((places - half >= -0.5) & (places + half <= np.array(shape) - 0.5)).all(axis=1)


def cut_box(voxels: np.ndarray, place: np.ndarray, voxel_size: float, box: Box) -> np.ndarray:
    """One box (D, D, D) float32 with its particle's place at (side - 1) / 2, by Fourier crop or pad.

    It is constant, or NaN, where the tomogram is constant within it or holds what is not finite.

    Args:
        voxels: (z, y, x), a tomogram of voxel_size A; memory-mapped, only the surroundings of the place are read.
        place: (z, y, x) in voxels, within the tomogram.
    """
    half = box.side * box.voxel_size / voxel_size / 2
    context = CONTEXT * max(box.voxel_size / voxel_size, 1.0)
    low, high = np.floor(place - half - context).astype(int), np.ceil(place + half + context).astype(int) + 1
    start, end = np.maximum(low, 0), np.minimum(high, voxels.shape)
    region = np.asarray(voxels[tuple(map(slice, start, end))], dtype=np.float32)
    within = [np.clip(edge - start, 0, region.shape) for edge in (np.ceil(place - half), np.floor(place + half) + 1)]
    inner = region[tuple(map(slice, *np.array(within, dtype=int)))]
    if not np.isfinite(inner).all() or inner.min() == inner.max():
        return np.full((box.side,) * 3, inner.flat[0] if np.isfinite(inner).all() else np.nan, dtype=np.float32)
    known = np.isfinite(region)
    mean = region.mean(dtype=np.float64, where=known)
    region = np.where(known, region - mean, 0)
    region = np.pad(region, list(zip(start - low, high - end, strict=True)))  # outside of the tomogram: the mean
    for axis, (length, middle) in enumerate(zip(region.shape, place - low, strict=True)):
        beyond = np.clip((np.abs(np.arange(length) - middle) - half) / context, 0, 1)
        fade = (0.5 + 0.5 * np.cos(np.pi * beyond)).astype(np.float32)
        region = region * np.expand_dims(fade, [other for other in range(3) if other != axis])
    image = resample_about(region, voxel_size, box.voxel_size, box.side, place - low)
    return (image + mean).astype(np.float32)


def write_stack(path: Path, boxes: Iterable[np.ndarray], count: int, box: Box, dtype: str) -> list[int]:
    """Write boxes as an MRC volume stack, each at mean 0 and standard deviation 1, one in memory at a time.

    Args:
        count: of the boxes. dtype: one of MODES.

    Returns:
        The numbers, from 0, of the boxes that are left out: those that are constant or not finite.
    """
    unusable = []
    written, squares, extremes = 0, 0.0, [np.inf, -np.inf]
    shape = (count, box.side, box.side, box.side)
    with atomic_path(path) as temporary:
        with mrcfile.new_mmap(temporary, shape, mrc_mode=MODES[dtype], overwrite=True) as mrc:
            for number, volume in enumerate(boxes):
                if not np.isfinite(volume).all() or volume.std() <= 1e-6 * abs(volume.mean()):
                    unusable.append(number)
                    continue
                image = normalise(volume, path)
                mrc.data[written] = image
                squares += float(np.square(image, dtype=np.float64).mean())
                extremes = [min(extremes[0], float(image.min())), max(extremes[1], float(image.max()))]
                written += 1
            mrc.voxel_size = box.voxel_size
            mrc.header.nz = written * box.side
            mrc.header.dmin, mrc.header.dmax = extremes if written else (0, -1)
            mrc.header.dmean, mrc.header.rms = 0, np.sqrt(squares / max(written, 1))
            mrc.header.label[0] = "Created by mrcfile.py"  # in place of mrcfile's time stamp
            end = 1024 + written * box.side**3 * mrc.data.itemsize
        with open(temporary, "r+b") as file:
            file.truncate(end)
    return unusable
