"""One volume: a file, or volume N of a stack (`N@stack.mrcs`), read strictly as (z, y, x) float32, and written."""

import math
import os
import re
import threading
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG

import mrcfile
import numpy as np

from common.cli import InputError
from common.files import atomic_path
from loader.mrc import Header, read_header

MRC_SUFFIXES = (".mrc", ".mrcs", ".map", ".rec", ".mrc.gz", ".map.gz", ".mrcs.gz")
FLAT = "2-D stacks of particles, as RELION 5 and WarpTools write them, are no volumes: give extract.py the coordinates"
FLAT += " and the tomograms"
MOST_KEPT = 2**25  # bytes, of what a thread keeps to work in: two arrays of 128^3
_own = threading.local()  # what each thread keeps
CENTRE = 0.12  # of the box: standard deviation of the Gaussian that stands for a particle's place
SAMPLES = 16  # along each axis of a smoothed cube; the Gaussian's standard deviation is their distance


def split_address(address: str) -> tuple[int | None, Path]:
    """`N@stack.mrcs` -> (N, path), N from 1; a plain path -> (None, path)."""
    path = address_path(address)
    number = address[: len(address) - len(path)].rstrip("@")
    return (int(number) if number else None), Path(path)


def address_path(address: str) -> str:
    """`N@stack.mrcs` -> `stack.mrcs`; a plain path as it is."""
    match = re.fullmatch(r"\d+@(.+)", address) if "@" in address else None
    return match[1] if match else address


def join_address(number: int | None, path: Path | str) -> str:
    """The inverse of `split_address`."""
    return str(path) if number is None else f"{number}@{path}"


def read_volume(address: str | Path) -> tuple[np.ndarray, float | None]:
    """Read one subtomogram or map.

    Args:
        address: an MRC file, plain or compressed, or `N@stack.mrcs` for volume N (from 1) of a 4-D volume stack.

    Returns:
        The volume, float32, (D, H, W) = (z, y, x), and its voxel size in A, None where the header holds 0.

    Raises:
        InputError: no such file; not an MRC file, or truncated; not one 3-D volume; non-finite values; voxels that
            are not cubes. The message names the file.
    """
    number, path = split_address(str(address))
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        state = None
    if state is None or not S_ISREG(state.st_mode):
        raise InputError(f"{path if str(address) else 'an empty name'}: no such file")
    header = _header(str(path), state.st_size, state.st_mtime_ns) if number is not None else read_header(path)
    data = _take(header, number)
    if np.iscomplexobj(data):
        raise InputError(f"{path}: holds complex values (a Fourier transform); expected a real-space volume")
    volume = np.ascontiguousarray(np.transpose(_widened(data), header.axes), dtype=np.float32)
    if not np.isfinite(volume).all():
        raise InputError(f"{path}: {np.count_nonzero(~np.isfinite(volume))} values are NaN or infinite; expected none")
    return volume, cubic_voxel_size(header.voxel, path)


@lru_cache(maxsize=256)
def _header(name: str, size: int, changed: int) -> Header:
    """The header of a stack, kept while the file has that size in bytes and that time of its last change in ns."""
    return read_header(Path(name))


def _widened(data: np.ndarray) -> np.ndarray:
    """Values of half precision as float32, from a table, which is quicker than NumPy; others as they are."""
    return _every_half().take(data.view(np.uint16)) if data.dtype == np.float16 else data


@lru_cache(maxsize=1)
def _every_half() -> np.ndarray:
    """The float32 of every 16 bits that are a float16, (65536,)."""
    return np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


def _take(header: Header, number: int | None) -> np.ndarray:
    """The 3-D array that the address names, as it lies in the file."""
    path, shape = header.path, header.shape
    if number is None:
        # Many programs leave "image stack" (ispg 0) in a volume's header: cubes pass, unless named .mrcs.
        is_named_stack = path.name.lower().endswith((".mrcs", ".mrcs.gz", ".mrcs.bz2"))
        is_stack = header.ispg == 0 and len(shape) == 3 and (is_named_stack or len(set(shape)) > 1)
        if len(shape) != 3 or is_stack:
            kind, hint = (", an image stack", FLAT) if is_stack else ("", "N@stack.mrcs is one of many")
            raise InputError(f"{path}: holds an array of shape {shape}{kind}; expected one 3-D volume ({hint})")
        return header.read(0, shape)
    if len(shape) != 4:
        raise InputError(f"{path}: holds an array of shape {shape}; '{number}@' needs a 4-D volume stack ({FLAT})")
    if not 1 <= number <= shape[0]:
        raise InputError(f"{path}: has volumes 1 to {shape[0]}; asked for {number}")
    return header.read((number - 1) * math.prod(shape[1:]), shape[1:])


def cubic_voxel_size(voxel: np.ndarray, path: Path) -> float | None:
    """One edge length for a cubic voxel, A; None for unknown."""
    if not voxel.any():
        return None
    if not np.isfinite(voxel).all() or voxel.min() <= 0 or voxel.max() > 1.01 * voxel.min():
        raise InputError(f"{path}: voxels of {voxel.tolist()} A (x, y, z); expected cubes")
    return float(voxel[0])


def normalise(volume: np.ndarray, name: str | Path) -> np.ndarray:
    """The volume (D, H, W) with mean 0 and standard deviation 1.

    Raises InputError for a constant volume; `name` is the file in its message.
    """
    apart, squares = _two_arrays(volume.shape)
    mean = volume.mean(dtype=np.float64)
    np.subtract(volume, mean, out=apart)
    std = np.sqrt(np.multiply(apart, apart, out=squares).mean())
    if std <= 1e-6 * abs(mean) or std == 0:
        raise InputError(f"{name}: the volume is constant ({mean:g}); expected a subtomogram")
    return np.divide(apart, std, out=np.empty(volume.shape, np.float32), casting="same_kind")


def _two_arrays(shape: tuple[int, ...]) -> np.ndarray:
    """Two float64 arrays to work in, (2, *shape), which the next call in the same thread gives again.

    The system takes longer to give the memory of new ones than all of `normalise` takes.
    """
    arrays = getattr(_own, "arrays", None)
    if arrays is None or arrays.shape[1:] != shape:
        arrays = np.empty((2, *shape))
        if arrays.nbytes <= MOST_KEPT:
            _own.arrays = arrays
    return arrays


def central_brightness(volume: np.ndarray) -> float:
    """How much brighter the centre of a cube (D, D, D) is than the cube, in standard errors of white noise.

    Well above 0 for a bright particle in the middle, as far below for a dark one, within a few of 0 for noise alone.

    Args:
        volume: mean 0, standard deviation 1.
    """
    return float(np.vdot(_central_weights(volume.shape[0]), volume))


def outer_spread(volume: np.ndarray) -> float:
    """The standard deviation outside of the sphere that a cube (D, D, D) encloses: how much of a volume is noise.

    Near 1 for a noisy particle in the middle, lower for a clear one; its neighbours count as noise.

    Args:
        volume: mean 0, standard deviation 1.
    """
    outside = volume.ravel().take(_outside(volume.shape[0]))
    outside -= outside.mean()
    return float(np.sqrt(np.vdot(outside, outside) / len(outside)))


def skewness(volume: np.ndarray) -> float:
    """How far a cube (D, D, D), smoothed, is skewed to bright values, in standard errors.

    Whatever is dense fills the smaller part of a box, be it compact, a shell, a tube or a membrane: above 0 where it is
    bright, below 0 where it is dark, within a few of 0 for noise. The standard error is that of Gaussian noise with the
    volume's own spectrum, of autocorrelation r: the square root of 6 sum(r^3) / N.

    Args:
        volume: not constant.
    """
    side, weights = volume.shape[0], _smoothing(volume.shape[0])
    smooth = (weights @ volume.reshape(side, -1)).reshape(-1, side, side)  # (D, D, D) -> (S, D, D)
    smooth = weights @ smooth @ weights.T  # (S, D, D) -> (S, S, S)
    smooth = smooth - smooth.mean()
    second, third = _moments(smooth)
    transform = np.fft.rfftn(smooth)
    products = np.fft.irfftn(transform.real**2 + transform.imag**2, smooth.shape, (0, 1, 2))  # r times `second`
    return third / second**1.5 * smooth.size / (6 * max(1.0, _moments(products)[1] / second**3)) ** 0.5


def _moments(values: np.ndarray) -> tuple[float, float]:
    """The sums of squares and of cubes; NumPy's own power takes ten times as long."""
    values = values.ravel()
    squares = values * values
    return float(squares.sum(dtype=np.float64)), float(np.dot(squares, values))


@lru_cache(maxsize=4)
def _smoothing(side: int) -> np.ndarray:
    """Gaussians about evenly spaced places on an axis, periodic, each of sum 1: (SAMPLES or fewer, side) float32."""
    samples = min(SAMPLES, side)
    places = (np.arange(samples) + 0.5) * side / samples - 0.5
    apart = np.abs(places[:, None] - np.arange(side))
    apart = np.minimum(apart, side - apart) * samples / side
    weights = np.exp(-0.5 * apart**2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=4)
def _outside(side: int) -> np.ndarray:
    """Which voxels of a cube of a side, flattened, are outside of the sphere that it encloses: their numbers, (n,)."""
    squares = (np.arange(side) - (side - 1) / 2) ** 2
    return np.flatnonzero(squares[:, None, None] + squares[None, :, None] + squares > (side / 2) ** 2)


@lru_cache(maxsize=4)
def _central_weights(side: int) -> np.ndarray:
    """A Gaussian about the centre, of mean 0 and length 1: (side, side, side) float32."""
    squares = ((np.arange(side) - (side - 1) / 2) / (CENTRE * side)) ** 2
    weights = np.exp(-0.5 * (squares[:, None, None] + squares[None, :, None] + squares))
    weights -= weights.mean()
    return (weights / np.linalg.norm(weights)).astype(np.float32)


def write_volume(path: Path | str, volume: np.ndarray, voxel_size: float) -> None:
    """Write a volume (z, y, x) with its voxel size in A as MRC; the same content gives the same bytes."""
    with atomic_path(path) as temporary, mrcfile.new(temporary) as mrc:
        mrc.set_data(volume)
        mrc.voxel_size = voxel_size
        mrc.header.label[0] = "Created by mrcfile.py"  # in place of mrcfile's time stamp
