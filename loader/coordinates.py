"""Files of particles' places: which program wrote each, and where its particles are in a tomogram.

STAR (RELION 3 to 5, WarpTools, M, pytom-match-pick, TomoTwin, CryoSiam), copick's JSON, Dynamo's .tbl, CSV with x, y,
z, and TomoTwin's .coords. loader/flavours.py has the rules.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.cli import InputError, named
from loader.columns import LABEL, TOMOGRAM, UNKNOWN
from loader.flavours import (
    CENTRED,
    COORDINATE,
    FLAVOURS,
    OWN,
    SHARE,
    TILT_SERIES,
    VOXELS,
    Picks,
    class_names,
    star_flavour,
    star_picks,
    table_picks,
)
from loader.sources import read_csv
from loader.star import Block, read_star
from loader.tomogram import Tomogram, kinds

if TYPE_CHECKING:
    import pandas as pd

PLACES = {"wrpCoordinateX1", "wrpCoordinateX", CENTRED[0], COORDINATE[0]}
ELSEWHERE = {  # labels of files that hold no particles -> what to do with them
    "rlnTomoReconstructedTomogram": "it lists tomograms: give it to --tomograms",
    "rlnTomoTiltSeriesStarFile": "it lists tilt series: give the tomograms to --tomograms and the particles here",
    "rlnTomoParticlesFile": "give the file that its rlnTomoParticlesFile names",
    "rlnTomoImportParticleFile": "give the files that its rlnTomoImportParticleFile names",
}
COPICK_FILES = ("ExperimentRuns/*/Picks/*.json", "*/Picks/*.json", "Picks/*.json", "*.json")  # root, runs, run, picks
MOST_TABLES = 3  # whose labels a message names: RELION has one for each tilt series
COPICK_KEYS = ("pickable_object_name", "run_name", "points")
CSV_COLUMNS = {  # what table_picks knows -> names of it in CSV files, in any case, of which the first counts
    "x": ("x", COORDINATE[0], "axis-2"),  # axis-0 to axis-2 are napari's
    "y": ("y", COORDINATE[1], "axis-1"),
    "z": ("z", COORDINATE[2], "axis-0"),
    TOMOGRAM: (TOMOGRAM, "tomo_name", "rlnTomoName", "rlnMicrographName", "experiment", "tomo"),
    LABEL: (LABEL,),
}
# the columns of a .tbl by number, from 1
DYNAMO = """
tag aligned averaged dx dy dz tdrot tilt narot cc cc2 cpu ftype ymintilt ymaxtilt xmintilt xmaxtilt fs1 fs2 tomo reg
class annotation x y z dshift daxis dnarot dcc otag npar column33 ref sref apix def column38 column39 column40 eig1 eig2
""".split()  # noqa: SIM905 - a list literal would take forty lines


def read_all(names: Sequence[str], flavour: str = "", pixel_size: float = 0.0) -> tuple[list[Picks], list[str]]:
    """The particles of the files that a list of names stands for, and warnings: of files without a particle, too.

    Args:
        names: files, and folders of copick's for all picks in them; NAME=FILE, of which every particle is of the class
            NAME.
        flavour, pixel_size: as in `read_picks`.

    Raises InputError as it does, for a folder without picks, and where no file holds a particle.
    """
    found: list[Picks] = []
    empty: list[Path] = []
    warnings: list[str] = []
    for name in names:
        of_class, path = split_class(name)
        files = _copick_files(path, warnings) if path.is_dir() else [path]
        for picks in (read_picks(file, flavour, pixel_size) for file in files):
            if len(picks):
                found.append(replace(picks, classes=np.full(len(picks), of_class)) if of_class else picks)
            else:
                empty.append(picks.path)
    if not found:
        raise InputError(f"{named(empty)}: holds no row; expected one for each particle")
    if empty:
        warnings.append(f"without a particle, left out: {named(empty)}")
    return found, warnings


def split_class(name: str) -> tuple[str, Path]:
    """`ribosome=a.star` -> (`ribosome`, a.star); the name of what is there, or without `=`, is of no class: empty.

    Raises InputError for a class that has no name, or that of a rejection.
    """
    of_class, mark, path = name.partition("=")
    if not mark or os.sep in of_class or os.path.exists(name):
        return "", Path(name)
    if not of_class.strip() or of_class == UNKNOWN:
        raise InputError(f"--coordinates {name}: expected the name of a class before '='; {UNKNOWN!r} is none")
    return of_class, Path(path)


def _copick_files(folder: Path, warnings: list[str]) -> list[Path]:
    """All picks in the root of a copick project, or in a folder of it."""
    files = sorted(chain.from_iterable(folder.glob(pattern) for pattern in COPICK_FILES))
    if not files:
        raise InputError(
            f"{folder}: a folder without picks of copick, {COPICK_FILES[0]}; it holds {kinds(folder)}; expected files "
            f"of coordinates ({SUFFIXES})"
        )
    by = Counter((file.parent, file.stem.split("_", 2)[-1]) for file in files)  # <user>_<session>_<object>.json
    twice = [f"{run.parent.name or run} {item} ({count})" for (run, item), count in by.items() if count > 1]
    if twice:
        warnings.append(f"{folder}: several picks of one object, all taken: {named(twice)}; give files to take some")
    return files


def read_picks(path: Path, flavour: str = "", pixel_size: float = 0.0) -> Picks:
    """The particles of one file, of which there may be none.

    Args:
        path: the suffix says what it is: .star, .json, .tbl, .csv or .coords.
        flavour: one of FLAVOURS, for files whose labels mislead; empty: told from the file.
        pixel_size: A, of coordinates in voxels; 0: as the file says, else the tomogram's own.

    Raises:
        InputError: no such file, an unknown suffix or flavour, a missing column, what is no number. The file is named.
    """
    if flavour and flavour not in FLAVOURS:
        raise InputError(f"--flavour {flavour}: expected one of {', '.join(FLAVOURS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected particles' coordinates")
    suffix = path.suffix.lower()
    if suffix == ".star":
        picks = _star(path, flavour, pixel_size)
    elif suffix in TABLES:
        own, read = TABLES[suffix]
        if flavour and flavour != own:
            raise InputError(f"{path}: --flavour {flavour}: a {suffix} file is of the {own} flavour")
        table = read(path)
        known = table.rename(columns=csv_names(table)) if own == "csv" else table
        picks = replace(table_picks(path, known, own, pixel_size), table=table)
    else:
        raise InputError(f"{path}: coordinates in a {suffix or 'nameless'} file; expected one of {SUFFIXES}")
    return picks


def _star(path: Path, flavour: str, pixel_size: float) -> Picks:
    import pandas as pd

    blocks = read_star(path)
    block = particles_block(path, blocks)
    optics = isinstance(blocks.get("optics"), pd.DataFrame)
    return star_picks(path, block, blocks, flavour or star_flavour(blocks[block], optics), pixel_size)


def particles_block(path: Path, blocks: dict[str, Block]) -> str:
    """The name of the block that holds the particles."""
    import pandas as pd

    tables = {name: block for name, block in blocks.items() if isinstance(block, pd.DataFrame)}
    found = [name for name, table in tables.items() if PLACES & set(table.columns)]
    if len(found) == 1:
        return found[0]
    if "particles" in found:
        return "particles"
    labels = {label for block in blocks.values() for label in block}
    advice = next((text for label, text in ELSEWHERE.items() if label in labels), "")
    if not advice and "rlnImageName" in labels:
        advice = "it has images but no coordinates: extract.py cannot find them in a tomogram"
    wanted = f"expected one with {COORDINATE[0]}, {CENTRED[0]} or wrpCoordinateX1"
    there = named((f"data_{name} ({', '.join(table)})" for name, table in tables.items()), MOST_TABLES) or "no table"
    raise InputError(f"{path}: {len(found)} tables with coordinates; {advice or wanted}; found {there}")


def _copick(path: Path) -> pd.DataFrame:
    """Picks of one object in one run, A from the corner."""
    import pandas as pd

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in COPICK_KEYS if key not in content]
        if missing:
            raise InputError(f"{path}: no key {', '.join(missing)}; expected a copick file of picks")
        if content.get("unit", "angstrom") != "angstrom":
            raise InputError(f"{path}: unit {content['unit']!r}; expected angstrom")
        for key in COPICK_KEYS[:2]:
            if not isinstance(content[key], str):
                raise InputError(f"{path}: {key} {content[key]!r}; expected a text")
        if not isinstance(content["points"] or [], list):
            raise InputError(f"{path}: points {content['points']!r}; expected a list")
        rows = [
            {
                **{axis: str(point["location"][axis]) for axis in "xyz"},
                **{key: str(point[key]) for key in ("instance_id", "score") if point.get(key) is not None},
            }
            for point in content["points"] or ()
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a copick file of picks ({type(error).__name__}: {error})") from error
    table = pd.DataFrame(rows, columns=["x", "y", "z", "instance_id", "score"], dtype=str).fillna("")
    known = {key: str(content.get(key, "")) for key in ("user_id", "session_id", "voxel_spacing")}
    return table.assign(**known, **{LABEL: content["pickable_object_name"], TOMOGRAM: content["run_name"]})


def _dynamo(path: Path) -> pd.DataFrame:
    """A table of Dynamo; the tomograms' names are in the table map of the same name, or the only one beside it."""
    table = _columns(path, least=26)
    table.columns = [DYNAMO[i] if i < len(DYNAMO) else f"column{i + 1}" for i in range(table.shape[1])]
    numbers = table["class"].astype(float).to_numpy()
    if (numbers[np.isfinite(numbers)] != 0).any():
        table[LABEL] = class_names(table["class"].map(lambda value: f"{float(value):g}"), path)
    maps = [file for file in (path.with_suffix(".doc"),) if file.is_file()] or sorted(path.parent.glob("*.doc"))
    if len(maps) == 1:
        lines = [line.split(None, 1) for line in maps[0].read_text(encoding="utf-8").splitlines() if line.strip()]
        names = {float(line[0]): line[1].strip() for line in lines if len(line) == 2}
        lost = [value for value in table["tomo"] if float(value) not in names]
        if lost:
            raise InputError(f"{path}: tomogram {lost[0]} is not in the table map {maps[0]}")
        table[TOMOGRAM] = [names[float(value)] for value in table["tomo"]]
    elif table["tomo"].nunique() > 1:
        found = f"{table['tomo'].nunique()} tomograms and {len(maps)} table maps (.doc) beside it"
        raise InputError(f"{path}: {found}; expected one map of lines 'index file', named {path.stem}.doc")
    return table


def _coords(path: Path) -> pd.DataFrame:
    """TomoTwin's .coords: x, y and z of a row each, without names."""
    table = _columns(path, least=3).iloc[:, :3]
    table.columns = list(COORDINATE)
    return table


def _columns(path: Path, least: int) -> pd.DataFrame:
    """Rows of numbers between white space, as text."""
    import pandas as pd

    rows = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if not rows:
        return pd.DataFrame(columns=range(least), dtype=str)
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or min(lengths) < least:
        raise InputError(f"{path}: rows of {sorted(lengths)} values; expected rows of one length, {least} or more")
    try:
        np.array(rows, dtype=float)
    except ValueError as error:
        word = next(word for row in rows for word in row if np.isnan(pd.to_numeric(word, errors="coerce")))
        raise InputError(f"{path}: {word!r}; expected numbers alone") from error
    return pd.DataFrame(rows, dtype=str)


def csv_names(table: pd.DataFrame) -> dict[str, str]:
    """The columns of a CSV file that tell places, tomogram and class -> their names as table_picks knows them."""
    there = {label.strip().lower(): label for label in reversed(table.columns)}
    found = {}
    for ours, names in CSV_COLUMNS.items():
        label = ours if ours in table else next((there[name.lower()] for name in names if name.lower() in there), None)
        if label is not None:
            found[label] = ours
    return found


TABLES = {
    ".json": ("copick", _copick),
    ".tbl": ("dynamo", _dynamo),
    ".csv": ("csv", partial(read_csv, required=())),
    ".coords": ("tomotwin", _coords),
}


SUFFIXES = ", ".join((".star", *TABLES))


def places(picks: Picks, rows: np.ndarray, tomogram: Tomogram) -> np.ndarray:
    """Where some rows' particles are in a tomogram: (n, 3) = (z, y, x) in its voxels, 0 the centre of the first.

    Raises InputError for coordinates in a tilt series' pixels whose size is not known.
    """
    flavour, voxel = FLAVOURS[picks.flavour], tomogram.voxel_size
    positions = picks.positions[rows]
    if flavour.unit == SHARE:
        found = positions * tomogram.shape
    elif flavour.unit == VOXELS:
        found = positions * _coordinate_size(picks, rows, tomogram)[:, None] / voxel
    else:
        found = positions / voxel
    if flavour.centred:
        found = found + tomogram.centre
    return found - picks.shifts[rows] / voxel


def _coordinate_size(picks: Picks, rows: np.ndarray, tomogram: Tomogram) -> np.ndarray:
    """The pixel size of some rows' coordinates in voxels, (n,) A."""
    sizes = picks.pixel_size[rows]
    if FLAVOURS[picks.flavour].default == OWN:
        return np.where(np.isnan(sizes), tomogram.voxel_size, sizes)
    if np.isnan(sizes).any() and not tomogram.tilt_series_size:
        raise InputError(
            f"{picks.path}: coordinates in voxels of {TILT_SERIES}, whose pixel size is not told; give --pixel-size, "
            "or RELION's tomograms.star to --tomograms, or --flavour relion3 if they are the tomogram's own voxels"
        )
    return np.where(np.isnan(sizes), tomogram.tilt_series_size or np.nan, sizes)


def binning(picks: Picks, rows: np.ndarray, tomogram: Tomogram) -> float:
    """How many pixels of the tilt series, or where its pixel size is not told of the coordinates, make a voxel of the
    tomogram, on the mean; NaN where neither is told.
    """
    if tomogram.tilt_series_size:
        return tomogram.voxel_size / tomogram.tilt_series_size
    if picks.tilt_series_size is not None:
        return float(np.mean(tomogram.voxel_size / picks.tilt_series_size[rows]))
    return float(np.mean(tomogram.voxel_size / picks.pixel_size[rows]))
