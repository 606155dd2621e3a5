"""Cut subtomograms out of tomograms: tomograms and particles' places -> one stack per tomogram, and particles.csv.

    python extract.py --coordinates particles.star --tomograms tomograms --target-voxel-size 10 --dry-run
    python extract.py --coordinates particles.star --tomograms tomograms --target-voxel-size 10
    python predict.py model_save/checkpoint.pt extracted/particles.csv --contrast dark

Writes, in <out>:
    <tomogram>.mrcs   a 4-D MRC volume stack, each volume at mean 0 and standard deviation 1
    particles.csv     Input Data (N@<tomogram>.mrcs), Actual Label where the source has a class, Particle, Tomogram,
                      Voxel Size, the place in A, file and row of the source, and every column of the source
    check.png         slices of some boxes, and the mean of all, for each tomogram
    extract.json      the options, and which stacks are finished
    failed.csv        tomograms with particles that cannot be read, and why; with any of them the exit code is 3

Coordinates: STAR of RELION 3 to 5, WarpTools, M, pytom-match-pick, TomoTwin and CryoSiam, JSON of copick, .tbl of
Dynamo, CSV with x, y, z; NAME=FILE gives all particles of a file the class NAME. Whose rules hold is told from the file
and printed (docs/coordinates.md). Tomograms: MRC and OME-Zarr. A particle's place comes to the box's centre,
(side - 1) / 2, to a fraction of a voxel; axes are (z, y, x). Nothing is inverted, turned or mirrored: contrast and
handedness are the tomogram's. A run that was cut off goes on with the next tomogram when called again with the same
options.
"""

import common.installed  # noqa: F401  where packages are missing it says so

import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from common.cli import InputError, check_choices, named, run
from common.files import write_csv, write_json
from common.progress import progress
from loader.boxes import Box, write_stack
from loader.columns import FAILED_FILE, PARTICLES_FILE
from loader.coordinates import read_all, split_class
from loader.extraction import Failed, Plan, assign, describe, doubts, is_complete, particles, plan
from loader.flavours import FLAVOURS
from loader.tomogram import Unread, find_tomograms

Flavour = Literal["", *FLAVOURS]  # docs/coordinates.md says what each is


@dataclass(frozen=True)
class Config:
    coordinates: tuple[str, ...]  # particles' places: .star, .tbl, .csv, .json, .coords; NAME=FILE: all of a class
    tomograms: tuple[str, ...]  # MRC files, OME-Zarr folders, folders of these, or the tomograms.star of RELION 5
    out: str = "extracted"  # folder of the stacks, particles.csv and check.png
    box: int = 32  # side of the boxes, voxels
    target_voxel_size: float = 0.0  # voxel size of the boxes, A; 0: each tomogram's own
    flavour: Flavour = ""  # program whose rules the coordinates follow; empty: told from the file
    pixel_size: float = 0.0  # pixel size of the coordinates, A; 0: as the file says; 1 for coordinates in A
    voxel_size: float = 0.0  # voxel size of the tomograms, A, where their headers are wrong; 0: as they say
    edge: Literal["drop", "pad"] = "drop"  # boxes that leave the tomogram: left out, or filled up with their mean
    dtype: Literal["float16", "float32"] = "float16"  # kind of the numbers in the stacks
    tilt_range: tuple[float, float] | None = None  # first and last tilt about y, degrees, for the columns Tilt Min, Max
    skip_missing: bool = False  # leave out the particles of tomograms that are not given
    dry_run: bool = False  # say what would be cut, and write nothing
    overwrite: bool = False  # replace stacks that were cut with other options


RECORD = "extract.json"
PARTLY = 3  # exit code where some tomograms could not be read
NOT_CUT = ("out", "dry_run", "overwrite", "skip_missing", "tilt_range")  # options that change no stack


def main(cfg: Config) -> None:
    check(cfg)
    plans, failed = prepare(cfg)
    if cfg.dry_run:
        print("dry run: nothing is written")
    else:
        failed = extract(cfg, [made for made in plans if len(made.rows)], failed)
    if failed:
        sys.exit(PARTLY)


def extract(cfg: Config, plans: list[Plan], failed: list[Failed]) -> list[Failed]:
    """Cut the boxes and write all about them; the tomograms that could not be read, with those of `failed`."""
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    record = open_record(out, cfg)
    done, broken = cut_all(out, plans, record, cfg.dtype)
    failed = [*failed, *broken]
    if not done:
        raise InputError(failed[0].tomogram.reason)
    unusable = {made.name: record["tomograms"][made.name]["unusable"] for made in done}
    if sum(map(len, unusable.values())):
        warn(f"left out, as they are constant or not finite: {sum(map(len, unusable.values()))} boxes")
    write_csv(out / PARTICLES_FILE, particles(done, unusable))
    contrast = look(out, done, unusable)
    names = ", ".join(str(out / name) for name in (PARTICLES_FILE, "check.png", RECORD, *list_failed(out, failed)))
    print(f"written: {names}, and a stack per tomogram")
    told = f" --contrast {contrast}" if contrast == "dark" else ""
    print(f"for what they are: python predict.py CHECKPOINT {out / PARTICLES_FILE}{told}")
    return failed


def check(cfg: Config) -> None:
    """Refuse options that make no sense."""
    if cfg.box < 2:
        raise InputError(f"--box {cfg.box}: expected at least 2")
    for name in ("target_voxel_size", "pixel_size", "voxel_size"):
        value = getattr(cfg, name)
        if not 0 <= value < math.inf:
            raise InputError(f"--{name.replace('_', '-')} {value:g}: expected a number of A, or 0")
    check_choices(cfg)
    if cfg.tilt_range is not None and not -90 <= cfg.tilt_range[0] < cfg.tilt_range[1] <= 90:
        raise InputError(f"--tilt-range {cfg.tilt_range}: expected two angles in degrees, the lower first")
    if not cfg.coordinates or not cfg.tomograms:
        raise InputError("--coordinates and --tomograms: expected one file at least for each")


def prepare(cfg: Config) -> tuple[list[Plan], list[Failed]]:
    """Read coordinates and headers, and say what will be cut, and which tomograms with particles cannot be read."""
    files, doubtful = read_all(cfg.coordinates, cfg.flavour, cfg.pixel_size)
    for picks in files:
        print(describe(picks))
    found = find_tomograms(cfg.tomograms, cfg.voxel_size)
    parts, missing = assign(files, [given.name for given in (*found.tomograms, *found.unread)], cfg.skip_missing)
    counts = {name: sum(len(rows) for _, rows in of_one) for name, of_one in parts.items()}
    failed = [Failed(unread, counts.get(unread.name, 0)) for unread in found.unread]
    plans = []
    for tomogram in found.tomograms:
        if tomogram.name in parts:
            box = Box(cfg.box, cfg.target_voxel_size or tomogram.voxel_size, pad=cfg.edge == "pad")
            plans.append(plan(tomogram, parts[tomogram.name], box, cfg.tilt_range))
    for text in [*doubtful, *found.warnings, *([missing] if missing else []), *(one.text for one in failed)]:
        warn(text)
    for made in plans:
        print(made.summary())
    if not plans:
        raise InputError(f"none of the tomograms with particles can be read: {failed[0].tomogram.reason}")
    idle = [tomogram.name for tomogram in found.tomograms if tomogram.name not in parts]
    if idle:
        print(f"tomograms without particles: {', '.join(idle)}")
    for text in doubts(plans):
        warn(text)
    print(f"boxes: {' or '.join(dict.fromkeys(box_text(made.box) for made in plans))}")
    return plans, [one for one in failed if one.particles]


def box_text(box: Box) -> str:
    return f"{box.side} voxels of {box.voxel_size:g} A"


def warn(text: str) -> None:
    print(f"extract.py: warning: {text}", file=sys.stderr)


def open_record(out: Path, cfg: Config) -> dict:
    """What extract.json says of earlier stacks; raises InputError where these were cut with other options."""
    options = {name: value for name, value in asdict(cfg).items() if name not in NOT_CUT}
    options["coordinates"] = [os.path.abspath(split_class(name)[1]) for name in options["coordinates"]]
    options["tomograms"] = [os.path.abspath(path) for path in options["tomograms"]]
    empty = {"options": options, "tomograms": {}}
    try:
        found = json.loads((out / RECORD).read_text(encoding="utf-8"))
        other = [name for name in options if found["options"].get(name) != options[name]]
        stacks = [out / f"{name}.mrcs" for name in found["tomograms"]]
    except FileNotFoundError:
        return empty
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out / RECORD}: not a record of extract.py; give another --out") from error
    if not other:
        return found
    if not cfg.overwrite:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in other)
        raise InputError(f"{out}: holds stacks cut with another {names}; give another --out, or --overwrite")
    for stack in stacks:
        stack.unlink(missing_ok=True)
    return empty


def cut_all(out: Path, plans: list[Plan], record: dict, dtype: str) -> tuple[list[Plan], list[Failed]]:
    """Write the stacks that are not there yet, and the record; the plans that are done, and what could not be read."""
    done: list[Plan] = []
    failed: list[Failed] = []
    for made in plans:
        stack = out / f"{made.name}.mrcs"
        if is_complete(stack, made, record["tomograms"].get(made.name, {}), dtype):
            print(f"{stack}: already cut")
            done.append(made)
            continue
        record["tomograms"].pop(made.name, None)
        try:
            record["tomograms"][made.name] = cut(made, stack, dtype)
            done.append(made)
        except InputError as error:
            stack.unlink(missing_ok=True)  # of other places
            failed.append(Failed(Unread(made.tomogram.path, made.name, str(error)), made.given))
            warn(failed[-1].text)
        write_json(out / RECORD, record)
    return done, failed


def list_failed(out: Path, failed: list[Failed]) -> list[str]:
    """Write failed.csv, or remove that of before where nothing failed; the names of what was written."""
    if not failed:
        (out / FAILED_FILE).unlink(missing_ok=True)
        return []
    write_csv(out / FAILED_FILE, pd.DataFrame([one.row() for one in failed]))
    return [FAILED_FILE]


def cut(made: Plan, stack: Path, dtype: str) -> dict:
    """Write a tomogram's stack; the entry of the record."""
    total = len(made.rows)
    boxes: Iterator[np.ndarray] = progress(made.name, made.boxes(stack.parent), total=total, unit="box")
    unusable = write_stack(stack, boxes, total, made.box, dtype)
    return {"fingerprint": made.fingerprint(), "volumes": total - len(unusable), "unusable": unusable}


def look(out: Path, plans: list[Plan], unusable: dict[str, list[int]]) -> str:
    """Draw check.png, and say whether the boxes look centred, of which contrast, and which tomograms look wrong.

    Returns the contrast, empty where it is not clear.
    """
    from loader.check_sheet import ADVICE, check_sheet, glimpse, verdict  # here: --help needs no matplotlib

    seen = [
        glimpse(made.name, out / f"{made.name}.mrcs") for made in plans if len(made.rows) > len(unusable[made.name])
    ]
    if not seen:
        raise InputError(f"{out}: every box is constant or not finite; expected particles")
    found = verdict(seen)
    check_sheet(out / "check.png", seen, box_text(plans[0].box), list(found.odd))
    if found.is_doubtful:
        warn(found.text)
    else:
        print(found.text)
    if found.odd and len(seen) > 1:
        each = named((f"{name} ({reason})" for name, reason in found.odd.items()), most=8)
        warn(f"{len(found.odd)} of {len(seen)} tomograms look wrong: {each}; {ADVICE}")
    return found.contrast


if __name__ == "__main__":
    run(main, Config, __doc__)
