"""What the programs of the field mean by a particle's place: one entry per flavour of coordinates.

docs/coordinates.md has the same in words, with the sources. A position here is (z, y, x); 0 is the centre of the first
voxel, unless it counts from the tomogram's centre, which is RELION's: size / 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.cli import InputError
from loader.columns import LABEL, TOMOGRAM
from loader.star import Block

if TYPE_CHECKING:
    import pandas as pd

VOXELS, ANGSTROM, SHARE = "voxels", "A", "shares of the tomogram's size"
OWN, TILT_SERIES = "the tomogram", "the tilt series"  # whose voxels they are where no pixel size is told
XYZ = ("X", "Y", "Z")
COORDINATE = tuple(f"rlnCoordinate{axis}" for axis in XYZ)
CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in XYZ)
SUBTOMOGRAM = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
NAMES = ("rlnTomoName", "rlnMicrographName", "wrpSourceName")  # of the tomogram, in this order
SCORES = ("rlnLCCmax", "ptmLCCmax")  # of pytom-match-pick
PREDICTED, GIVEN_CLASS = "lmcclClass", "lmcclGivenClassNumber"  # by predict.py: its class, and what was given before
FLAT = {"rlnTomoSubTomosAre2DStacks": 1, "rlnImageDimensionality": 2}  # values of labels that say so of the images
WHOLE = re.compile(r"([+-]?\d+)(\.0*)?")
NO_CLASS = ("", "nan", "<na>", "none")  # how programs write a missing number, in any case; starfile: <NA>


@dataclass(frozen=True)
class Flavour:
    """How one program states places.

    sizes: the labels that may state the pixel size of the coordinates, the first that is there counts; of the particles
        or of their optics group. A pair is divided and multiplied by 10,000, as RELION 3.0 has it.
    """

    program: str
    labels: tuple[str, ...]
    unit: str = VOXELS
    centred: bool = False
    sizes: tuple[str | tuple[str, str], ...] = ()
    default: str = OWN

    @property
    def rule(self) -> str:
        """Where the place 0 is."""
        return "0 is the tomogram's centre, size / 2" if self.centred else "0 is the centre of the first voxel"


DETECTOR = ("rlnDetectorPixelSize", "rlnMagnification")
OPTICS_SIZES = ("rlnMicrographPixelSize", "rlnImagePixelSize", "rlnMicrographOriginalPixelSize")
TILT_SIZES = ("rlnTomoTiltSeriesPixelSize", "rlnMicrographOriginalPixelSize")
FLAVOURS = {
    "relion3": Flavour("RELION 3.0, or input of WarpTools", COORDINATE, sizes=("rlnPixelSize", DETECTOR)),
    "relion31": Flavour("RELION 3.1", COORDINATE, sizes=("rlnPixelSize", *OPTICS_SIZES)),
    "relion4": Flavour("RELION 4", COORDINATE, sizes=TILT_SIZES, default=TILT_SERIES),
    "relion5": Flavour("RELION 5", CENTRED, unit=ANGSTROM, centred=True),
    "warp-match": Flavour("template matching of WarpTools", COORDINATE, unit=SHARE),
    "warp-export": Flavour("export of WarpTools", COORDINATE, sizes=("rlnPixelSize", "rlnImagePixelSize", DETECTOR)),
    "m": Flavour("M", ("wrpCoordinateX1", "wrpCoordinateY1", "wrpCoordinateZ1"), unit=ANGSTROM),
    "pytom": Flavour("pytom-match-pick", COORDINATE, sizes=("rlnDetectorPixelSize",)),
    "tomotwin": Flavour("TomoTwin", COORDINATE),
    "cryosiam": Flavour("CryoSiam", COORDINATE),
    "copick": Flavour("copick", ("x", "y", "z"), unit=ANGSTROM),
    "dynamo": Flavour("Dynamo", ("x", "y", "z"), sizes=("apix",)),
    "csv": Flavour("a CSV file", ("x", "y", "z")),
}


@dataclass(frozen=True)
class Picks:
    """The particles of one file of coordinates, N rows.

    table: the source's own columns as text. tomograms: (N,) the name of each row's tomogram as written, or empty.
    classes: (N,) the class of each row as text, or empty. positions: (N, 3) = (z, y, x) in the flavour's unit.
    shifts: (N, 3) in A, to be subtracted. pixel_size: (N,) A, of positions in voxels; NaN where it is not told.
    size_label: what told it. blocks: of a STAR file, all of them as text, the table's is named `block`.
    tilt_series_size: (N,) A, NaN where it is not told; None where positions are in pixels.
    """

    path: Path
    flavour: str
    table: pd.DataFrame
    tomograms: np.ndarray
    classes: np.ndarray
    positions: np.ndarray
    shifts: np.ndarray
    pixel_size: np.ndarray
    size_label: str = ""
    blocks: dict[str, Block] = field(default_factory=dict)
    block: str = ""
    tilt_series_size: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.table)


def star_flavour(table: pd.DataFrame, has_optics: bool) -> str:
    """The flavour of a table of particles by its labels and, for template matching of WarpTools, its values."""
    import pandas as pd

    has = set(table.columns).__contains__
    if has("wrpCoordinateX1") or has("wrpCoordinateX"):
        return "m"
    if has(CENTRED[0]):
        return "relion5"
    if has("rlnTomoVisibleFrames"):
        return "warp-export"
    if has("rlnTomoName"):
        return "relion4"
    if not has("rlnMicrographName"):
        return "tomotwin"
    if any(map(has, SCORES)):
        return "pytom"
    if has_optics:
        return "relion31"
    if has("rlnPixelSize") and has("rlnMagnification"):
        return "warp-export"
    values = table.reindex(columns=COORDINATE).apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if len(values) and (values >= 0).all() and (values <= 1).all():
        return "warp-match"
    if [label for label in table if label in COORDINATE] == list(COORDINATE[::-1]):
        return "cryosiam"
    return "relion3"


def class_label(table: pd.DataFrame) -> str:
    """The column of a STAR file's particles that tells their class; empty for none.

    What predict.py wrote into rlnClassNumber is no truth: only what it found there is.
    """
    label = GIVEN_CLASS if PREDICTED in table else "rlnClassNumber"
    return label if label in table else ""


def flat_images(blocks: dict[str, Block]) -> str:
    """The label and value by which a STAR file's images are 2-D, not volumes; empty where it says no such thing."""
    for block in blocks.values():
        for label, flat in FLAT.items():
            found = {block[label]} if isinstance(block, dict) and label in block else set(block.get(label, ()))
            if str(flat) in found:
                return f"{label} {flat}"
    return ""


def star_picks(path: Path, block: str, blocks: dict[str, Block], flavour: str, pixel_size: float) -> Picks:
    """The particles of a STAR file.

    Args:
        block: the name of the particles' block. pixel_size: A, in the place of what the file says; 0: what it says.

    Raises InputError as `positions`, `pixel_sizes` and `numbers` do.
    """
    table = blocks[block]
    joined = with_optics(table, blocks.get("optics"), path)
    sizes, told = pixel_sizes(joined, flavour, path, pixel_size)
    names = ("rlnMicrographName", "rlnTomoName") if flavour in ("relion31", "pytom") else NAMES
    label = next((name for name in names if name in table), None)
    places, shifts = _place(joined, flavour, sizes, path)
    nothing, of_class = np.full(len(table), ""), class_label(table)
    return Picks(
        path,
        flavour,
        table,
        nothing if label is None else table[label].to_numpy(str),
        class_names(table[of_class], path) if of_class else nothing,
        places,
        shifts,
        sizes,
        told,
        blocks,
        block,
        tilt_series_sizes(joined) if flavour == "relion5" else None,
    )


def table_picks(path: Path, table: pd.DataFrame, flavour: str, pixel_size: float) -> Picks:
    """The particles of a table with the columns x, y, z and, where known, `Tomogram` and `Actual Label`."""
    sizes, told = pixel_sizes(table, flavour, path, pixel_size)
    places, shifts = _place(table, flavour, sizes, path)
    nothing = np.full(len(table), "")
    tomograms, classes = (table[name].to_numpy(str) if name in table else nothing for name in (TOMOGRAM, LABEL))
    return Picks(path, flavour, table, tomograms, classes, places, shifts, sizes, told)


def class_names(values: pd.Series, path: Path) -> np.ndarray:
    """Class numbers as names: 3 -> class003; empty for one that is missing (NO_CLASS). (N,)."""
    found = {value: _class_name(value) for value in values.unique()}
    wrong = np.flatnonzero(values.isin([value for value, name in found.items() if name is None]))
    if len(wrong):
        text = f"{path}, row {wrong[0] + 1}: {values.name} {values.iloc[wrong[0]]!r}"
        raise InputError(f"{text}; expected a whole number, or nan where there is no class")
    return np.array([found[value] for value in values], dtype=str)


def _class_name(value: str) -> str | None:
    """The name of a class number, empty for a missing one, None for what is none."""
    match = WHOLE.fullmatch(value)
    return f"class{int(match[1]):03d}" if match else "" if value.lower() in NO_CLASS else None


def with_optics(table: pd.DataFrame, optics: Block | None, path: Path) -> pd.DataFrame:
    """The particles with the columns of their optics groups that they have not themselves."""
    import pandas as pd

    key = "rlnOpticsGroup"
    if not isinstance(optics, pd.DataFrame) or key not in optics or key not in table:
        return table
    groups = optics.drop_duplicates(key)
    lost = ~table[key].isin(groups[key])
    if lost.any():
        raise InputError(f"{path}: optics group {table[key][lost].iloc[0]} of the particles is not in data_optics")
    new = [label for label in groups if label not in table or label == key]
    return table.merge(groups[new], on=key, how="left", validate="many_to_one")


def pixel_sizes(table: pd.DataFrame, flavour: str, path: Path, given: float) -> tuple[np.ndarray, str]:
    """The pixel size of each row's coordinates, (N,) A, NaN where it is not told; and what told it."""
    if FLAVOURS[flavour].unit != VOXELS:
        if given:
            unit = FLAVOURS[flavour].unit
            raise InputError(f"{path}: --pixel-size {given:g}: coordinates of the {flavour} flavour are in {unit}")
        return np.full(len(table), np.nan), ""
    if given:
        return np.full(len(table), given), "--pixel-size"
    for label in FLAVOURS[flavour].sizes:
        labels = (label,) if isinstance(label, str) else label
        if all(name in table for name in labels):
            values = numbers(table, labels, path, unknown="nan")
            sizes = values[:, 0] if len(labels) == 1 else values[:, 0] / values[:, 1] * 1e4
            if (sizes > 0).all():
                return sizes, " / ".join(labels)
    return np.full(len(table), np.nan), ""


def tilt_series_sizes(table: pd.DataFrame) -> np.ndarray:
    """The pixel size of each row's tilt series, (N,) A, NaN where it is not told."""
    import pandas as pd

    values = table[TILT_SIZES[0]] if TILT_SIZES[0] in table else np.full(len(table), np.nan)
    sizes = np.asarray(pd.to_numeric(values, errors="coerce"), dtype=float)
    return np.where(sizes > 0, sizes, np.nan)


def _place(table: pd.DataFrame, flavour: str, sizes: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions (N, 3) in the flavour's unit and shifts (N, 3) in A, both (z, y, x)."""
    if flavour == "m":
        return _mean_over_time(table, path)[:, ::-1], np.zeros((len(table), 3))
    positions = numbers(table, FLAVOURS[flavour].labels, path)  # x, y, z
    shifts = np.zeros_like(positions)
    if flavour == "dynamo":
        positions = positions + numbers(table, ("dx", "dy", "dz"), path)
    in_pixels = tuple(f"rlnOrigin{axis}" for axis in XYZ)
    in_angstrom = tuple(f"rlnOrigin{axis}Angst" for axis in XYZ)
    if all(label in table for label in in_angstrom):
        shifts = numbers(table, in_angstrom, path)
    elif all(label in table for label in in_pixels):
        positions = positions - numbers(table, in_pixels, path)
    if flavour in ("relion4", "relion5") and all(label in table for label in SUBTOMOGRAM):
        from scipy.spatial.transform import Rotation  # here: most files need none

        turns = Rotation.from_euler("ZYZ", numbers(table, SUBTOMOGRAM, path), degrees=True)
        shifts = turns.inv().apply(shifts)
    return positions[:, ::-1], shifts[:, ::-1]


def _mean_over_time(table: pd.DataFrame, path: Path) -> np.ndarray:
    """M gives a place per time point: the mean (N, 3) = (x, y, z) over them."""
    groups = [[label for label in table if re.fullmatch(rf"wrpCoordinate{axis}\d*", label)] for axis in XYZ]
    if len({len(group) for group in groups}) > 1 or not groups[0]:
        found = ", ".join(f"{len(group)} of {axis}" for group, axis in zip(groups, XYZ, strict=True))
        raise InputError(f"{path}: columns wrpCoordinate: {found}; expected as many of X, Y and Z")
    return np.stack([numbers(table, group, path).mean(axis=1) for group in groups], axis=1)


def numbers(
    table: pd.DataFrame, labels: tuple[str, ...] | list[str], path: Path, unknown: str | None = None
) -> np.ndarray:
    """Columns of text as numbers, (N, len(labels)); raises InputError for a missing column or what is no number.

    unknown: a text, in any case, that is allowed, and gives NaN.
    """
    import pandas as pd

    missing = [label for label in labels if label not in table]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; found {', '.join(map(str, table.columns))}")
    values = np.stack([pd.to_numeric(table[label], errors="coerce").to_numpy(float) for label in labels], axis=1)
    allowed = [table[label].str.lower() == unknown for label in labels]
    wrong = np.argwhere(~np.isfinite(values) & ~np.stack(allowed, axis=1))
    if len(wrong):
        row, column = wrong[0]
        found = table[labels[column]].iloc[row]
        raise InputError(f"{path}, row {row + 1}: {labels[column]} {found!r}; expected a number")
    return values
