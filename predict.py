"""Which known class is each of these volumes, or is it unknown?

CHECKPOINT, MRC files | N@stack.mrcs | a folder | a CSV file
    -> results/<save_dir>-<checkpoint>/predict/{predictions.csv,predictions.json,embeddings.npz,predictions.png}

    python predict.py model_save/checkpoint.pt new_particles
    python predict.py model_save/checkpoint.pt one.mrc 17@stack.mrcs particles.csv --name second   # -> .../second/

The files may have another box or voxel size than the training volumes; they are brought to these. A particle is unknown
where its score is below the checkpoint's threshold; the nearest known class is told nevertheless. predictions.json
says what the predictions were made from; those that are replaced are named. embeddings.npz (np.load) has the rows of
predictions.csv: embeddings, predictions (an index into classes, -1 for unknown), and inputs as UTF-8 bytes with a zero
byte between two.
"""

import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
import tyro
from torch import nn
from tqdm import tqdm

from common.cli import Device, InputError, check_choices, choose_device, plural, run, warn
from common.files import atomic_path, claim_results, results_folder, write_csv, write_json
from common.threads import READERS
from evaluation.rejection import accuracy_warning, calibrated_score, unit
from loader.columns import (
    INPUT,
    NEAREST,
    NEAREST_COSINE,
    PREDICTION,
    RUNNER_UP,
    RUNNER_UP_COSINE,
    SCORE,
    THRESHOLD,
    UNKNOWN,
)
from loader.dataset import contrast_warning
from loader.prepare import Input, Preprocessing, find_inputs, prepare
from loader.sources import absolute
from model import embed, load_model
from report.predictions import summary, trust


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint of train.py
    inputs: tyro.conf.Positional[tuple[str, ...]]  # MRC files, N@stack.mrcs, folders, CSV files with Input Data
    results_dir: str = "results"  # folder of the results
    name: str = "predict"  # name of the folder in it; another one keeps earlier predictions
    contrast: Literal["", "bright", "dark"] = ""  # contrast of the particles; empty: as in the training files
    voxel_size: float = 0.0  # voxel size (A) of all inputs, where their headers are wrong; 0: as their headers say
    batch_size: int = 256  # volumes embedded at once
    device: Device = "auto"  # where to compute; auto is CUDA where there is one


CHUNK = 2**25  # voxels in memory at once: 1,024 volumes of 32^3
DECIMALS = 6  # of the numbers in predictions.csv
MOST_NAMED = 3  # inputs in a line
MOST_NOTES = 10  # lines on what was done to the volumes
MOST_GROUPS, PER_GROUP = 8, 4  # classes in the picture, and volumes of each


def main(cfg: Config) -> None:
    device = choose_device(cfg.device)
    check(cfg)
    model, checkpoint = load_model(cfg.checkpoint, device)
    preprocessing = replace(checkpoint["preprocessing"], **({"contrast": cfg.contrast} if cfg.contrast else {}))
    inputs = find_inputs(cfg.inputs)
    if cfg.voxel_size:
        inputs = [replace(given, voxel_size=cfg.voxel_size) for given in inputs]
    embeddings, brightness, notes = embed_inputs(model, inputs, preprocessing, cfg.batch_size, device)
    for note, count in notes.most_common(MOST_NOTES):
        print(f"{count} {plural('volume', count)}: {note}")
    if len(notes) > MOST_NOTES:
        print(f"and {len(notes) - MOST_NOTES} more combinations of box and voxel size")
    accuracy = checkpoint["metrics"]["log"][-1]["accuracy"]
    warnings = [
        contrast_warning(brightness, preprocessing.contrast),
        accuracy_warning(accuracy, len(checkpoint["classes"])),
    ]
    for warning in filter(None, warnings):
        warn(warning)

    folder = claim_results(cfg.results_dir, cfg.checkpoint) / cfg.name
    table = rounded(predictions(embeddings, checkpoint))
    table.insert(0, INPUT, [absolute(given.address, Path()) for given in inputs])
    if (folder / "predictions.csv").is_file():
        print(f"{folder}: replaces the predictions {origin(folder)}")
    write_csv(folder / "predictions.csv", table)
    write_json(folder / "predictions.json", record(cfg, checkpoint, len(inputs)))
    save_embeddings(folder / "embeddings.npz", embeddings, table, cfg.checkpoint, checkpoint["classes"])
    said = "; ".join(filter(None, warnings))
    drawn = draw(folder / "predictions.png", table, inputs, preprocessing, checkpoint["calibration"].score, said)
    print(summary(table[PREDICTION], table[SCORE], checkpoint["calibration"]))
    print(trust(checkpoint))
    names = ("predictions.csv", "predictions.json", "embeddings.npz", *(["predictions.png"] if drawn else []))
    print(f"written: {', '.join(str(folder / name) for name in names)}")


def check(cfg: Config) -> None:
    """Refuse options that make no sense."""
    check_choices(cfg)
    if cfg.batch_size < 1:
        raise InputError(f"--batch-size {cfg.batch_size}: expected at least 1")
    if not 0 <= cfg.voxel_size < float("inf"):
        raise InputError(f"--voxel-size {cfg.voxel_size:g}: expected a number of A, or 0")
    if cfg.name in ("", "..") or Path(cfg.name).name != cfg.name:
        raise InputError(f"--name {cfg.name!r}: expected the name of a folder, not a path")
    if (results_folder(cfg.results_dir, cfg.checkpoint) / cfg.name).is_file():
        raise InputError(f"--name {cfg.name}: a file of the results; expected the name of a folder")


def embed_inputs(
    model: nn.Module, inputs: list[Input], preprocessing: Preprocessing, batch_size: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray, Counter]:
    """Embeddings (N, E), not normalised, brightness of the centres (N,), and how often each thing was done to a volume.

    As many volumes as make CHUNK voxels are in memory at once.
    """
    box = preprocessing.box
    size = max(1, CHUNK // box**3)
    embeddings = np.empty((len(inputs), model.embedding_dim), dtype=np.float32)
    brightness, notes = np.empty(len(inputs)), Counter()
    bar = tqdm(total=len(inputs), desc="reading", unit="volume", leave=False)
    with bar, ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(inputs), size):
            chunk = inputs[start : start + size]
            images = torch.empty(len(chunk), 1, box, box, box, dtype=torch.float16)  # as load_split keeps them
            for number, volume in enumerate(pool.map(partial(prepare, preprocessing=preprocessing), chunk)):
                images[number, 0] = torch.from_numpy(volume.image)
                brightness[start + number] = volume.brightness
                notes[volume.note] += 1
                bar.update()
            rows = slice(start, start + len(chunk))
            embeddings[rows] = embed(model, images, device, batch_size, "embedding", normalised=False)
    del notes[""]
    return embeddings, brightness, notes


def predictions(embeddings: np.ndarray, checkpoint: dict) -> pd.DataFrame:
    """One row an embedding of (N, E): class or unknown, score, threshold, the nearest class and the runner-up."""
    calibration = checkpoint["calibration"]
    classes = np.array([*checkpoint["classes"], ""])
    cosines = unit(embeddings) @ unit(calibration.prototypes).T  # (N, E) -> (N, C)
    cosines = np.pad(cosines, ((0, 0), (0, 1)), constant_values=np.nan)  # so that a lone class has a runner-up: none
    first, second = np.argsort(-cosines, axis=1, kind="stable")[:, :2].T
    scores = calibrated_score(embeddings, calibration)
    rows = np.arange(len(embeddings))
    return pd.DataFrame(
        {
            PREDICTION: np.where(scores >= calibration.threshold, classes[first], UNKNOWN),
            SCORE: scores.astype(float),
            THRESHOLD: calibration.threshold,
            NEAREST: classes[first],
            NEAREST_COSINE: cosines[rows, first].astype(float),
            RUNNER_UP: classes[second],
            RUNNER_UP_COSINE: cosines[rows, second].astype(float),
        }
    )


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers with DECIMALS decimals; a particle stays unknown where, and only where, its score is the lower."""
    table = table.round(DECIMALS)
    level = (table[PREDICTION] == UNKNOWN) & (table[SCORE] >= table[THRESHOLD])
    table.loc[level, SCORE] = (table[THRESHOLD] - 10.0**-DECIMALS).round(DECIMALS)
    return table


def save_embeddings(
    path: Path, embeddings: np.ndarray, table: pd.DataFrame, checkpoint: str, classes: list[str]
) -> None:
    """Write what np.load reads, one row per volume in the order of predictions.csv.

    embeddings: (N, E), length 1; predictions: (N,) an index into classes, -1 for unknown; classes: (C,) names;
    checkpoint: its path; inputs: the addresses as UTF-8 bytes, a zero byte between two, so that
    bytes(file["inputs"]).decode().split("\\0") gives them.
    """
    number = {name: index for index, name in enumerate(classes)}
    addresses = "\0".join(table[INPUT]).encode("utf-8", "surrogateescape")  # no path holds a zero byte
    with atomic_path(path) as temporary:
        np.savez(
            temporary,
            embeddings=unit(embeddings),
            inputs=np.frombuffer(addresses, dtype=np.uint8),
            predictions=np.array([number.get(name, -1) for name in table[PREDICTION]], dtype=np.int32),
            classes=np.array(classes),
            checkpoint=str(checkpoint),
        )


def record(cfg: Config, checkpoint: dict, volumes: int) -> dict:
    """What the predictions were made from: content of predictions.json."""
    calibration = checkpoint["calibration"]
    return {
        "made": time.strftime("%Y-%m-%d %H:%M:%S"),
        "checkpoint": os.path.abspath(cfg.checkpoint),
        "epoch": checkpoint["epoch"],
        "validation_accuracy": checkpoint["metrics"]["log"][-1]["accuracy"],
        "inputs": [absolute(name, Path()) for name in cfg.inputs],
        "volumes": volumes,
        "contrast": cfg.contrast or checkpoint["preprocessing"].contrast,
        "voxel_size": cfg.voxel_size,
        "score": calibration.score,
        "threshold": float(calibration.threshold),
    }


def origin(folder: Path) -> str:
    """What the predictions in a folder were made from, in words."""
    try:
        before = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
        names = ", ".join(before["inputs"][:MOST_NAMED])
        more = f" and {len(before['inputs']) - MOST_NAMED} more" if len(before["inputs"]) > MOST_NAMED else ""
        return f"of {names}{more} by {before['checkpoint']}, made {before['made']} (--name keeps both)"
    except (OSError, ValueError, KeyError):
        return "that are there, made from what is not recorded (--name keeps both)"


def draw(
    path: Path, table: pd.DataFrame, inputs: list[Input], preprocessing: Preprocessing, score: str, warning: str
) -> bool:
    """The picture: how many of each class, the scores, and slices of the surest volumes of the largest classes.

    Says whether it could be drawn.
    """
    from report.attempt import attempt  # here, as matplotlib takes a second
    from report.pictures import PredictionPage, prediction_page

    counts = table[PREDICTION].value_counts()
    rows = []
    names = list(counts.index[:MOST_GROUPS])
    if UNKNOWN in counts and UNKNOWN not in names:
        names[-1] = UNKNOWN
    for name in names:
        scores = table.loc[table[PREDICTION] == name, SCORE].sort_values(ascending=name == UNKNOWN)
        shown = scores.head(PER_GROUP)
        volumes = [prepare(inputs[number], preprocessing).image for number in shown.index]
        rows.append((f"{name}\n{counts[name]}", volumes, [f"{value:.2f}" for value in shown]))
    threshold, scores = table[THRESHOLD].iloc[0], table[SCORE].to_numpy()
    page = PredictionPage(dict(counts), scores, threshold, score, rows, UNKNOWN, warning)
    return attempt(path, lambda path: prediction_page(path, page))


if __name__ == "__main__":
    run(main, Config, __doc__)
