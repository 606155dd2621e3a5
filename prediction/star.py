"""Predictions in the STAR files that the particles came from, and one STAR file per class and per cluster.

A file that is written has every block, column and row of its source, text for text, and the columns of LABELS behind
them. Values that are added hold no white space: Warp splits a row there, quoted or not, and RELION before 5 does too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.cli import InputError
from loader.columns import (
    CLUSTER,
    JUNK_SCORE,
    NEAREST,
    NEAREST_CLUSTER,
    NEAREST_COSINE,
    PREDICTION,
    SCORE,
    SOURCE_FILE,
    SOURCE_ROW,
    UNKNOWN,
)
from loader.coordinates import particles_block
from loader.flavours import GIVEN_CLASS
from loader.sources import images_block
from loader.star import Block, read_star, star_version, write_star
from prediction.predicted import DECIMALS, Predicted

if TYPE_CHECKING:
    import pandas as pd

CLASS_NUMBER, MERIT = "rlnClassNumber", "rlnAutopickFigureOfMerit"  # RELION's words, and Warp's for a score
LABELS = {  # column of predictions.csv -> label
    PREDICTION: "lmcclClass",
    SCORE: "lmcclScore",
    NEAREST: "lmcclNearestClass",
    NEAREST_COSINE: "lmcclNearestCosine",
    CLUSTER: "lmcclCluster",
    NEAREST_CLUSTER: "lmcclNearestCluster",
    JUNK_SCORE: "lmcclJunkScore",
}
NOTHING = "none"  # a text that is not known
NOT_PREDICTED = "not_predicted"  # of rows that were not among the volumes; their class number and scores are 0
STAR_FILE, STARS_FOLDER = "predictions.star", "stars"


@dataclass(frozen=True)
class Source:
    """A STAR file that predicted particles are rows of.

    blocks: of the file, as it is; block: the name of the particles' one, M rows. numbers: (M,) the row of
    `Predicted.table` that each of them is, -1 for none. version: of RELION's format, as the file states it, or empty.
    """

    path: Path
    blocks: dict[str, Block]
    block: str
    numbers: np.ndarray
    version: str


def class_numbers(predicted: Predicted) -> dict[str, int]:
    """What stands in rlnClassNumber for each prediction: the known classes from 1 in the checkpoint's order, then
    `unknown`, then others; 0 is a row that was not predicted."""
    names = [*predicted.checkpoint["classes"], UNKNOWN]
    return {name: number for number, name in enumerate([*names, *_others(predicted, names)], start=1)}


def _others(predicted: Predicted, names: Sequence[str]) -> list[str]:
    return sorted({*predicted.table[PREDICTION].unique()} - {*names})


def write_stars(folder: Path, predicted: Predicted) -> tuple[list[str], list[str]]:
    """Write predictions.star, and stars/ with a file per class and per cluster; those of before are removed.

    Where the particles come from several STAR files, each has its own, the source's name in theirs.

    Returns the names of what was written, and what the user should know: columns that were replaced, files that could
    not be read.
    """
    for old in [*folder.glob("predictions*.star"), *(folder / STARS_FOLDER).glob("*.star")]:
        old.unlink()
    found, notes = star_sources(predicted)
    written = []
    for source, name in zip(found, _file_names([source.path for source in found]), strict=True):
        table, replaced = with_predictions(source, predicted)
        if replaced:
            notes.append(f"{source.path}: had {', '.join(replaced)}")
        written.append(f"predictions{name}.star")
        write_star(folder / written[-1], {**source.blocks, source.block: table}, source.version)
        prefix = f"{name.removeprefix('_')}_" if name else ""
        for group, rows in groups(table, predicted):
            blocks = {**source.blocks, source.block: table.iloc[rows]}
            write_star(folder / STARS_FOLDER / f"{prefix}{group}.star", blocks, source.version)
    return written + ([STARS_FOLDER] if written else []), notes


def star_sources(predicted: Predicted) -> tuple[list[Source], list[str]]:
    """The STAR files that the particles are rows of, and a word on those that cannot be had."""
    table = predicted.inputs.table
    sources, notes = [], []
    for name, rows in table.groupby(SOURCE_FILE, sort=False).indices.items():
        if name.lower().endswith(".star"):
            try:
                sources.append(_source(Path(name), table[SOURCE_ROW].iloc[rows].astype(int).to_numpy(), rows))
            except (InputError, ValueError) as error:
                notes.append(f"no predictions.star of it: {error}")
    return sources, notes


def _source(path: Path, places: np.ndarray, rows: np.ndarray) -> Source:
    """A STAR file of which the rows `places` (from 1) are the rows `rows` of the predictions."""
    blocks = read_star(path)
    try:
        block = particles_block(path, blocks)
    except InputError:
        block = images_block(path, blocks)
    numbers = np.full(len(blocks[block]), -1)
    if places.min() < 1 or places.max() > len(numbers):
        raise InputError(f"{path}: has {len(numbers)} rows; the particles are of rows up to {places.max()}")
    numbers[places - 1] = rows
    return Source(path, blocks, block, numbers, star_version(path))


def _file_names(paths: Sequence[Path]) -> list[str]:
    """What tells the sources' files apart in names: nothing for one, else the source's own name, or with a number."""
    if len(paths) == 1:
        return [""]
    names: list[str] = []
    for path in paths:
        stem = plain(path.stem)
        same = sum(other.stem == path.stem for other in paths[: len(names)])
        names.append(f"_{stem}_{same + 1}" if same else f"_{stem}")
    return names


def with_predictions(source: Source, predicted: Predicted) -> tuple[pd.DataFrame, list[str]]:
    """The particles of a source with the columns of LABELS and rlnClassNumber; and a phrase for each of the source's
    own columns that had one of these names."""
    import pandas as pd

    table, replaced = source.blocks[source.block].copy(), []
    known = source.numbers >= 0
    chosen = predicted.table.iloc[source.numbers[known]]
    numbers = class_numbers(predicted)
    new = {CLASS_NUMBER: _column(known, chosen[PREDICTION].map(numbers).astype(str), "0")}
    if MERIT not in table:
        new[MERIT] = _column(known, chosen[SCORE].map(_number), "0")
    for name, label in LABELS.items():
        if name not in chosen:
            continue
        if pd.api.types.is_numeric_dtype(chosen[name]):
            new[label] = _column(known, chosen[name].map(_number), "0")
        else:
            new[label] = _column(known, chosen[name].map(plain), NOT_PREDICTED if name == PREDICTION else NOTHING)
    for label in new:
        if label == CLASS_NUMBER and label in table and GIVEN_CLASS not in table:
            table[GIVEN_CLASS] = table[label]
            replaced.append(f"{label}, which is the prediction's here, and its own is in {GIVEN_CLASS}")
        elif label in table:
            replaced.append(f"{label}, of an earlier prediction, which is replaced")
    return table.assign(**new), replaced


def _column(known: np.ndarray, values: pd.Series, other: str) -> np.ndarray:
    """A column of text: the values in the rows that are known, `other` elsewhere."""
    column = np.full(len(known), other, dtype=object)
    column[known] = values.to_numpy(dtype=object)
    return column


def _number(value: float) -> str:
    """A number as text; what is not known is 0, as RELION reads it."""
    return f"{value:.{DECIMALS}f}" if np.isfinite(value) else "0"


def plain(name: str) -> str:
    """A name without white space and other characters that make trouble in a file; `none` for an empty one."""
    return re.sub(r"[^\w.+-]+", "_", name) or NOTHING


def groups(table: pd.DataFrame, predicted: Predicted) -> Iterator[tuple[str, np.ndarray]]:
    """The rows of a table that are of each class, every row once, then of each cluster; with a name each."""
    names = {str(number): name for name, number in class_numbers(predicted).items()} | {"0": NOT_PREDICTED}
    width = max(3, *(len(number) for number in names))
    found = table.groupby(CLASS_NUMBER, sort=False).indices
    for number in sorted(found, key=int):
        yield f"class{int(number):0{width}d}_{plain(names[number])}", found[number]
    if LABELS[CLUSTER] in table:
        clusters = table.groupby(LABELS[CLUSTER]).indices
        yield from (
            (f"cluster_{name.removeprefix('cluster_')}", clusters[name]) for name in clusters if name != NOTHING
        )
