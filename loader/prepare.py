"""Volumes that no one has labelled: which they are, and each brought to what a checkpoint was trained on."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from common.cli import InputError
from loader.columns import INPUT, MASK_FOLDER, VOXEL_SIZE
from loader.sources import absolute, mrc_files, read_csv
from loader.volume import MRC_SUFFIXES, central_brightness, normalise, read_volume, split_address
from physics.grid import same_voxel_size
from physics.resample import regrid

CONTRASTS = ("bright", "dark")  # of the particles in the files; the network always sees bright ones
NORMALISATION = "mean 0, standard deviation 1 of each volume"
MOST_APART = 4  # times: a cube that much smaller, or of voxels that much coarser, is a mistake


@dataclass(frozen=True)
class Preprocessing:
    """How the volumes of a training set came to be what the network sees; a checkpoint keeps it, as a dictionary."""

    box: int  # voxels, side of the cube
    voxel_size: float | None  # A; None where it is unknown
    contrast: str = "bright"  # of the particles in the files: one of CONTRASTS
    tilt_range: tuple[float, float] | None = None  # degrees about y; None: unknown, or not the same
    normalisation: str = NORMALISATION

    @classmethod
    def read(cls, content: dict) -> "Preprocessing":
        """From a checkpoint's dictionary."""
        tilt_range = content["tilt_range"]
        return cls(**{**content, "tilt_range": None if tilt_range is None else tuple(tilt_range)})

    def content(self) -> dict:
        """For a checkpoint: plain types alone."""
        return asdict(self) | {"tilt_range": None if self.tilt_range is None else list(self.tilt_range)}


@dataclass(frozen=True)
class Input:
    """One volume to read: a file or `N@stack.mrcs`, and its voxel size in A where a table states one."""

    address: str
    voxel_size: float | None = None


def find_inputs(names: Sequence[str]) -> list[Input]:
    """The volumes that a list of names stands for, in its order.

    Args:
        names: MRC files, `N@stack.mrcs`, folders (their MRC files by name; where a folder itself has none, those of all
            folders below it by path, less folders of masks), and CSV files with the column Input Data, whose relative
            paths are relative to the CSV's own folder, and Voxel Size if known.

    Raises:
        InputError: nothing given; no such file; a folder without MRC files; a CSV without the column or without rows.
    """
    found: list[Input] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found += [Input(str(file)) for file in _folder(path)]
        elif path.suffix.lower() == ".csv":
            found += _table(path)
        else:
            _check_file(name, "expected an MRC file, N@stack.mrcs, a folder or a CSV file")
            found.append(Input(name))
    if not found:
        raise InputError("no input: expected MRC files, N@stack.mrcs, a folder or a CSV file")
    return found


def _folder(folder: Path) -> list[Path]:
    """The MRC files in a folder, or else below it."""
    files = mrc_files(folder)
    if not files:
        below = sorted(path for path in folder.rglob("*") if path.is_dir() and path.name != MASK_FOLDER)
        files = [file for path in below for file in mrc_files(path)]
    if not files:
        raise InputError(f"{folder}: neither it nor a folder below it holds an MRC file ({', '.join(MRC_SUFFIXES)})")
    return files


def _table(path: Path) -> list[Input]:
    """The rows of a CSV file."""
    rows = read_csv(path, required=(INPUT,))
    if not len(rows):
        raise InputError(f"{path}: holds no row; expected one a volume")
    sizes = rows[VOXEL_SIZE] if VOXEL_SIZE in rows else [""] * len(rows)
    found = []
    for line, (name, size) in enumerate(zip(rows[INPUT], sizes, strict=True), start=2):  # line 1 is the header
        address = absolute(name, path.parent) if name else ""
        _check_file(address, f"named in {path}, line {line}")
        found.append(Input(address, _voxel_size(size, f"{path}, line {line}")))
    return found


def _voxel_size(text: str, place: str) -> float | None:
    """A voxel size in A; None where it is empty or 0: unknown."""
    try:
        size = float(text or 0)
    except ValueError:
        size = math.nan
    if not 0 <= size < math.inf:
        raise InputError(f"{place}: {VOXEL_SIZE} {text!r}; expected a number in A")
    return size or None


def _check_file(address: str, expected: str) -> None:
    if not address or not split_address(address)[1].is_file():
        raise InputError(f"{address or 'an empty name'}: no such file; {expected}")


@dataclass(frozen=True)
class Prepared:
    """A volume as the network wants it.

    image: (D, H, W) float32, mean 0 and standard deviation 1, particle bright, at the checkpoint's box and voxel size.
    brightness: of the centre, as `central_brightness`, after the contrast was applied.
    note: what was done to it, or had to be assumed; empty where it came as the training volumes did.
    """

    image: np.ndarray
    brightness: float
    note: str


def prepare(given: Input, preprocessing: Preprocessing) -> Prepared:
    """Read a volume and repeat a checkpoint's preprocessing: voxel size, box, contrast, normalisation.

    Raises InputError as read_volume does, and for a volume that is not a cube or is constant.
    """
    volume, voxel_size = read_volume(given.address)
    if len(set(volume.shape)) != 1:
        raise InputError(f"{given.address}: a volume of {volume.shape} voxels (z, y, x); expected a cube")
    voxel_size = given.voxel_size or voxel_size
    side, box, expected = volume.shape[0], preprocessing.box, preprocessing.voxel_size
    if voxel_size and expected and not _comparable(side, voxel_size, box, expected):
        raise InputError(
            f"{given.address}: {side} voxels of {voxel_size:g} A; expected something like the {box} of {expected:g} A "
            "of the training volumes; where the header's voxel size is wrong, give --voxel-size"
        )
    note = _note(voxel_size, expected, side, box)
    volume = regrid(volume, voxel_size or expected or 1.0, expected or voxel_size or 1.0, box)
    if preprocessing.contrast == "dark":
        volume = -volume
    image = normalise(volume, given.address)
    return Prepared(image, central_brightness(image), note)


def _comparable(side: int, voxel_size: float, box: int, expected: float) -> bool:
    """Whether a cube is not too small, nor its voxels too coarse (A), to stand for one of `box` voxels."""
    return side * voxel_size >= box * expected / MOST_APART and voxel_size <= expected * MOST_APART


def _note(voxel_size: float | None, expected: float | None, side: int, box: int) -> str:
    """What happens to a volume of `side` voxels of a size (A) for a checkpoint of `box` voxels of `expected` A."""
    notes = []
    resampled = voxel_size and expected and not same_voxel_size(voxel_size, expected)
    if expected is None:
        found = f"{voxel_size:g} A" if voxel_size else "unknown"
        notes.append(f"voxel size {found}, the checkpoint's unknown: taken as the same")
    elif voxel_size is None:
        notes.append(f"voxel size unknown: taken as the checkpoint's {expected:g} A")
    elif resampled:
        notes.append(f"{voxel_size:g} A resampled to {expected:g} A")
    if resampled or side != box:
        notes.append(f"box {side} -> {box}")
    return ", ".join(notes)
