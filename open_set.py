"""Open set: what the embeddings say of classes that training never saw.

CHECKPOINT, csv_split/{train,test,valid_unseen,unseen}.csv
    -> results/<save_dir>-<checkpoint>/{open_set.json,open_set.html,*.png}

    python open_set.py model_save/checkpoint.pt

Verification (two unseen particles: same or different?), rejection (known or unknown?), enrolment (a few particles of a
new class name the others), and the same for what size, brightness or an untrained network would say. Nothing is tuned
here: test.csv and the unseen files choose nothing.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from tqdm import tqdm

from common.cli import InputError, choose_device, plural, run
from common.files import results_folder, write_json
from evaluation import floors, rejection, sections
from evaluation.gallery import draw_map, draw_medoids, draw_set
from evaluation.report import format_open_set, write_page
from evaluation.sections import Embedded
from loader.columns import LABEL, PARTICLE, SNR, TOMOGRAM
from loader.dataset import Split, check_classes, load_split, mask_sizes, overlap_warning
from loader.rows import snr_convention
from model import build_model, embed, load_model, with_views


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint of train.py
    csv_dir: str = "csv_split"  # folder of train.csv, test.csv, valid_unseen.csv and unseen.csv
    results_dir: str = "results"  # folder of the results
    train_per_class: int = 300  # training volumes of a class that the floors compare with
    bootstrap: int = 200  # resamples of particles for the 95 % intervals
    discovery: bool = True  # cluster the particles that are called unknown; a third of the time
    floors: bool = True  # the same figures for an untrained network, brightness and size; a third of the time
    umap: bool = True  # draw the map of all embeddings; it takes half a minute
    batch_size: int = 256  # volumes embedded at once
    seed: int = 9  # of pairs, episodes, resamples
    device: str = "auto"  # auto, cpu or cuda


UNSEEN_SETS = ("valid_unseen", "unseen")


def main(cfg: Config) -> None:
    device = choose_device(cfg.device)
    for name in ("train_per_class", "bootstrap", "batch_size"):
        if getattr(cfg, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: expected at least 1")
    model, checkpoint = load_model(cfg.checkpoint, device)
    splits = load_splits(cfg, checkpoint)
    warning = overlap_warning(splits["test"].rows, checkpoint["progress"]["particles"], Path(cfg.csv_dir) / "test.csv")
    if warning:
        print(f"open_set.py: warning: {warning}", file=sys.stderr)
    unseen_sets = [name for name in UNSEEN_SETS if name in splits]
    if not unseen_sets:
        print(
            "no held-out classes: valid_unseen.csv and unseen.csv hold no particle, so only known classes are reported"
        )
        print("to hold classes out: csv_split.py --unseen NAMES, then train again")

    calibration = checkpoint["calibration"]
    prototypes = calibration.prototypes
    raw = {
        name: embed(model, split.images, device, cfg.batch_size, f"embedding {name}.csv", normalised=False)
        for name, split in splits.items()
    }
    sets = {name: as_embedded(rejection.unit(raw[name]), split) for name, split in splits.items()}
    correct = rejection.classify(raw["test"], prototypes)[0] == splits["test"].labels.numpy()
    report = {
        "checkpoint": str(cfg.checkpoint),
        "known_classes": checkpoint["classes"],
        "snr_convention": snr_convention(splits["test"].rows),
        "confidence": 0.95,
        "bootstrap": cfg.bootstrap,
        "seed": cfg.seed,
        "known": sections.known_only(sets["test"], correct, cfg.seed, cfg.bootstrap),
    }
    scores = all_scores(checkpoint, raw) if unseen_sets else {}
    floor_sets = [("this network", sets, True)]
    floor_sets += floor_embeddings(cfg, checkpoint, splits, device) if unseen_sets and cfg.floors else []
    folder = results_folder(cfg.results_dir, cfg.checkpoint)
    pictures = {}
    for name in unseen_sets:
        known, unseen = sets["test"], sets[name]
        default = scores["test"][calibration.score], scores[name][calibration.score]
        rejected = tuple(values < calibration.threshold for values in default)
        n_classes = len(np.unique(unseen.classes))
        print(f"evaluating {name}.csv: {len(unseen)} volumes of {n_classes} unseen {plural('class', n_classes)}")
        options = cfg.seed, cfg.bootstrap
        steps = {
            "verification": partial(sections.verify, unseen, known, *options),
            "rejection": partial(
                sections.reject, known, unseen, scores["test"], scores[name], correct, calibration, *options
            ),
            "enrolment": partial(sections.enrol, unseen, prototypes, *options),
        }
        if cfg.discovery:
            steps["discovery"] = partial(sections.discovery, known, unseen, rejected, *options)
        steps |= {
            f"floor: {label}": partial(
                sections.floor, label, rows["train"], rows["test"], rows[name], *options, prepare
            )
            for label, rows, prepare in floor_sets
        }
        part = {
            "classes": sorted(np.unique(unseen.classes)),
            "n": len(unseen),
            "n_particles": len(np.unique(unseen.particles)),
            **compute(steps),
            "confounds": floors.confounds(*default, factors(splits["test"], splits[name])),
        }
        part["floors"] = [part.pop(step) for step in steps if step.startswith("floor: ")]
        report[name] = part
        pictures[name] = draw_set(folder, name, part, report["known"]["seen_seen"], known, unseen, default)
        if cfg.discovery:
            pictures[name] += draw_medoids(
                folder / f"{name}_clusters.png", part, (splits["test"].images, splits[name].images), rejected
            )
    if cfg.umap:
        pictures["all"] = draw_map(folder / "map.png", sets["test"], [sets[name] for name in unseen_sets], cfg.seed)
    write_json(folder / "open_set.json", report)
    write_page(folder / "open_set.html", report, pictures)
    print(format_open_set(report))
    files = [path for drawn in pictures.values() for path, _ in drawn]
    print("written: " + ", ".join(map(str, [folder / "open_set.json", folder / "open_set.html", *files])))


def compute(steps: dict[str, Callable[[], dict]]) -> dict[str, dict]:
    """The result of each step, with a bar that says which is at work."""
    results = {}
    with tqdm(total=len(steps), unit="part", leave=False) as bar:
        for name, step in steps.items():
            bar.set_description(name)
            results[name] = step()
            bar.update()
    return results


def load_splits(cfg: Config, checkpoint: dict) -> dict[str, Split]:
    """train (some of each class), test, and those unseen files that hold anything.

    Raises InputError when train.csv or test.csv is empty or of other classes, or a class is both known and unseen.
    """
    folder = Path(cfg.csv_dir)
    some = {"train": partial(per_class, count=cfg.train_per_class, seed=cfg.seed), "test": None}
    splits = {
        name: load_split(folder / f"{name}.csv", checkpoint["preprocessing"], choose=choose)
        for name, choose in some.items()
    }
    for name, split in splits.items():
        check_classes(split, folder / f"{name}.csv", checkpoint["classes"])
    for name in UNSEEN_SETS:
        split = load_split(folder / f"{name}.csv", checkpoint["preprocessing"])
        known = sorted({*split.rows[LABEL]} & {*checkpoint["classes"]})
        if known:
            raise InputError(f"{folder / name}.csv: holds known classes of the checkpoint: {', '.join(known)}")
        if len(split):
            splits[name] = split
    return splits


def per_class(rows: pd.DataFrame, count: int, seed: int) -> np.ndarray:
    """Which rows: at most `count` of each class, drawn at random, in order."""
    order = np.random.default_rng(seed).permutation(len(rows))
    drawn = rows[LABEL].iloc[order]
    return np.sort(order[drawn.groupby(drawn).cumcount().to_numpy() < count])


def as_embedded(embeddings: np.ndarray, split: Split) -> Embedded:
    return Embedded(embeddings, *(split.rows[column].to_numpy(str) for column in (LABEL, PARTICLE, SNR)))


def all_scores(checkpoint: dict, raw: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Every score of every set but train.

    Logits are those of the loss's affine softmax head, where it has one, for the known classes: auxiliary ones, that
    only training had, come after.
    """
    known = len(checkpoint["classes"])
    weight, bias = (checkpoint["criterion"].get(f"head.{key}") for key in ("weight", "bias"))
    scores = {}
    for name, embeddings in raw.items():
        if name != "train":
            logits = None if weight is None else embeddings @ weight[:known].numpy().T + bias[:known].numpy()
            scores[name] = rejection.all_scores(embeddings, checkpoint["calibration"], logits)
    return scores


def floor_embeddings(
    cfg: Config, checkpoint: dict, splits: dict[str, Split], device: torch.device
) -> list[tuple[str, dict[str, Embedded], bool]]:
    """The sets as an untrained network, size alone and intensity alone see them; last: prepare as the authors do."""
    with torch.random.fork_rng():
        torch.manual_seed(cfg.seed)
        untrained = build_model(checkpoint["config"]).to(device).eval()
    untrained = with_views(untrained, checkpoint["config"], checkpoint["preprocessing"])
    embeddings = {
        "untrained network": {
            name: embed(untrained, split.images, device, cfg.batch_size, f"untrained network, {name}.csv")
            for name, split in splits.items()
        }
    }
    voxels = {name: mask_sizes(split.rows) for name, split in splits.items()}
    features = {
        "intensity only": {name: split.intensity for name, split in splits.items()},
        "size as round blobs see it": {name: floors.blob_features(split.images) for name, split in splits.items()},
    }
    if all(sizes is not None for sizes in voxels.values()):
        features["size only (true masks)"] = {name: floors.size_features(sizes) for name, sizes in voxels.items()}
    for label, values in features.items():
        embeddings[label] = {name: floors.feature_embedding(values[name], values["train"]) for name in values}
    return [
        (label, {name: as_embedded(values[name], splits[name]) for name in values}, label == "untrained network")
        for label, values in embeddings.items()
    ]


def factors(known: Split, unseen: Split) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What "unknown" must not follow: name -> values of the known and of the unseen particles; only what varies."""
    columns = {"SNR": SNR, "tomogram": TOMOGRAM}
    result = {
        name: tuple(split.rows[column].to_numpy(str) for split in (known, unseen))
        for name, column in columns.items()
        if column in known.rows and column in unseen.rows
    }
    for number, name in enumerate(("mean intensity", "contrast (standard deviation)")):
        result[name] = known.intensity[:, number], unseen.intensity[:, number]
    return {name: values for name, values in result.items() if len(np.unique(np.concatenate(values))) > 1}


if __name__ == "__main__":
    run(main, Config, __doc__)
