"""Who is what: four readers that give one table of particles. The first whose input is there is used.

A table has one row per volume. Its columns are text, empty where unknown: Input Data and Segmentation Ground Truth
(absolute paths, or N@stack), Actual Label, SNR Level, Particle, Tomogram, Voxel Size; further columns are kept.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.cli import InputError, named, warn
from loader.columns import (
    INPUT,
    LABEL,
    MASK,
    MASK_FOLDER,
    PARTICLE,
    PARTICLES_FILE,
    SNR,
    TABLE_COLUMNS,
    TARGET_FOLDER,
    TOMOGRAM,
    UNKNOWN,
    VOXEL_SIZE,
    snr_copy,
    snr_level,
)
from loader.flavours import GIVEN_CLASS, PREDICTED, class_label, class_names, flat_images
from loader.volume import MRC_SUFFIXES, address_path, join_address, split_address

if TYPE_CHECKING:  # else pandas is imported where a table is made: a script's --help need not wait for it
    import pandas as pd

    from loader.star import Block


def read_particles(data_dir: Path, star: str, class_names: tuple[str, ...], per_class: int) -> tuple[pd.DataFrame, str]:
    """The table of all volumes, and a word on where it came from.

    Args:
        data_dir: the data folder.
        star: a STAR file, or empty.
        class_names, per_class: for files that are known by their number only: number i is of class i // per_class.

    Raises:
        InputError: nothing there that a reader knows, or what is there is not right.
    """
    if star:
        table, root = read_star(Path(star))
        return table, f"STAR file {star}, its paths taken from {root}"
    if (data_dir / PARTICLES_FILE).is_file():
        return read_particles_csv(data_dir / PARTICLES_FILE), str(data_dir / PARTICLES_FILE)
    if any(data_dir.glob(f"*/{TARGET_FOLDER}")):
        return read_file_numbers(data_dir, class_names, per_class), f"file numbers in {data_dir}"
    if any(mrc_files(folder) for folder in data_dir.iterdir() if folder.is_dir()):
        return read_class_folders(data_dir), f"class folders in {data_dir}"
    raise InputError(
        f"{data_dir}: found no {PARTICLES_FILE}, no data1_SNR.../{TARGET_FOLDER} and no folder of MRC files per class; "
        "expected one of these, or a STAR file (--star)"
    )


def left_out(data_dir: Path, table: pd.DataFrame) -> list[str]:
    """The folders of MRC files in a data folder, as classes or numbered files lie there, of which no file is taken."""
    named = {Path(split_address(name)[1]).parent for column in (INPUT, MASK) for name in table[column] if name}
    taken = {folder.resolve() for folder in named}
    below = [path for path in data_dir.iterdir() if path.is_dir()]
    folders = sorted([*below, *(folder for folder in data_dir.glob(f"*/{TARGET_FOLDER}") if folder.is_dir())])
    return [str(path.relative_to(data_dir)) for path in folders if path.resolve() not in taken and mrc_files(path)]


def check_known(names: Iterable[str], source: Path | str) -> None:
    """Refuse a known class that could not be told from a rejection."""
    if UNKNOWN in names:
        raise InputError(
            f"{source}: a known class is named {UNKNOWN!r}, as predict.py calls what is of no known class; rename it"
        )


def read_star(path: Path) -> tuple[pd.DataFrame, Path]:
    """RELION 3 to 5 and Warp: rlnImageName is the volume, rlnClassNumber (from 1) its class; every column is kept.

    Returns the table, and the folder that the paths are relative to (`star_root`).
    """
    found = star_volumes(path)
    table, root = found.table, found.root
    missing = np.flatnonzero(file_states(table[INPUT])[:, 0] < 0)
    if len(missing):
        raise InputError(f"{path}, row {missing[0] + 1}: {table[PARTICLE][missing[0]]}: no such file in {root}")
    if not (label := class_label(table)):
        wanted = f"{GIVEN_CLASS}, as its classes are predictions" if PREDICTED in table else "rlnClassNumber"
        raise InputError(f"{path}: no column {wanted}; expected each particle's class; found {', '.join(table)}")
    names = class_names(table[label], path)
    if (names == "").any():
        row = int((names == "").argmax())
        found = f"{path}, row {row + 1}: {label} {table[label].iloc[row]!r}"
        raise InputError(f"{found}; expected a whole number in every row, the class that is learned")
    return _complete(table.assign(**{LABEL: names}), path), root


@dataclass(frozen=True)
class StarVolumes:
    """A STAR file of volumes.

    table: its particles as text, with the columns of their optics groups, Input Data (rlnImageName, absolute), Particle
        (the same as written), Tomogram and Voxel Size. root: the folder that the paths in it are relative to.
    blocks: all that is in the file, as it was; block: the name of the particles' one.
    """

    table: pd.DataFrame
    root: Path
    blocks: dict[str, Block]
    block: str


def star_volumes(path: Path) -> StarVolumes:
    """The volumes of a STAR file of RELION 3 to 5 or Warp, whether their classes are known or not.

    Raises InputError for a file without rlnImageName, of 2-D stacks, or of whose volumes none is there.
    """
    from loader.star import read_star as read_blocks

    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a STAR file of particles")
    blocks = read_blocks(path)
    if told := flat_images(blocks):
        raise InputError(
            f"{path}: its particles are 2-D stacks of tilts ({told}), not volumes; give its coordinates and the "
            "tomograms to extract.py"
        )
    block = images_block(path, blocks)
    table = blocks[block].reset_index(drop=True)
    if "rlnOpticsGroup" in table and not isinstance(blocks.get("optics", {}), dict):
        optics = blocks["optics"].drop_duplicates("rlnOpticsGroup")
        extra = [column for column in optics.columns if column not in table.columns or column == "rlnOpticsGroup"]
        table = table.merge(optics[extra], on="rlnOpticsGroup", how="left", validate="many_to_one")
    names = list(table["rlnImageName"])
    root = star_root(names, path)
    known = {
        INPUT: absolute_all(names, root),
        PARTICLE: names,
        TOMOGRAM: next((table[name] for name in ("rlnTomoName", "rlnMicrographName") if name in table), ""),
        VOXEL_SIZE: table["rlnImagePixelSize"].fillna("") if "rlnImagePixelSize" in table else "",
    }
    return StarVolumes(table.assign(**known), root, blocks, block)


def images_block(path: Path, blocks: dict[str, Block]) -> str:
    """The name of the block that lists volumes; raises InputError, with what is there, unless there is one."""
    tables = {name: list(block) for name, block in blocks.items() if not isinstance(block, dict)}
    found = [name for name, labels in tables.items() if "rlnImageName" in labels]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{path}: {len(found)} tables with rlnImageName; expected one table of particles")
    labels = "; ".join(f"data_{name}: {', '.join(labels)}" for name, labels in tables.items())
    places = any(
        label.startswith(("rlnCoordinate", "rlnCenteredCoordinate", "wrpCoordinate"))
        for label in chain(*tables.values())
    )
    advice = "; it has coordinates: cut the volumes out with extract.py" if places else ""
    raise InputError(
        f"{path}: 0 tables with rlnImageName, which names the volumes; found {labels or 'no table'}{advice}"
    )


def star_root(names: Sequence[str], star: Path) -> Path:
    """The folder that the paths of a STAR file are relative to: RELION writes them from its project's root.

    That is the first of the STAR file's own folder, those above it and the current one from which the first row's file
    is there; where that row's file is in none of them, the next row's counts, and so on.

    Raises InputError where no row's file is in any of them.
    """
    if not names:
        raise InputError(f"{star}: holds no row; expected one for each particle")
    own = Path(os.path.abspath(star)).parent
    tried = list(dict.fromkeys([own, *own.parents, Path.cwd()]))
    for file in dict.fromkeys(map(address_path, names)):
        for root in tried:
            if os.path.isfile(os.path.abspath(root / file)):
                return root
    more = f" (none of {len(names)} volumes is there)" if len(names) > 1 else ""
    raise InputError(f"{star}, row 1: {names[0]}: no such file in any of {', '.join(map(str, tried))}{more}")


def read_particles_csv(path: Path) -> pd.DataFrame:
    """particles.csv, of simulate.py or of the user; paths in it are relative to its own folder.

    A particle without a name has its address as written, so that two files are two particles; but copies at several
    SNRs, in the layout of the original, are one.
    """
    table = read_csv(path, required=(INPUT, LABEL))
    names = table[PARTICLE] if PARTICLE in table else [""] * len(table)
    pairs = zip(names, table[INPUT], strict=True)
    table[PARTICLE] = [name or snr_copy(address)[0] or address for name, address in pairs]
    for column in (INPUT, MASK):
        if column in table:
            table[column] = absolute_all(table[column].tolist(), path.parent)
    return _complete(table, path)


def read_file_numbers(data_dir: Path, class_names: tuple[str, ...], per_class: int) -> pd.DataFrame:
    """`data*_SNR*/subtomogram_mrc/tomotarget<i>.mrc`: class i // per_class; `packtarget<i>.mrc` its mask, if there."""
    import pandas as pd

    rows = []
    for folder in sorted(data_dir.glob(f"*/{TARGET_FOLDER}")):
        masks = folder.parent / MASK_FOLDER
        for path in sorted(folder.glob("tomotarget*.mrc"), key=lambda path: (len(path.name), path.name)):
            match = re.fullmatch(r"tomotarget(\d+)\.mrc", path.name)
            if match is None:
                raise InputError(f"{path}: expected a name like tomotarget0.mrc")
            number = int(match[1])
            if number // per_class >= len(class_names):
                raise InputError(
                    f"{path}: number {number} is of class {number // per_class} at {per_class} a class; "
                    f"{len(class_names)} class names are known (csv_split.py: class_names, per_class)"
                )
            mask = masks / f"packtarget{number}.mrc"
            rows.append(
                {
                    INPUT: os.path.abspath(path),
                    MASK: os.path.abspath(mask) if mask.is_file() else "",
                    SNR: snr_level(folder.parent.name),
                    LABEL: class_names[number // per_class],
                    PARTICLE: f"{class_names[number // per_class]}_{number % per_class:04d}",
                }
            )
    if not rows:
        raise InputError(f"{data_dir}: no tomotarget<i>.mrc in its {TARGET_FOLDER} folders; expected subtomograms")
    return _complete(pd.DataFrame(rows), data_dir)


def read_class_folders(data_dir: Path) -> pd.DataFrame:
    """One folder per class, named as the class, with its MRC files; a folder without any is warned of."""
    import pandas as pd

    rows, empty = [], []
    for folder in sorted(path for path in data_dir.iterdir() if path.is_dir()):
        files = mrc_files(folder)
        empty += [] if files or folder.name.startswith(".") else [folder.name]
        for path in files:
            rows.append({INPUT: os.path.abspath(path), LABEL: folder.name, PARTICLE: f"{folder.name}/{path.name}"})
    if empty:
        kinds = ", ".join(MRC_SUFFIXES)
        warn(f"{data_dir}: folders without an MRC file of their own ({kinds}) are no classes: {named(empty)}")
    return _complete(pd.DataFrame(rows), data_dir)


def read_csv(
    path: Path, required: tuple[str, ...], content: bytes | None = None, only: Sequence[str] = ()
) -> pd.DataFrame:
    """A CSV file as text, empty cells as "".

    Args:
        content: of the file, where it has been read already.
        only: columns to keep, those of them that are there; empty: every column.

    Raises InputError when there is no such file, it is not a CSV file, or a required column is missing.
    """
    import pandas as pd

    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file")
    sources = (path if content is None else io.BytesIO(content) for _ in range(2))
    options = {"dtype": str, "keep_default_na": False}
    try:
        found = list(pd.read_csv(next(sources), nrows=0, **options))
        table = pd.read_csv(next(sources), usecols=(lambda name: name in only) if only else None, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable CSV file ({error})") from error
    missing = [column for column in required if column not in found]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; found {', '.join(found)}")
    return table


def column_numbers(table: pd.DataFrame, column: str, source: Path | str, unit: str, place: str = "line") -> np.ndarray:
    """A column of numbers, (N,) float64; NaN where a cell is empty, or there is no such column.

    Args:
        unit: of the numbers, for the message.
        place: how the message counts: by the `line` of a CSV file, whose first is the header, or by the `row`.

    Raises InputError for a cell that is no number.
    """
    import pandas as pd

    if column not in table:
        return np.full(len(table), np.nan)
    numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
    wrong = ~np.isfinite(numbers) & (table[column] != "").to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        found = f"{source}, {place} {row + (2 if place == 'line' else 1)}: {column} {table[column].iloc[row]!r}"
        raise InputError(f"{found}; expected a number in {unit}")
    return numbers


def voxel_sizes(table: pd.DataFrame, source: Path | str, place: str = "line") -> np.ndarray:
    """The voxel size that a table states for each row, A, (N,); NaN where it is unknown: empty, 0, or no such column.

    Raises InputError for a cell that is no number, or a negative one.
    """
    sizes = column_numbers(table, VOXEL_SIZE, source, "A", place)
    if (sizes < 0).any():
        row = int((sizes < 0).argmax())
        found = f"{source}, {place} {row + (2 if place == 'line' else 1)}: {VOXEL_SIZE} {table[VOXEL_SIZE].iloc[row]!r}"
        raise InputError(f"{found}; expected a number in A")
    return np.where(sizes == 0, np.nan, sizes)


def _complete(table: pd.DataFrame, source: Path) -> pd.DataFrame:
    """Add the columns that a reader left out, as text; refuse rows without a name, and one particle with two labels or
    tomograms."""
    table = table.astype(object).where(table.notna(), "").astype(str)
    for column in TABLE_COLUMNS:
        if column not in table:
            table[column] = ""
    for column in (INPUT, LABEL):
        empty = table[column] == ""
        if empty.any():
            raise InputError(f"{source}: row {int(empty.argmax()) + 1} has no {column}")
    table.loc[np.isnan(voxel_sizes(table, source, "row")), VOXEL_SIZE] = ""
    twice = table[INPUT].duplicated()
    if twice.any():
        raise InputError(f"{source}: {table[INPUT][twice].iloc[0]} stands in {INPUT} more than once")
    for column, noun in ((LABEL, "labels"), (TOMOGRAM, "tomograms")):
        counts = table[table[column] != ""].groupby(PARTICLE)[column].nunique()
        if (counts > 1).any():
            name = counts.idxmax()
            found = named(table[column][table[PARTICLE] == name].unique())
            raise InputError(f"{source}: particle {name} has {counts.max()} {noun} ({found}); expected one")
    return table


def mrc_files(folder: Path) -> list[Path]:
    """The MRC files that lie in a folder itself, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name.lower().endswith(MRC_SUFFIXES))


def absolute(address: str, folder: Path) -> str:
    """An address whose path is absolute, taken from `folder` where it was relative."""
    number, path = split_address(address)
    return join_address(number, os.path.abspath(folder / path))


def absolute_all(addresses: Iterable[str], folder: Path) -> list[str]:
    """`absolute` of many addresses, each folder worked out once; an empty one stays empty."""
    known: dict[str, str] = {}
    found = []
    for address in addresses:
        path = address_path(address)
        head, slash, tail = path.rpartition(os.sep)
        if tail in ("", ".", ".."):
            found.append(absolute(address, folder) if address else "")
            continue
        if head + slash not in known:
            known[head + slash] = os.path.abspath(os.path.join(folder, head + slash)).rstrip(os.sep) + os.sep
        found.append(address[: len(address) - len(path)] + known[head + slash] + tail)
    return found


def relative(address: str, folder: Path) -> str:
    """The inverse of `absolute`: the path of an address as seen from `folder`."""
    number, path = split_address(address)
    return join_address(number, os.path.relpath(path, folder))


def file_states(addresses: Iterable[str]) -> np.ndarray:
    """Size in bytes and time of the last change in ns of each address's file, (N, 2) int64; -1 where there is none."""
    known: dict[str, tuple[int, int]] = {}
    states = []
    for address in addresses:
        path = address_path(address)
        if path not in known:
            known[path] = _state(path)
        states.append(known[path])
    return np.array(states, dtype=np.int64).reshape(-1, 2)


def _state(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a name that the system does not take is that of no file
        return -1, -1
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (-1, -1)
