"""Volumes on other voxels: resampling in Fourier space, and another box about the same centre."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from physics.grid import same_voxel_size


def spectrum_at(
    volume: np.ndarray, voxel_size: float, new_voxel_size: float, side: int, centre: Sequence[float]
) -> np.ndarray:
    """The Fourier transform of a volume at the frequencies of a cube of other voxels.

    Args:
        volume: (D, H, W) = (z, y, x); what lies outside of it counts as 0.
        voxel_size, new_voxel_size: A.
        side: of the new cube in new voxels; where it reaches less far than the volume, the ends fold over.
        centre: (z, y, x) in voxels of the volume: what comes to the new cube's centre, (side - 1) / 2.

    Returns:
        (side, side, side) complex, in the order of np.fft.fftn; its inverse has the volume's values. Only what both
        voxels carry: zero from the Nyquist frequency of the coarser ones on, along each axis.
    """
    rows = [
        _fourier_rows(length, middle, voxel_size, new_voxel_size, side)
        for length, middle in zip(volume.shape, centre, strict=True)
    ]
    return _along_axes(volume, rows)


def fourier_resample(volume: np.ndarray, voxel_size: float, new_voxel_size: float, box: int) -> np.ndarray:
    """A cube (D, D, D) of voxels of one size (A) on `box` voxels of another about the same centre, float32.

    The inverse transform of `spectrum_at`, but that the mean is kept and fills what lies outside of the volume.
    """
    mean = volume.mean(dtype=np.float64)
    kernel = _kernel(volume.shape[0], voxel_size, new_voxel_size, box)
    return (_along_axes((volume - mean).astype(np.float32), [kernel] * 3) + mean).astype(np.float32)


def _fourier_rows(length: int, centre: float, voxel_size: float, new_voxel_size: float, side: int) -> np.ndarray:
    """The transform along one axis of `length` voxels: (side, length) complex."""
    frequency = np.fft.fftfreq(side, new_voxel_size)
    carried = np.abs(frequency) * 2 * max(voxel_size, new_voxel_size) < 1 - 1e-9
    place = (np.arange(length) - centre) * voxel_size
    rows = np.exp(-2j * np.pi * (np.outer(frequency, place) + frequency[:, None] * new_voxel_size * (side - 1) / 2))
    return rows * carried[:, None] * (voxel_size / new_voxel_size)


def resample_about(
    volume: np.ndarray, voxel_size: float, new_voxel_size: float, box: int, centre: Sequence[float]
) -> np.ndarray:
    """As `fourier_resample`, for a volume (D, H, W) of any shape and about any place in it.

    Args:
        centre: (z, y, x) in voxels of the volume, whole or not: what comes to the cube's centre, (box - 1) / 2.
    """
    mean = volume.mean(dtype=np.float64)
    kernels = [
        _centred_kernel(length, middle, voxel_size, new_voxel_size, box)
        for length, middle in zip(volume.shape, centre, strict=True)
    ]
    return (_along_axes((volume - mean).astype(np.float32), kernels) + mean).astype(np.float32)


@lru_cache(maxsize=16)
def _kernel(length: int, voxel_size: float, new_voxel_size: float, box: int) -> np.ndarray:
    """`_centred_kernel` about an axis's own centre; it is kept, as many volumes have it."""
    return _centred_kernel(length, (length - 1) / 2, voxel_size, new_voxel_size, box)


def _centred_kernel(length: int, centre: float, voxel_size: float, new_voxel_size: float, box: int) -> np.ndarray:
    """The transform along one axis and back: what each new voxel takes of each old one, (box, length) float32."""
    reach = 2 * max(centre + 0.5, length - 0.5 - centre)  # as far as the volume: no ends fold over
    side = int(np.ceil(reach * voxel_size / new_voxel_size - 1e-6))
    side += (side - box) % 2
    kernel = np.fft.ifft(_fourier_rows(length, centre, voxel_size, new_voxel_size, side), axis=0).real
    outside, surplus = max(0, box - side) // 2, max(0, side - box) // 2
    return np.pad(kernel[surplus : side - surplus], ((outside, outside), (0, 0))).astype(np.float32)


def _along_axes(volume: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Each matrix (new, old) applied along its axis of a volume."""
    for axis, matrix in enumerate(matrices):
        volume = np.moveaxis(np.tensordot(matrix, volume, (1, axis)), 0, axis)
    return volume


def fit_box(volume: np.ndarray, box: int) -> np.ndarray:
    """A cube (D, D, D) cut, or filled up with its mean, to (box, box, box) about its centre.

    The centre stays where both sides are even or both odd; else voxel D // 2 becomes voxel box // 2.
    """
    side = volume.shape[0]
    if side >= box:
        start = side // 2 - box // 2
        return volume[(slice(start, start + box),) * 3]
    before = box // 2 - side // 2
    return np.pad(volume, (before, box - side - before), constant_values=volume.mean())


def regrid(volume: np.ndarray, voxel_size: float, new_voxel_size: float, box: int) -> np.ndarray:
    """A cube (D, D, D) of voxels of one size (A) on `box` voxels of another; unchanged where nothing differs."""
    if same_voxel_size(voxel_size, new_voxel_size):
        return fit_box(volume, box)
    return fourier_resample(volume, voxel_size, new_voxel_size, box)
