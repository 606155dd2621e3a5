"""The files of a split as open_set.py needs them, whatever classes the checkpoint knows."""

from pathlib import Path

import numpy as np

from common.cli import InputError, named
from evaluation import rejection
from evaluation.bootstrap import rows_per_class
from loader.columns import LABEL
from loader.dataset import Split, check_classes, load_split
from loader.rows import class_names, read_rows

UNSEEN_SETS = ("valid_unseen", "unseen")


def unseen_sets(splits: dict[str, Split]) -> list[str]:
    """The names of the unseen sets that hold anything."""
    return [name for name in UNSEEN_SETS if name in splits]


def load_splits(folder: Path, checkpoint: dict, train_per_class: int, seed: int) -> dict[str, Split]:
    """train (some of each class), test, and those unseen files that hold anything; valid, where the checkpoint knows
    none of the classes of train.csv, for `enrolled`.

    Raises InputError when one of the first is empty or of other classes, or an unseen one has a class that was trained.
    """
    classes = class_names(read_rows(folder / "train.csv").rows, folder / "train.csv")
    foreign = bool(classes) and not {*classes} & {*checkpoint["classes"]}
    choices = {"train": lambda rows: rows_per_class(rows[LABEL].to_numpy(str), train_per_class, seed)}
    splits = {
        name: load_split(folder / f"{name}.csv", checkpoint["preprocessing"], choose=choices.get(name))
        for name in ("train", "test", *(["valid"] if foreign else []))
    }
    for name, split in splits.items():
        check_classes(split, folder / f"{name}.csv", classes if foreign else checkpoint["classes"])
    for name in UNSEEN_SETS:
        split = load_split(folder / f"{name}.csv", checkpoint["preprocessing"])
        known = sorted({*split.rows[LABEL]} & {*checkpoint["classes"]})
        if known:
            raise InputError(
                f"{folder / name}.csv: holds known classes of the checkpoint: {named(known)}; --csv-dir names the "
                "folder of another split"
            )
        if len(split):
            splits[name] = split
    return splits


def enrolled(checkpoint: dict, splits: dict[str, Split], raw: dict[str, np.ndarray]) -> tuple[dict, str]:
    """The checkpoint with the classes of a split as the known ones, and what is to be said of that.

    Prototypes and score compare with the volumes of train; the threshold is fitted on those of valid, which are taken
    out of `splits` and of their embeddings `raw`.
    """
    train, valid = splits["train"], splits.pop("valid")
    embeddings = raw["train"], raw.pop("valid")
    sides = [(found, split.labels.numpy()) for found, split in zip(embeddings, (train, valid), strict=True)]
    before = checkpoint["calibration"]
    classes = class_names(train.rows, "train.csv")
    cohort = None if before.cohort is None else (before.cohort, before.cohort_labels)
    found = rejection.calibrate(*sides, len(classes), before.false_rejection_rate, before.score, cohort)
    note = (
        f"the checkpoint knows none of the classes of train.csv: its {len(classes)} are enrolled from {len(train)} "
        f"volumes, and {len(valid)} of valid.csv set the threshold; the network was trained on none of them"
    )
    return {**checkpoint, "classes": classes, "calibration": found, "criterion": {}}, note
