"""Check a split before training on it: print its table, and fail on leaks and on files that cannot be used.

csv_split/*.csv -> a table of particles and volumes; exit code 2 when something is wrong

    python check_split.py

A leak is a particle or a file on two sides, a held-out class among the known, or (with --by-tomogram) a tomogram in two
of train, valid and test. The held-out classes may come from any tomogram.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from common.cli import InputError, plural, run
from loader.columns import CLASS, INPUT, LABEL, MASK, PARTICLE, SNR, TOMOGRAM, snr_order, snr_text
from loader.dataset import READERS, check_volume, class_names, first_preprocessing, read_split
from loader.volume import normalise, read_volume

KNOWN, HELD_OUT = ("train", "valid", "test"), ("valid_unseen", "unseen")
SHOWN = 10  # problems printed before the rest is only counted


@dataclass(frozen=True)
class Config:
    csv_dir: str = "csv_split"  # folder of the five CSV files
    volumes: bool = True  # open every volume and mask
    by_tomogram: bool = False  # a tomogram in two of train, valid and test is a leak


def main(cfg: Config) -> None:
    files = {}
    for name in (*KNOWN, *HELD_OUT):
        files[name] = read_split(Path(cfg.csv_dir) / f"{name}.csv")
    print(table(files))
    if cfg.by_tomogram and not all(TOMOGRAM in rows for rows in files.values()):
        raise InputError(f"{cfg.csv_dir}: no column {TOMOGRAM}; --by-tomogram needs it")
    problems = [*class_problems(files, cfg.csv_dir), *leaks(files, cfg.by_tomogram)]
    if cfg.volumes:
        problems += bad_volumes(pd.concat(files.values(), ignore_index=True))
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise InputError(f"{cfg.csv_dir}: {len(problems)} {plural('problem', len(problems))}{shown}{more}")
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


def bad_volumes(rows: pd.DataFrame) -> list[str]:
    """What is wrong with the volumes and masks; each is opened, with a progress bar."""
    if not len(rows):
        return []
    expected = first_preprocessing(rows, "bright")

    def problem(index: int) -> str | None:
        address, mask = rows[INPUT].iloc[index], rows[MASK].iloc[index]
        try:
            volume, voxel_size = read_volume(address)
            check_volume(address, volume, voxel_size, expected)
            normalise(volume, address)
            if mask and read_volume(mask)[0].shape != volume.shape:
                return f"{mask}: not of the {volume.shape} voxels of its subtomogram"
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(READERS) as pool:
        found = list(tqdm(pool.map(problem, range(len(rows))), total=len(rows), unit="volume", leave=False))
    return [text for text in found if text]


if __name__ == "__main__":
    run(main, Config, __doc__)
