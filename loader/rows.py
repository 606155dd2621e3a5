"""The rows of a split CSV: read and checked, without opening a volume."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.cli import InputError
from loader.columns import CLASS, INPUT, LABEL, MASK, PARTICLE, SNR, SNR_CONVENTION, TILT_MAX, TILT_MIN
from loader.prepare import Input
from loader.sources import absolute_all, check_known, column_numbers, file_states, read_csv, voxel_sizes

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SplitRows:
    """The rows of a split CSV, and what tells whether they and their volumes are still those of before.

    path: of the CSV.
    rows: its rows, paths absolute, Class as integer.
    voxel_sizes: (N,) A, as the table states them; NaN where unknown.
    csv_hash: of the CSV's content.
    files_hash: of size and time of the last change of each row's file.
    """

    path: Path
    rows: pd.DataFrame
    voxel_sizes: np.ndarray
    csv_hash: str
    files_hash: str

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def addresses(self) -> list[str]:
        """Of each row's volume."""
        return self.rows[INPUT].tolist()

    def input(self, row: int) -> Input:
        """A row's volume."""
        size = self.voxel_sizes[row]
        return Input(self.addresses[row], None if np.isnan(size) else float(size))

    def tilt_range(self) -> tuple[float, float] | None:
        """The one tilt range of all rows, (min, max) in degrees; None where it is unknown or not the same everywhere.

        Raises InputError for a cell that is no number.
        """
        if TILT_MIN not in self.rows or TILT_MAX not in self.rows or not len(self):
            return None
        columns = [column_numbers(self.rows, name, self.path, "degrees") for name in (TILT_MIN, TILT_MAX)]
        if not all((column == column[0]).all() for column in columns):  # NaN is unlike itself
            return None
        return tuple(float(column[0]) for column in columns)


def read_rows(csv_path: Path | str) -> SplitRows:
    """The rows of a split CSV.

    Raises InputError when the CSV is missing, lacks a column, holds what is no number where one is expected, or names a
    file that does not exist.
    """
    csv_path = Path(csv_path)
    if not os.path.isfile(csv_path):
        raise InputError(f"{csv_path}: no such file; make it with csv_split.py")
    content = csv_path.read_bytes()
    rows = read_csv(csv_path, required=(INPUT, MASK, CLASS, SNR, LABEL), content=content)
    if PARTICLE not in rows:
        raise InputError(f"{csv_path}: no column {PARTICLE}: a split of the original code; make it again: csv_split.py")
    for column in (INPUT, MASK):
        rows[column] = absolute_all(rows[column].tolist(), csv_path.parent)
    states = file_states(rows[INPUT].tolist())
    missing = np.flatnonzero(states[:, 0] < 0)
    if len(missing):
        name = rows[INPUT].iloc[missing[0]]
        # line 1 is the header
        raise InputError(f"{csv_path}, line {missing[0] + 2}: {INPUT} {name or 'is empty'}: no such file")
    wrong = np.flatnonzero(~rows[CLASS].str.fullmatch(r"\s*[+-]?0*[0-9]{1,9}\s*"))
    if len(wrong):
        found = f"{CLASS} {rows[CLASS].iloc[wrong[0]]!r}"
        raise InputError(f"{csv_path}, line {wrong[0] + 2}: {found}; expected a whole number of at most nine digits")
    rows[CLASS] = rows[CLASS].astype(int)
    hashes = (hashlib.sha256(part).hexdigest() for part in (content, states.tobytes()))
    return SplitRows(csv_path, rows, voxel_sizes(rows, csv_path), *hashes)


def read_split(csv_path: Path | str) -> pd.DataFrame:
    """The rows of a split CSV alone, as `read_rows` reads and checks them."""
    return read_rows(csv_path).rows


def class_names(rows: pd.DataFrame, csv_path: Path | str) -> list[str]:
    """The names of the known classes, by index.

    Raises InputError when an index has two names, the indices are not 0, 1, 2, ..., or a name means something else.
    """
    pairs = rows[[CLASS, LABEL]].drop_duplicates().sort_values(CLASS)
    if list(pairs[CLASS]) != list(range(len(pairs))) or pairs[LABEL].duplicated().any():
        found = ", ".join(f"{index} {name}" for index, name in pairs.itertuples(index=False))
        raise InputError(f"{csv_path}: classes {found or 'none'}; expected one name for each of 0, 1, 2, ...")
    check_known(list(pairs[LABEL]), csv_path)
    return list(pairs[LABEL])


def tilt_ranges(tables: Iterable[pd.DataFrame]) -> list[tuple[float, float]]:
    """The tilt ranges that tables of volumes state, each once. Raises InputError for a cell that is no number."""
    found: dict[tuple[float, float], None] = {}
    for table in tables:
        if TILT_MIN in table and TILT_MAX in table:
            stated = table[[TILT_MIN, TILT_MAX]].drop_duplicates()
            for low, high in stated[(stated != "").all(axis=1)].itertuples(index=False):
                try:
                    found[float(low), float(high)] = None
                except ValueError as error:
                    raise InputError(f"columns {TILT_MIN}, {TILT_MAX}: expected degrees ({error})") from error
    return list(found)


def snr_convention(rows: pd.DataFrame) -> str:
    """How the SNR levels of the rows are meant: `variance` or `lab` (simulate.py), or `not stated`."""
    found = rows[SNR_CONVENTION].unique() if SNR_CONVENTION in rows else []
    return str(found[0]) if len(found) == 1 and found[0] else "not stated"
