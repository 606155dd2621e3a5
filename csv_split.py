"""Split a data set into known classes (train, valid, test) and held-out classes (valid_unseen, unseen).

data_/ (or a STAR file) -> csv_split/{train,valid,test,valid_unseen,unseen}.csv

    python csv_split.py
    python csv_split.py --unseen 1qvr 2cg9 --valid-unseen 2hpi
    python csv_split.py --unseen benchmark --valid-unseen benchmark --classes benchmark

The unit is the particle: all SNR copies of one particle fall on one side. The split is stratified by class. With
--by-tomogram no tomogram is in two of train, valid and test; the held-out classes may come from any.
"""

import common.installed  # noqa: F401  where packages are missing it says so

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.cli import InputError, find_data_dir, named, plural, run, warn
from common.files import write_csv
from loader import sources
from loader.columns import CLASS, INPUT, LABEL, MASK, PARTICLE, SNR, TABLE_COLUMNS, TOMOGRAM, VOXEL_SIZE
from loader.parts import PARTS, reached, split_particles, split_tomograms
from simulation.class_sets import CLASS_SETS

FILES = (*PARTS, "valid_unseen", "unseen")
HEADER = [INPUT, MASK, CLASS, SNR, LABEL, PARTICLE, TOMOGRAM, VOXEL_SIZE]
FEWEST = len(PARTS)  # particles of a known class: one per part


@dataclass(frozen=True)
class Config:
    data_dir: str = "data_"  # folder of the subtomograms
    csv_dir: str = "csv_split"  # folder of the five CSV files
    star: str = ""  # STAR file with rlnImageName and rlnClassNumber, in place of the data folder
    classes: tuple[str, ...] = ()  # classes to use, the known ones in this order; none: all; or the name of a set
    unseen: tuple[str, ...] = ()  # classes held out of all but the final figures; or the name of a set
    valid_unseen: tuple[str, ...] = ()  # classes held out of training, to choose by; or the name of a set
    fractions: tuple[float, float, float] = (0.6, 0.1, 0.3)  # shares of each class's particles in train, valid and test
    by_tomogram: bool = False  # keep each tomogram in one of train, valid and test; held-out classes come from any
    seed: int = 9  # seed of the draw of particles, or tomograms, for each part
    class_names: tuple[str, ...] = CLASS_SETS["original"].known  # names of the classes of numbered files, in order
    per_class: int = 500  # number of files per class, where files are numbered and nothing else tells classes


def main(cfg: Config) -> None:
    check(cfg)
    data_dir = Path() if cfg.star else find_data_dir(cfg.data_dir)
    table, source = sources.read_particles(data_dir, cfg.star, cfg.class_names, cfg.per_class)
    unseen, valid_unseen = expand(cfg.unseen, "unseen"), expand(cfg.valid_unseen, "valid_unseen")
    classes = choose_classes(table, expand(cfg.classes, "all"), unseen, valid_unseen, source)
    known = [name for name in classes if name not in {*unseen, *valid_unseen}]
    sources.check_known(known, source)

    table[CLASS] = table[LABEL].map({name: index for index, name in enumerate(known)}).fillna(-1).astype(int)
    files = {"valid_unseen": table[table[LABEL].isin(valid_unseen)], "unseen": table[table[LABEL].isin(unseen)]}
    part_of = split(table[table[LABEL].isin(known)], cfg, source)
    parts = table[PARTICLE].map(part_of)
    files |= {part: table[parts == part] for part in PARTS}

    csv_dir = Path(cfg.csv_dir)
    for name in FILES:
        write_csv(csv_dir / f"{name}.csv", movable(files[name], csv_dir))
    print(f"labels from {source}")
    known_particles = table[table[LABEL].isin(known)].drop_duplicates(PARTICLE)
    if cfg.by_tomogram:
        print(reached(known_particles, part_of, cfg.fractions))
    else:
        print(tomogram_note(known_particles), end="")
    for name in FILES[len(PARTS) :]:
        print(single_note(name, files[name]), end="")
    if not cfg.star:
        warn_of_left_out(data_dir, table, source)
    for name in FILES:
        rows = files[name]
        counts = ("class", rows[LABEL].nunique()), ("particle", rows[PARTICLE].nunique()), ("volume", len(rows))
        text = "  ".join(f"{count:7d} {plural(noun, count):{len(plural(noun, 2))}s}" for noun, count in counts)
        print(f"{csv_dir / (name + '.csv')!s:32s}{text}".rstrip())


def warn_of_left_out(data_dir: Path, table: pd.DataFrame, source: str) -> None:
    """Say so where the data folder holds volumes that another source of labels would have given."""
    folders = sources.left_out(data_dir, table)
    if folders:
        warn(
            f"the labels are those of {source}; left out, as it names none of their volumes: "
            f"{named(folders)} in {data_dir}; to take these instead, move them into a folder of their own and give it "
            "with --data-dir"
        )


def check(cfg: Config) -> None:
    """Refuse options that make no sense."""
    if not (min(cfg.fractions) > 0 and abs(sum(cfg.fractions) - 1) <= 1e-6):  # so that nan is refused
        raise InputError(f"--fractions {cfg.fractions}: expected three positive numbers that sum to 1")
    if cfg.per_class < 1:
        raise InputError(f"--per-class {cfg.per_class}: expected at least 1")


def expand(names: tuple[str, ...], role: str) -> tuple[str, ...]:
    """The name of a class set alone stands for the set's classes of that role."""
    if len(names) == 1 and names[0] in CLASS_SETS:
        chosen = CLASS_SETS[names[0]]
        return chosen.known + chosen.valid_unseen + chosen.unseen if role == "all" else getattr(chosen, role)
    return names


def choose_classes(
    table: pd.DataFrame, classes: tuple[str, ...], unseen: tuple[str, ...], valid_unseen: tuple[str, ...], source: str
) -> list[str]:
    """The classes in use, in order; every name that was given must be there."""
    found = list(dict.fromkeys(table[LABEL]))
    for name in (*classes, *unseen, *valid_unseen):
        if name not in found:
            raise InputError(f"{source}: no class {name!r}; found {', '.join(found)}")
    both = set(unseen) & set(valid_unseen)
    if both:
        raise InputError(f"--unseen and --valid-unseen share {', '.join(sorted(both))}; expected different classes")
    chosen = [name for name in found if name in {*classes, *unseen, *valid_unseen}] if classes else found
    if classes:
        chosen.sort(key=lambda name: classes.index(name) if name in classes else len(classes))
    if len(set(chosen) - {*unseen, *valid_unseen}) < 2:
        raise InputError(f"{source}: fewer than two known classes are left of {', '.join(found)}")
    return chosen


def split(table: pd.DataFrame, cfg: Config, source: str) -> dict[str, str]:
    """Particle -> train, valid or test, stratified by class."""
    particles = table.drop_duplicates(PARTICLE)
    counts = particles[LABEL].value_counts()
    for name, count in counts[counts < FEWEST].items():
        found = f"class {name} has {count} {plural('particle', count)}"
        raise InputError(f"{source}: {found}; expected at least {FEWEST}, one for each part")
    if cfg.by_tomogram:
        part_of = split_tomograms(particles, cfg.fractions, cfg.seed, source)
    else:
        part_of = split_particles(particles, cfg.fractions, cfg.seed)
    parts = particles[PARTICLE].map(part_of)
    present = pd.crosstab(particles[LABEL], parts).reindex(columns=PARTS, fill_value=0)
    for part in PARTS:
        for name in present.index[present[part] == 0]:
            raise InputError(f"{source}: no particle of class {name} falls into {part}; expected one at least")
    return part_of


def tomogram_note(particles: pd.DataFrame) -> str:
    """A line for a split that tears tomograms apart; nothing where the tomograms are unknown, or there is but one."""
    count = particles[TOMOGRAM].nunique()
    if count < 2 or (particles[TOMOGRAM] == "").any():
        return ""
    return (
        f"the particles are of {count} tomograms, and those of one tomogram share its noise: figures on particles of "
        "tomograms that training saw are too good; --by-tomogram keeps each tomogram on one side\n"
    )


def single_note(name: str, rows: pd.DataFrame) -> str:
    """A line for held-out rows of one class alone; nothing where there are more, or none."""
    if rows[LABEL].nunique() != 1:
        return ""
    return (
        f"{name}.csv holds one class, {rows[LABEL].iloc[0]}: whether it is told from the known can be measured, "
        "whether new classes come apart cannot; for that, hold two or more out\n"
    )


def movable(table: pd.DataFrame, csv_dir: Path) -> pd.DataFrame:
    """Our columns first; paths relative to the CSV's own folder, so that the data set can be moved."""
    paths = {
        column: [sources.relative(name, csv_dir) if name else "" for name in table[column]] for column in (INPUT, MASK)
    }
    table = table.assign(**paths)
    return table[HEADER + [column for column in table if column not in (*HEADER, *TABLE_COLUMNS)]]


if __name__ == "__main__":
    run(main, Config, __doc__)
