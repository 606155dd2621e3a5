"""Closed set: how well a linear classifier on the frozen embeddings tells the known classes apart, on test.csv.

CHECKPOINT, csv_split/{train,valid,test}.csv -> results/<save_dir>-<checkpoint>/{closed_set.json,confusion.png}

    python test.py model_save/checkpoint.pt

The classifier is trained to convergence on train.csv, its regularisation chosen on valid.csv; test.csv chooses nothing.
"""

import common.installed  # noqa: F401  where packages are missing it says so

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from common.cli import Device, InputError, choose_device, run, warn
from common.files import claim_results, results_folder, write_json
from evaluation.bootstrap import Resampling
from evaluation.closed_set import ClosedSet, Probe, closed_set_report, linear_probe
from evaluation.figures import plain
from evaluation.rejection import classify
from loader.columns import PARTICLE, SNR
from loader.dataset import check_classes, load_split, overlap_warning
from loader.rows import snr_convention
from model import embed, load_model
from report.closed_set import format_closed_set


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint of train.py
    csv_dir: str = "csv_split"  # folder of train.csv, valid.csv and test.csv
    results_dir: str = "results"  # folder of the results
    batch_size: int = 256  # volumes embedded at once
    seed: int = 9  # seed of the resamples and of the choice of training volumes
    device: Device = "auto"  # where to compute; auto is CUDA where there is one


BOOTSTRAP = 1000  # resamples of particles for the intervals


def main(cfg: Config) -> None:
    device = choose_device(cfg.device)
    if cfg.batch_size < 1:
        raise InputError(f"--batch-size {cfg.batch_size}: expected at least 1")
    model, checkpoint = load_model(cfg.checkpoint, device)
    results_folder(cfg.results_dir, cfg.checkpoint)  # refuses that of another checkpoint before the work
    splits, embeddings = {}, {}
    for part in ("train", "valid", "test"):
        path = Path(cfg.csv_dir) / f"{part}.csv"
        splits[part] = load_split(path, checkpoint["preprocessing"])
        check_classes(splits[part], path, checkpoint["classes"])
        embeddings[part] = embed(model, splits[part].images, device, cfg.batch_size, f"embedding {path.name}")

    warning = overlap_warning(splits["test"].rows, checkpoint["progress"]["particles"], Path(cfg.csv_dir) / "test.csv")
    if warning:
        warn(warning)
    labels = {part: split.labels.numpy() for part, split in splits.items()}
    probe = linear_probe(
        embeddings["train"], labels["train"], embeddings["valid"], labels["valid"], embeddings["test"], cfg.seed
    )
    if probe.unfinished:
        found = ", ".join(f"{value:g}" for value in probe.unfinished)
        warn(f"the classifier did not converge at C = {found}; its best until then was taken")
    nearest, _ = classify(embeddings["test"], checkpoint["calibration"].prototypes)
    rows = splits["test"].rows
    report = closed_set_report(
        labels["test"],
        probe.predictions,
        checkpoint["classes"],
        rows[SNR].to_numpy(),
        rows[PARTICLE].to_numpy(),
        Resampling(BOOTSTRAP, cfg.seed),
    )
    about = {
        "checkpoint": str(cfg.checkpoint),
        "classifier": describe(probe),
        "nearest_prototype_accuracy": float(np.mean(nearest == labels["test"])),
        "snr_convention": snr_convention(rows),
    }
    folder = claim_results(cfg.results_dir, cfg.checkpoint)
    write_json(folder / "closed_set.json", plain(report) | about)
    files = [folder / "closed_set.json"]
    if draw(folder / "confusion.png", report):
        files.append(folder / "confusion.png")
    print(f"test.csv; SNR convention: {about['snr_convention']}\n{about['classifier']}")
    print(format_closed_set(report))
    print(
        f"accuracy by nearest class prototype, as predict.py and open_set.py name classes: "
        f"{about['nearest_prototype_accuracy']:.3f}"
    )
    print(f"written: {', '.join(map(str, files))}")


def describe(probe: Probe) -> str:
    """The classifier in words."""
    text = f"logistic regression on frozen embeddings, C = {probe.regularisation:g} chosen on valid.csv"
    if probe.fitted < probe.given:
        text += f", fitted to {probe.fitted:,} of {probe.given:,} training volumes, as many of each class, at random"
    return text


def draw(path: Path, report: ClosedSet) -> bool:
    """Draw the confusion matrix; says whether that could be done."""
    from report.attempt import attempt  # here, as matplotlib takes a second
    from report.pictures import confusion_matrix

    return attempt(path, lambda path: confusion_matrix(path, report.confusion_matrix, report.classes))


if __name__ == "__main__":
    run(main, Config, __doc__)
