"""Check a split before training on it: print its table, and fail on leaks and on files that cannot be used.

csv_split/*.csv -> a table of particles and volumes; exit code 2 when something is wrong

    python check_split.py

A leak is a particle or a file on two sides, a held-out class among the known, or (with --by-tomogram) a tomogram in two
of train, valid and test. The held-out classes may come from any tomogram.
"""

import common.installed  # noqa: F401  where packages are missing it says so

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.cli import InputError, plural, run
from common.threads import in_threads
from loader.columns import CLASS, INPUT, LABEL, MASK, PARTICLE, SNR, TOMOGRAM, snr_order, snr_text
from loader.packed import check_volumes, own_preprocessing
from loader.rows import SplitRows, class_names, read_rows
from loader.volume import read_volume

KNOWN, HELD_OUT = ("train", "valid", "test"), ("valid_unseen", "unseen")
SHOWN = 10  # problems printed before the rest is only counted


@dataclass(frozen=True)
class Config:
    csv_dir: str = "csv_split"  # folder of the five CSV files
    volumes: bool = True  # open every volume and mask
    by_tomogram: bool = False  # count a tomogram in two of train, valid and test as a leak


def main(cfg: Config) -> None:
    splits = {name: read_rows(Path(cfg.csv_dir) / f"{name}.csv") for name in (*KNOWN, *HELD_OUT)}
    files = {name: split.rows for name, split in splits.items()}
    print(table(files))
    if cfg.by_tomogram and not all(TOMOGRAM in rows for rows in files.values()):
        raise InputError(f"{cfg.csv_dir}: no column {TOMOGRAM}; --by-tomogram needs it")
    problems = [*class_problems(files, cfg.csv_dir), *leaks(files, cfg.by_tomogram)]
    if cfg.volumes:
        problems += bad_volumes([split for split in splits.values() if len(split)])
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        count = f"{len(problems)} {plural('problem', len(problems))}"
        if len(problems) == 1:
            raise InputError(f"{cfg.csv_dir}: {problems[0]}")
        raise InputError(f"{cfg.csv_dir}: {count}", [*problems[:SHOWN], *more])
    print("no leak, no bad file" if cfg.volumes else "no leak; the volumes were not opened")


def table(files: dict[str, pd.DataFrame]) -> str:
    """Particles of each class in each file, known classes first, and volumes by SNR level."""
    rows = pd.concat([rows.assign(File=name) for name, rows in files.items()])
    if not len(rows):
        return "no rows"
    known = rows[rows[CLASS] >= 0].sort_values(CLASS)[LABEL]
    order = list(dict.fromkeys([*known, *rows[LABEL]]))  # the held-out classes follow, as their files do
    names = [name for name in files if len(files[name])]
    particles = rows.groupby([LABEL, "File"])[PARTICLE].nunique().unstack(fill_value=0).reindex(order)[names]
    particles.loc["particles"] = particles.sum()
    volumes = rows.groupby([SNR, "File"]).size().unstack(fill_value=0)[names]
    volumes = volumes.loc[sorted(volumes.index, key=snr_order)]
    volumes.index = [f"volumes, {snr_text(level)}" if level else "volumes" for level in volumes.index]
    both = pd.concat([particles, volumes])
    return both.rename_axis(None).rename_axis(None, axis=1).to_string()


def class_problems(files: dict[str, pd.DataFrame], csv_dir: str) -> list[str]:
    """Class indices and names that disagree between files, and held-out classes among the known."""
    problems = []
    try:
        names = class_names(files["train"], f"{csv_dir}/train.csv")
        for part in KNOWN[1:]:
            if class_names(files[part], f"{csv_dir}/{part}.csv") != names:
                problems.append(f"{part}.csv has other classes than train.csv")
    except InputError as error:
        problems.append(str(error))
    known = set(pd.concat([files[part] for part in KNOWN])[LABEL])
    for part in HELD_OUT:
        problems += [f"{part}.csv: class {name} is also known" for name in sorted(known & set(files[part][LABEL]))]
        if (files[part][CLASS] != -1).any():
            problems.append(f"{part}.csv: a {CLASS} that is not -1")
    both = set(files["unseen"][LABEL]) & set(files["valid_unseen"][LABEL])
    problems += [f"class {name} is in unseen.csv and valid_unseen.csv" for name in sorted(both)]
    return problems


def leaks(files: dict[str, pd.DataFrame], by_tomogram: bool) -> list[str]:
    """Particles, files and tomograms that stand in more than one file, or a file that stands twice in one."""
    problems = []
    rows = pd.concat([rows.assign(File=name) for name, rows in files.items()])
    for name in rows[INPUT][rows[INPUT].duplicated()].unique():
        problems.append(f"{name}: stands {int((rows[INPUT] == name).sum())} times in the split")
    kinds = {PARTICLE: rows} | ({TOMOGRAM: rows[rows["File"].isin(KNOWN)]} if by_tomogram else {})
    for column, those in kinds.items():
        sides = those[those[column] != ""].groupby(column)["File"].unique()
        for name, found in sides[sides.map(len) > 1].items():
            problems.append(f"{column.lower()} {name}: on {len(found)} sides: {', '.join(found)}")
    return problems


def bad_volumes(splits: list[SplitRows]) -> list[str]:
    """What is wrong with the volumes and masks; each is opened, unless it has been packed and not changed since."""
    expected, problems = own_preprocessing(splits[0], "bright") if splits else None, []
    for split in splits:
        problems += check_volumes(split, expected)

        def problem(mask: str, box: int = expected.box) -> str | None:
            try:
                shape = read_volume(mask)[0].shape
            except InputError as error:
                return str(error)
            return None if shape == (box,) * 3 else f"{mask}: not of the {(box,) * 3} voxels of its subtomogram"

        masks = [mask for mask in split.rows[MASK] if mask]
        problems += filter(None, in_threads(problem, masks, f"masks of {split.path.name}", "mask"))
    return problems


if __name__ == "__main__":
    run(main, Config, __doc__)
