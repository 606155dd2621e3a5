"""Closed set: how well a linear classifier on the frozen embeddings tells the known classes apart, on test.csv.

CHECKPOINT, csv_split/{train,valid,test}.csv -> results/<save_dir>-<checkpoint>/{closed_set.json,confusion.png}

    python test.py model_save/checkpoint.pt

The classifier is trained to convergence on train.csv, its regularisation chosen on valid.csv; test.csv chooses nothing.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from common.cli import InputError, choose_device, run
from common.files import results_folder, write_json
from evaluation import figures
from evaluation.closed_set import closed_set_report, format_report, linear_probe
from evaluation.rejection import classify
from loader.columns import PARTICLE, SNR
from loader.dataset import check_classes, load_split, overlap_warning
from loader.rows import snr_convention
from model import embed, load_model


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint of train.py
    csv_dir: str = "csv_split"  # folder of train.csv, valid.csv and test.csv
    results_dir: str = "results"  # folder of the results
    batch_size: int = 256  # volumes embedded at once
    seed: int = 9  # of the bootstrap intervals
    device: str = "auto"  # auto, cpu or cuda


def main(cfg: Config) -> None:
    device = choose_device(cfg.device)
    if cfg.batch_size < 1:
        raise InputError(f"--batch-size {cfg.batch_size}: expected at least 1")
    model, checkpoint = load_model(cfg.checkpoint, device)
    splits, embeddings = {}, {}
    for part in ("train", "valid", "test"):
        path = Path(cfg.csv_dir) / f"{part}.csv"
        splits[part] = load_split(path, checkpoint["preprocessing"])
        check_classes(splits[part], path, checkpoint["classes"])
        embeddings[part] = embed(model, splits[part].images, device, cfg.batch_size, f"embedding {path.name}")

    warning = overlap_warning(splits["test"].rows, checkpoint["progress"]["particles"], Path(cfg.csv_dir) / "test.csv")
    if warning:
        print(f"test.py: warning: {warning}", file=sys.stderr)
    labels = {part: split.labels.numpy() for part, split in splits.items()}
    predictions, regularisation = linear_probe(
        embeddings["train"], labels["train"], embeddings["valid"], labels["valid"], embeddings["test"], cfg.seed
    )
    nearest, _ = classify(embeddings["test"], checkpoint["calibration"].prototypes)
    rows = splits["test"].rows
    report = closed_set_report(
        labels["test"],
        predictions,
        checkpoint["classes"],
        rows[SNR].to_numpy(),
        rows[PARTICLE].to_numpy(),
        cfg.seed,
    )
    report |= {
        "checkpoint": str(cfg.checkpoint),
        "classifier": f"logistic regression on frozen embeddings, C = {regularisation:g} chosen on valid.csv",
        "nearest_prototype_accuracy": float(np.mean(nearest == labels["test"])),
        "snr_convention": snr_convention(rows),
        "seed": cfg.seed,
    }
    folder = results_folder(cfg.results_dir, cfg.checkpoint)
    write_json(folder / "closed_set.json", report)
    figures.confusion_matrix(folder / "confusion.png", report["confusion_matrix"], checkpoint["classes"])
    print(f"test.csv, linear classifier on frozen embeddings; SNR convention: {report['snr_convention']}")
    print(format_report(report))
    print(f"nearest class prototype, without a classifier: accuracy {report['nearest_prototype_accuracy']:.3f}")
    print(f"written: {folder / 'closed_set.json'}, {folder / 'confusion.png'}")


if __name__ == "__main__":
    run(main, Config, __doc__)
