"""The volumes to be named: what the user gave, as one table with a row per volume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.cli import InputError
from loader.columns import (
    INPUT,
    MASK_FOLDER,
    PARTICLE,
    PARTICLES_FILE,
    POSITION,
    SNR,
    SOURCE_FILE,
    SOURCE_ROW,
    TILT_MAX,
    TILT_MIN,
    TOMOGRAM,
    VOXEL_SIZE,
    snr_copy,
)
from loader.coordinates import PLACES
from loader.flavours import ANGSTROM, FLAVOURS, SHARE, star_flavour, star_picks
from loader.mrc import read_header
from loader.prepare import Input
from loader.sources import StarVolumes, absolute, absolute_all, mrc_files, read_csv, star_volumes, voxel_sizes
from loader.volume import MRC_SUFFIXES, address_path, join_address, read_volume, split_address

if TYPE_CHECKING:
    import pandas as pd

EXPECTED = "an MRC file, N@stack.mrcs, a stack, a folder, a CSV file or a STAR file"
STACK_SUFFIXES = (".mrcs", ".mrcs.gz")
COLUMNS = (INPUT, PARTICLE, SNR, TOMOGRAM, *POSITION, TILT_MIN, TILT_MAX, SOURCE_FILE, SOURCE_ROW)


@dataclass(frozen=True)
class Inputs:
    """N volumes to be read.

    table: N rows of text, an empty one where something is not known. Input Data: a file, or volume N of a stack,
        absolute. Particle, SNR Level, Tomogram, Position Z, Y, X (A from the centre of the tomogram's first voxel) and
        Tilt Min, Max (degrees) where the source tells them; the first two also by the path, in the layout of the
        original, so that copies of a particle are known there. Source File and Source Row (from 1): the row of a STAR
        or CSV file that is the particle's; where a CSV has these columns itself, what they say.
    voxel_sizes: (N,) A, as a table or the user states them; NaN where the header's counts.
    """

    table: pd.DataFrame
    voxel_sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, number: int) -> Input:
        """One of them, to be read."""
        return self.several([number])[0]

    def several(self, numbers: Sequence[int] | np.ndarray | slice) -> list[Input]:
        """Some of them, to be read; to take them one by one costs more."""
        addresses, sizes = self.table[INPUT].iloc[numbers].tolist(), self.voxel_sizes[numbers].tolist()
        return [
            Input(address, None if np.isnan(size) else size) for address, size in zip(addresses, sizes, strict=True)
        ]

    def take(self, rows: np.ndarray | slice) -> Inputs:
        """Some of them."""
        return Inputs(self.table.iloc[rows].reset_index(drop=True), self.voxel_sizes[rows])


def coarsest(inputs: Inputs) -> float | None:
    """The largest voxel size of the inputs in A, as tables or else the first volume's header say; None: unknown."""
    if not np.isnan(inputs.voxel_sizes).all():
        return float(np.nanmax(inputs.voxel_sizes))
    try:
        return read_volume(inputs.table[INPUT].iloc[0])[1]
    except InputError:  # who reads the volumes will say so
        return None


def find_inputs(names: Sequence[str], voxel_size: float = 0.0) -> Inputs:
    """The volumes that a list of names stands for, in its order.

    Args:
        names: MRC files; `N@stack.mrcs`; stacks, for all of their volumes; folders (their MRC files by name; where a
            folder itself has none, those of all folders below it by path, less folders of masks); CSV files with the
            column Input Data, whose relative paths are relative to the CSV's own folder; STAR files with rlnImageName.
        voxel_size: A, of all volumes; 0: as tables and headers say.

    Raises:
        InputError: nothing given; no such file; a folder without MRC files; a folder of extract.py in the place of the
            table in it; a table without the column or without rows, or of whose files none is there. Where only some
            of a table's files are there, who reads the others will say so.
    """
    parts = [_read(name) for name in names]
    if not parts:
        raise InputError(f"no input: expected {EXPECTED}")
    found = joined(parts)
    return replace(found, voxel_sizes=np.full(len(found), voxel_size)) if voxel_size else found


def joined(parts: Sequence[Inputs]) -> Inputs:
    """Inputs one after another."""
    import pandas as pd

    table = pd.concat([part.table for part in parts], ignore_index=True)
    return Inputs(table, np.concatenate([part.voxel_sizes for part in parts]))


def _read(name: str) -> Inputs:
    """The volumes of one name."""
    path = Path(name)
    if path.is_dir():
        return _plain([address for file in _folder(path) for address in _volumes(file, path)])
    if path.suffix.lower() == ".csv":
        return _csv(path)
    if path.suffix.lower() == ".star":
        return _star(path)
    if not os.path.isfile(address_path(name)):
        kind = "no such file" if "@" in name else "no such file or folder"
        raise InputError(f"{name}: {kind} in {os.getcwd()}; expected {EXPECTED}")
    return _plain(_volumes(path, None) if split_address(name)[0] is None else [name])


def _plain(addresses: Sequence[str]) -> Inputs:
    """Volumes of which nothing else is known."""
    return _inputs({INPUT: absolute_all(addresses, Path())}, np.full(len(addresses), np.nan))


def _inputs(known: dict[str, object], sizes: np.ndarray) -> Inputs:
    """With every column, as text."""
    import pandas as pd

    table = pd.DataFrame({name: known.get(name, "") for name in COLUMNS}, index=range(len(sizes))).astype(str)
    copies = table[INPUT].map(snr_copy)
    if copies.str[0].any():
        for place, name in enumerate((PARTICLE, SNR)):
            table[name] = table[name].mask(table[name] == "", copies.str[place])
    return Inputs(table, sizes)


def _folder(folder: Path) -> list[Path]:
    """The MRC files in a folder, or else below it."""
    files = mrc_files(folder)
    if not files:
        below = sorted(path for path in folder.rglob("*") if path.is_dir() and path.name != MASK_FOLDER)
        files = [file for path in below for file in mrc_files(path)]
    if not files:
        raise InputError(f"{folder}: neither it nor a folder below it holds an MRC file ({', '.join(MRC_SUFFIXES)})")
    return files


def _volumes(path: Path, folder: Path | None) -> list[str]:
    """The addresses of a file's volumes: one, or those of a stack.

    Args:
        folder: that the file was found in; None where it was given itself.

    Raises InputError for a stack in a folder that has a table of its volumes.
    """
    count = _stacked(path) if path.name.lower().endswith(STACK_SUFFIXES) else None
    if count is None:
        return [str(path)]
    if folder is not None and (path.parent / PARTICLES_FILE).is_file():
        raise InputError(
            f"{folder}: {path.name} in it is a stack of {count} volumes; {path.parent / PARTICLES_FILE} says which "
            "particles they are: give that file in the place of the folder"
        )
    return [join_address(number, path) for number in range(1, count + 1)]


def _stacked(path: Path) -> int | None:
    """How many volumes a 4-D MRC file holds; None for any other, which is for the reader to judge."""
    try:
        shape = read_header(path).shape
    except InputError:
        return None
    return shape[0] if len(shape) == 4 else None


def _csv(path: Path) -> Inputs:
    """The rows of a CSV file."""
    rows = read_csv(path, required=(INPUT,), only=(*COLUMNS, VOXEL_SIZE))
    if not len(rows):
        raise InputError(f"{path}: holds no row; expected one a volume")
    sizes = voxel_sizes(rows, path)
    addresses = absolute_all(rows[INPUT], path.parent)
    if not any(map(os.path.isfile, dict.fromkeys(map(address_path, addresses)))):
        more = f" (none of {len(addresses)} volumes is there)" if len(addresses) > 1 else ""
        raise InputError(f"{addresses[0] or 'an empty name'}: no such file; named in {path}, line 2{more}")
    own = {SOURCE_FILE: absolute(str(path), Path()), SOURCE_ROW: np.arange(1, len(rows) + 1)}
    if SOURCE_FILE in rows and SOURCE_ROW in rows:
        own = {SOURCE_FILE: absolute_all(rows[SOURCE_FILE], path.parent)}
    return _inputs({**rows[[name for name in COLUMNS if name in rows]], **own, INPUT: addresses}, sizes)


def _star(path: Path) -> Inputs:
    """The rows of a STAR file."""
    found = star_volumes(path)
    known = {name: found.table[name] for name in (INPUT, PARTICLE, TOMOGRAM)}
    own = {SOURCE_FILE: absolute(str(path), Path()), SOURCE_ROW: np.arange(1, len(found.table) + 1)}
    return _inputs({**known, **_positions(path, found), **own}, voxel_sizes(found.table, path, "row"))


def _positions(path: Path, found: StarVolumes) -> dict[str, np.ndarray]:
    """The places that a STAR file itself tells, A from the first voxel; none where that takes a tomogram."""
    if not PLACES & set(found.table.columns):
        return {}
    flavour = star_flavour(found.blocks[found.block], "optics" in found.blocks)
    rule = FLAVOURS[flavour]
    if rule.centred or rule.unit == SHARE:
        return {}
    particles = found.blocks[found.block].drop(columns="rlnClassNumber", errors="ignore")  # no class matters here
    picks = star_picks(path, found.block, {**found.blocks, found.block: particles}, flavour, 0.0)
    places = picks.positions * (1.0 if rule.unit == ANGSTROM else picks.pixel_size[:, None]) - picks.shifts
    if np.isnan(places).any():
        return {}
    return {name: np.round(places[:, axis], 3).astype(str) for axis, name in enumerate(POSITION)}
