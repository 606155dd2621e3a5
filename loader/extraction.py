"""From places and tomograms to boxes: whose particles lie in which tomogram, what is cut, and what is kept of it."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.cli import InputError, named, plural
from loader.boxes import Box, boxes_inside, centres_inside, cut_box
from loader.columns import (
    INPUT,
    LABEL,
    PARTICLE,
    POSITION,
    REASON,
    SOURCE_FILE,
    SOURCE_ROW,
    TILT_MAX,
    TILT_MIN,
    TOMOGRAM,
    VOXEL_SIZE,
)
from loader.coordinates import binning, places
from loader.flavours import FLAVOURS, PREDICTED, Picks, class_label
from loader.tomogram import Tomogram, Unread, open_voxels, plain_name
from loader.volume import join_address

OURS = (INPUT, LABEL, PARTICLE, TOMOGRAM, VOXEL_SIZE, TILT_MIN, TILT_MAX, *POSITION, SOURCE_FILE, SOURCE_ROW)
CORNER = 0.5  # of the tomogram: many particles within this share along every axis are a sign of a wrong pixel size
MANY = 20  # particles whose places say something together

Part = tuple[Picks, np.ndarray]  # a file and the numbers of some of its rows


@dataclass(frozen=True)
class Plan:
    """What is cut from one tomogram.

    rows: one for each box, in the order of the stack, without Input Data and Particle. places: (n, 3) = (z, y, x)
    voxels of the tomogram. given, outside, at_edge: particles there are, whose centre lies outside of the tomogram, and
    whose box alone leaves it. binning: pixels of the tilt series, or of the coordinates, in one voxel of the tomogram;
    NaN where it is not known.
    """

    tomogram: Tomogram
    box: Box
    rows: pd.DataFrame
    places: np.ndarray
    given: int
    outside: int
    at_edge: int
    binning: float
    span: tuple[np.ndarray, np.ndarray]  # the least and the largest place along each axis, of all that were given

    @property
    def name(self) -> str:
        """Of the tomogram."""
        return self.tomogram.name

    def fingerprint(self) -> str:
        """Changes with the tomogram's file and with the places."""
        state = os.stat(self.tomogram.path)
        file = f"{os.path.abspath(self.tomogram.path)} {state.st_size} {state.st_mtime_ns}".encode()
        return hashlib.sha256(file + np.ascontiguousarray(self.places).tobytes()).hexdigest()

    def boxes(self, scratch: Path) -> Iterator[np.ndarray]:
        """The boxes, one at a time; `scratch` is a folder for what has to be unpacked."""
        with open_voxels(self.tomogram, scratch) as voxels:
            for place in self.places:
                yield cut_box(voxels, place, self.tomogram.voxel_size, self.box)

    def summary(self) -> str:
        """One line: the tomogram, how many particles are taken, and the file that its name was matched to."""
        z, y, x = self.tomogram.shape
        binned = "" if np.isnan(self.binning) else f", binning {self.binning:.4g}"
        edge = "of them at the edge and filled up" if self.box.pad else "at the edge"
        counts = f"{len(self.rows)} taken, {self.at_edge} {edge}, {self.outside} outside"
        return (
            f"{self.name}: {z} x {y} x {x} voxels (z, y, x) of {self.tomogram.voxel_size:g} A{binned}; "
            f"{self.given} {plural('particle', self.given)}: {counts}; {self.tomogram.path}"
        )


@dataclass(frozen=True)
class Failed:
    """A tomogram that could not be read, how many particles are in it, and why."""

    tomogram: Unread
    particles: int

    @property
    def text(self) -> str:
        """One line."""
        left_out = f"its {self.particles} particles are left out" if self.particles else "it has no particles here"
        return f"{self.tomogram.reason}; {left_out}"

    def row(self) -> dict[str, str | int]:
        """Of failed.csv."""
        file = os.path.abspath(self.tomogram.path)
        return {TOMOGRAM: self.tomogram.name, "File": file, "Particles": self.particles, REASON: self.tomogram.reason}


def assign(files: Sequence[Picks], tomograms: Sequence[str], skip_missing: bool) -> tuple[dict[str, list[Part]], str]:
    """The rows of each tomogram, by its name in the order of the files, and a word on names that were not found.

    Raises InputError for rows whose tomogram is not there, unless they are to be skipped, or cannot be told.
    """
    parts: dict[str, list[Part]] = {}
    missing: dict[str, int] = {}
    for picks in files:
        written = pd.Series(picks.tomograms)
        names = written.map({name: plain_name(name) or _unnamed(picks, tomograms) for name in written.unique()})
        for name, rows in names.groupby(names, sort=False).indices.items():
            if name in tomograms:
                parts.setdefault(name, []).append((picks, rows))
            else:
                missing[name] = missing.get(name, 0) + len(rows)
    if not missing:
        return parts, ""
    unused = [name for name in tomograms if name not in parts]
    text = (
        f"{sum(missing.values())} particles are of tomograms that were not given: {named(missing)}; tomograms without "
        f"particles: {named(unused) or 'none'}; with: {named(parts) or 'none'} (names without folder, rec_, "
        "_10.00Apx, _Vol and suffix; RELION's tomograms.star, given to --tomograms, tells which file is whose)"
    )
    if not skip_missing or not parts:
        raise InputError(f"{text}; --skip-missing leaves them out" if parts else text)
    return parts, text


def _unnamed(picks: Picks, known: Sequence[str]) -> str:
    """The tomogram of a file that names none: the only one, or the longest name that the file's own begins with."""
    if len(known) == 1:
        return known[0]
    fitting = [name for name in known if plain_name(picks.path.name).startswith(name)]
    if not fitting:
        column = f", or a column {TOMOGRAM}; found {', '.join(picks.table)}" if picks.flavour == "csv" else ""
        raise InputError(
            f"{picks.path}: names no tomogram, and {len(known)} are given ({named(known)}); expected one tomogram, or "
            f"a file whose name begins with the tomogram's{column}"
        )
    return max(fitting, key=len)


def plan(tomogram: Tomogram, parts: Sequence[Part], box: Box, tilt_range: tuple[float, float] | None) -> Plan:
    """What to cut from a tomogram; raises InputError as `places` does."""
    found = np.concatenate([places(picks, rows, tomogram) for picks, rows in parts])
    centres = centres_inside(found, tomogram.shape)
    whole = boxes_inside(found, tomogram.shape, tomogram.voxel_size, box)
    taken = centres & (whole | box.pad)
    rows = pd.concat([_source_rows(picks, chosen) for picks, chosen in parts], ignore_index=True).fillna("")
    ours = {TOMOGRAM: tomogram.name, VOXEL_SIZE: f"{box.voxel_size:g}"}
    if tilt_range is not None:
        ours |= {TILT_MIN: f"{tilt_range[0]:g}", TILT_MAX: f"{tilt_range[1]:g}"}
    ours |= {name: np.round(found[:, axis] * tomogram.voxel_size, 3) for axis, name in enumerate(POSITION)}
    return Plan(
        tomogram,
        box,
        rows.assign(**ours)[taken].reset_index(drop=True),
        found[taken],
        given=len(found),
        outside=int((~centres).sum()),
        at_edge=int((centres & ~whole).sum()),
        binning=float(np.mean([binning(picks, chosen, tomogram) for picks, chosen in parts])),
        span=(found.min(axis=0), found.max(axis=0)),
    )


def _source_rows(picks: Picks, rows: np.ndarray) -> pd.DataFrame:
    """Some rows of a file as text: class, file and row of the source, and every column of its own.

    A source's column that has a name of ours is called `Source ...`.
    """
    ours = {name.lower(): name for name in (LABEL, TOMOGRAM)} | {name: name for name in OURS}  # those two in any case
    taken, new = set(picks.table), {}
    for name in picks.table:
        if known := ours.get(name) or ours.get(name.lower()):
            new[name] = f"Source {known}"
            while new[name] in taken:
                new[name] = f"Source {new[name]}"
            taken.add(new[name])
    own = picks.table.iloc[rows].rename(columns=new)
    first = {LABEL: picks.classes[rows], SOURCE_FILE: os.path.abspath(picks.path), SOURCE_ROW: rows + 1}
    return pd.concat([pd.DataFrame(first), own.reset_index(drop=True)], axis=1)


def particles(plans: Sequence[Plan], unusable: dict[str, list[int]]) -> pd.DataFrame:
    """The table of all boxes in the stacks `<tomogram>.mrcs`, ours first; Actual Label where a class is known."""
    tables = []
    for made in plans:
        rows = made.rows.drop(index=unusable[made.name])
        numbers = range(1, len(rows) + 1)
        addresses = [join_address(number, f"{made.name}.mrcs") for number in numbers]
        tables.append(rows.assign(**{INPUT: addresses, PARTICLE: [f"{made.name}/{number}" for number in numbers]}))
    table = pd.concat(tables, ignore_index=True).fillna("")
    if (table[LABEL] == "").all():
        table = table.drop(columns=LABEL)
    ours = [name for name in OURS if name in table]
    return table[ours + [name for name in table if name not in ours]]


def describe(picks: Picks) -> str:
    """One line: flavour, units, where 0 is, and what told the pixel size."""
    flavour = FLAVOURS[picks.flavour]
    unit = flavour.unit
    if picks.size_label:
        sizes = sorted({f"{size:g}" for size in picks.pixel_size})
        unit = f"{unit} of {', '.join(sizes)} A ({picks.size_label})"
    elif flavour.sizes or unit == "voxels":
        unit = f"{unit} of {flavour.default}"
    taken = class_label(picks.table)
    predicted = f"; {f'classes from {taken}' if taken else 'without classes'}: rlnClassNumber is of predict.py"
    return (
        f"{picks.path}: {flavour.program} (--flavour {picks.flavour}); {len(picks)} {plural('particle', len(picks))}, "
        f"in {unit}; {flavour.rule}{predicted if PREDICTED in picks.table else ''}"
    )


def doubts(plans: Sequence[Plan]) -> list[str]:
    """What about the places looks wrong; raises InputError where no particle is left."""
    hint = "are units, centre or pixel size others? --flavour, --pixel-size, --voxel-size"
    if not any(len(made.rows) for made in plans):
        worst = max(plans, key=lambda made: made.given)
        low, high = (", ".join(f"{value:.0f}" for value in end) for end in worst.span)
        raise InputError(
            f"no box lies inside its tomogram: the places in {worst.name} go from ({low}) to ({high}) in "
            f"{worst.tomogram.shape} voxels (z, y, x), with boxes of {worst.box.side} voxels of "
            f"{worst.box.voxel_size:g} A; {hint}"
        )
    found = []
    for made in plans:
        if made.outside > made.given / 2:
            found.append(f"{made.name}: {made.outside} of {made.given} particles are outside of it: {hint}")
        elif made.given >= MANY and (made.span[1] < CORNER * np.array(made.tomogram.shape)).all():
            found.append(f"{made.name}: all {made.given} particles are in one corner of it: {hint}")
    return found


def is_complete(stack: Path, made: Plan, entry: dict, dtype: str) -> bool:
    """Whether a stack holds what the plan asks for, by the entry that was kept when it was written."""
    if entry.get("fingerprint") != made.fingerprint() or not stack.is_file():
        return False
    return stack.stat().st_size == 1024 + entry["volumes"] * made.box.side**3 * np.dtype(dtype).itemsize
