"""Tomograms, MRC or OME-Zarr: what their headers say, their names as other programs write them, and their voxels.

Arrays are (z, y, x) whatever the order in the file. Nothing is mirrored: a tomogram reconstructed with the wrong
handedness gives mirror images of its particles, and no header tells.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.cli import InputError, named
from loader import mrc
from loader.sources import mrc_files
from loader.star import read_star
from loader.volume import FLAT, cubic_voxel_size
from physics.grid import same_voxel_size

if TYPE_CHECKING:
    import zarr

STACK_SUFFIXES = (".mrcs", ".st", ".ali")  # of images, not of a volume
VOLUME_STACKS = 401  # the header's ispg from which a file holds several volumes
# what programs put around a tilt series' name, taken off until nothing is left to take
ENDINGS = re.compile(
    r"(:mrcs?|\.(tomostar|mrcs?|rec|st|ali|map|zarr|ome|gz|bz2)|_\d+(\.\d+)?apx|_vol|_rec)$", re.IGNORECASE
)
APX = re.compile(r"_(\d+(?:\.\d+)?)Apx", re.IGNORECASE)
SPACING = re.compile(r"VoxelSpacing(\d+(?:\.\d+)?)")  # a folder of copick's; the one above it is the run
UNITS = {"angstrom": 1.0, "nanometer": 10.0, "picometer": 0.01, "micrometer": 1e4, "millimeter": 1e7, "meter": 1e10}
ZARR_ERRORS = (
    ValueError,
    KeyError,
    OSError,
    TypeError,
    IndexError,
    AttributeError,
    RuntimeError,
)  # zarr's own are ValueErrors


@dataclass(frozen=True)
class Tomogram:
    """What a tomogram's header and, where it was listed in RELION's tomograms.star, its row there say.

    shape: voxels (z, y, x). voxel_size: A. full_shape: of the tomogram at the pixel size of its tilt series,
    tilt_series_size in A; None where no tomograms.star told.
    """

    path: Path
    name: str
    shape: tuple[int, int, int]
    voxel_size: float
    full_shape: tuple[float, float, float] | None = None
    tilt_series_size: float | None = None

    @property
    def centre(self) -> np.ndarray:
        """RELION's centre, size / 2, (z, y, x) in voxels of this tomogram."""
        if self.full_shape is None or self.tilt_series_size is None:
            return np.array(self.shape) / 2
        return np.array(self.full_shape) / 2 * self.tilt_series_size / self.voxel_size


@dataclass(frozen=True)
class Unread:
    """A tomogram that cannot be read, and why."""

    path: Path
    name: str
    reason: str


@dataclass
class Found:
    """What a list of tomograms comes to, as it is read."""

    tomograms: list[Tomogram] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def header(self, path: Path, name: str) -> tuple[tuple[int, int, int], float | None] | None:
        """What `read_header` says; None where it cannot be read, which is noted."""
        try:
            return read_header(path)
        except InputError as error:
            self.unread.append(Unread(path, name, str(error)))
            return None


def plain_name(name: str) -> str:
    """The name of a tilt series without what programs put around it.

    `rec_TS_01.mrc`, `TS_01.tomostar`, `x/TS_01_10.00Apx.mrc`, `TS_01_Vol.mrc` and `TS_01` are one.
    """
    name = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    while True:
        shorter = ENDINGS.sub("", name)
        if shorter in (name, ""):
            break
        name = shorter
    return name[4:] if name.lower().startswith("rec_") and len(name) > 4 else name


def tomogram_name(path: Path) -> str:
    """The name of a tomogram's file; in a folder of copick's, the name of its run."""
    return path.parent.parent.name if SPACING.fullmatch(path.parent.name) else plain_name(path.name)


def find_tomograms(names: Sequence[str], voxel_size: float) -> Found:
    """The tomograms that a list of names stands for, those that cannot be read, and warnings.

    Args:
        names: MRC files, OME-Zarr folders, folders with these in them, or RELION's tomograms.star.
        voxel_size: A, in the place of what the headers say; 0: what they say.

    Raises InputError for what is none of these, where none can be read, and for two tomograms of one name.
    """
    found = Found()
    for name in names:
        path = Path(name)
        if path.suffix.lower() == ".star":
            _listed(path, voxel_size, found)
            continue
        for file in _files(path):
            if header := found.header(file, tomogram_name(file)):
                size = _size(file, header[1], voxel_size, found.warnings)
                found.tomograms.append(Tomogram(file, tomogram_name(file), header[0], size))
    if found.unread and not found.tomograms:
        raise InputError(found.unread[0].reason)
    every = [*found.tomograms, *found.unread]
    twice = [name for name, count in Counter(tomogram.name for tomogram in every).items() if count > 1]
    if twice:
        paths = ", ".join(str(tomogram.path) for tomogram in every if tomogram.name == twice[0])
        raise InputError(f"{paths}: tomograms of one name, {twice[0]}; expected one of each")
    return found


def _files(path: Path) -> list[Path]:
    """A tomogram, or those in a folder, where stacks may lie beside them."""
    if is_zarr(path) or path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; expected tomograms")
    volumes = [file for file in mrc_files(path) if file.suffix.lower() not in STACK_SUFFIXES]
    files = sorted([*volumes, *(folder for folder in path.iterdir() if is_zarr(folder))])
    if not files:
        advice = f" ({FLAT})" if any(file.suffix.lower() in STACK_SUFFIXES for file in path.iterdir()) else ""
        raise InputError(
            f"{path}: holds neither an MRC file nor an OME-Zarr folder, but {kinds(path)}; expected tomograms{advice}"
        )
    return files


def kinds(folder: Path) -> str:
    """What a folder holds: how many files of which suffix."""
    counts = Counter(file.suffix.lower() or file.name for file in folder.iterdir())
    return named(f"{count} {kind}" for kind, count in counts.most_common()) or "nothing"


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr group, of either version."""
    return any((path / mark).is_file() for mark in (".zgroup", "zarr.json"))


def _size(path: Path, header: float | None, given: float, warnings: list[str]) -> float:
    """The voxel size to go by, A; where the header's is another than what else tells it, that is a warning."""
    told = APX.search(path.name) or SPACING.fullmatch(path.parent.name)
    expected = given or (float(told[1]) if told else None)
    if header and expected and not same_voxel_size(header, expected):
        source = "--voxel-size" if given else "its name"
        taken = "--voxel-size" if given else "the header"
        warnings.append(f"{path}: voxels of {header:g} A by the header, {expected:g} A by {source}; taken from {taken}")
    size = given or header or expected
    if not size:
        raise InputError(f"{path}: its header states no voxel size; give --voxel-size")
    return size


def _listed(star: Path, voxel_size: float, found: Found) -> None:
    """Add the tomograms of RELION's tomograms.star, with their full size."""
    import pandas as pd

    label, sizes = "rlnTomoReconstructedTomogram", ("rlnTomoSizeZ", "rlnTomoSizeY", "rlnTomoSizeX")
    needed = ("rlnTomoName", label, "rlnTomoTiltSeriesPixelSize", *sizes)
    tables = [block for block in read_star(star).values() if isinstance(block, pd.DataFrame)]
    table = next((block for block in tables if label in block), None)
    if table is None or not set(needed) <= set(table.columns):
        there = ", ".join(map(str, table.columns if table is not None else tables[0].columns if tables else []))
        raise InputError(f"{star}: expected a table of tomograms with {', '.join(needed)}; found {there or 'none'}")
    for number, row in enumerate(table.to_dict("records"), start=1):
        try:
            full = tuple(float(row[name]) for name in sizes)
            tilt_series = float(row["rlnTomoTiltSeriesPixelSize"])
            stated = float(row.get("rlnTomoTomogramBinning", 0))
        except ValueError as error:
            raise InputError(f"{star}, row {number}: {error}; expected numbers") from error
        name = plain_name(row["rlnTomoName"])
        try:
            file = _from_root(row[label], star)
        except InputError as error:
            found.unread.append(Unread(star.resolve().parent / row[label], name, f"{star}, row {number}: {error}"))
            continue
        header = found.header(file, name)
        if header is None:
            continue
        shape, size = header[0], _size(file, header[1], voxel_size, found.warnings)
        if stated > 0 and tilt_series > 0 and not same_voxel_size(size / tilt_series, stated):
            found.warnings.append(
                f"{file}: binning {size / tilt_series:.4g} by its voxel size, {stated:g} by {star}; is the voxel size "
                "right (--voxel-size)?"
            )
        expected = np.round(np.array(full) * tilt_series / size)
        if np.abs(expected - shape).max() > 1:
            found.warnings.append(
                f"{file}: {shape} voxels (z, y, x) of {size:g} A; by {star} they are {tuple(map(int, expected))}: is "
                "it the tomogram that was picked on, and the voxel size right (--voxel-size)?"
            )
        found.tomograms.append(Tomogram(file, name, shape, size, full, tilt_series))


def _from_root(name: str, star: Path) -> Path:
    """A path of a RELION project, which is relative to the project's root: a folder above the STAR file, or here."""
    own = star.resolve().parent
    tried = [own, *own.parents, Path.cwd()]
    for root in tried:
        if os.path.exists(root / name):
            return root / name
    raise InputError(f"{name}: no such file in {own}, the folders above it, or {Path.cwd()}")


def read_header(path: Path) -> tuple[tuple[int, int, int], float | None]:
    """Shape (z, y, x) and voxel size in A, None where it is unknown; raises InputError for what is no tomogram."""
    if is_zarr(path):
        array, _, size = _zarr_array(path)
        return array, size
    header = mrc.read_header(path)
    is_stack = path.suffix.lower() in STACK_SUFFIXES or header.ispg >= VOLUME_STACKS
    if is_stack or len(header.shape) != 3 or min(header.shape) < 2:
        raise InputError(f"{path}: a stack of images or of volumes; expected a tomogram ({FLAT})")
    z, y, x = (header.shape[axis] for axis in header.axes)
    return (z, y, x), cubic_voxel_size(header.voxel, path)


@contextmanager
def open_voxels(tomogram: Tomogram, scratch: Path) -> Iterator[np.ndarray]:
    """The voxels (z, y, x) of a tomogram, memory-mapped.

    A compressed MRC file is read whole. OME-Zarr is first unpacked, chunk by chunk, into a file in the folder
    `scratch`, which is gone from there at once: its chunks are large, and each holds many particles.
    """
    if is_zarr(tomogram.path):
        with tempfile.TemporaryFile(dir=scratch) as file:
            try:
                voxels = _unpacked(tomogram.path, file)
            except ZARR_ERRORS as error:
                raise _not_zarr(tomogram.path, error) from error
            yield voxels
    else:
        header = mrc.read_header(tomogram.path)
        if header.dtype.kind == "c":
            raise InputError(f"{tomogram.path}: holds complex values (a Fourier transform); expected a tomogram")
        yield np.transpose(header.mapped(), header.axes)


def _zarr_array(path: Path) -> tuple[tuple[int, int, int], tuple[zarr.Array, list[int]], float | None]:
    """Shape (z, y, x), the finest level with the places of z, y and x among its axes, and the voxel size in A."""
    import zarr  # here: MRC files do without

    try:
        group = zarr.open_group(path, mode="r")
        attributes = group.attrs.asdict()
        image = attributes.get("ome", attributes)["multiscales"][0]  # version 0.5, or 0.4
        level = image["datasets"][0]
        array = group[level["path"]]
        names = [axis["name"].lower() for axis in image["axes"]]
        axes = [names.index(axis) for axis in "zyx"]
        scales = [step["scale"] for step in _steps(level) + _steps(image) if step["type"] == "scale"]
        scale = np.prod([np.array(scale, dtype=float) for scale in scales], axis=0) if scales else np.zeros(len(names))
        units = {image["axes"][axis].get("unit") for axis in axes}
        others = [length for axis, length in enumerate(array.shape) if axis not in axes]
    except ZARR_ERRORS as error:
        raise _not_zarr(path, error) from error
    if any(length != 1 for length in others) or len(names) != array.ndim:
        raise InputError(f"{path}: axes {', '.join(names)} of {array.shape}; expected z, y, x, any other of length 1")
    unit = next(iter(units)) if len(units) == 1 else None
    factor = UNITS.get(unit or "", 0.0)
    size = cubic_voxel_size(scale[axes[::-1]] * factor, path) if factor else None
    z, y, x = (array.shape[axis] for axis in axes)
    return (z, y, x), (array, axes), size


def _not_zarr(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a readable OME-Zarr image ({type(error).__name__}: {error})")


def _steps(holder: dict) -> list[dict]:
    return holder.get("coordinateTransformations", [])


def _unpacked(path: Path, file: tempfile._TemporaryFileWrapper) -> np.ndarray:
    """The voxels (z, y, x) of an OME-Zarr image in a memory-mapped file."""
    shape, (array, axes), _ = _zarr_array(path)
    voxels = np.memmap(file, dtype=array.dtype, mode="w+", shape=shape)
    steps = [array.chunks[axis] for axis in axes]
    starts = (range(0, length, step) for length, step in zip(shape, steps, strict=True))
    for corner in itertools.product(*starts):
        place = tuple(slice(start, start + step) for start, step in zip(corner, steps, strict=True))
        wanted = [slice(0, 1)] * array.ndim
        for axis, part in zip(axes, place, strict=True):
            wanted[axis] = part
        chunk = np.moveaxis(np.asarray(array[tuple(wanted)]), axes, (-3, -2, -1))
        voxels[place] = chunk.reshape(chunk.shape[-3:])
    return voxels
