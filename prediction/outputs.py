"""The files of a prediction that programs read: predictions.csv, predictions.json, embeddings.npz."""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.files import atomic_path, write_csv, write_json
from evaluation.figures import plain
from loader.columns import FAILED_FILE, INPUT, NO_PARTICLE, PREDICTION, REASON, SOURCE_FILE, SOURCE_ROW
from loader.sources import absolute
from model import network_code
from prediction.inputs import Inputs
from prediction.parts import in_chunks, write_rows
from prediction.predicted import Predicted
from prediction.star import class_numbers

if TYPE_CHECKING:
    import pandas as pd

TABLE_FILE, RECORD_FILE, EMBEDDINGS_FILE = "predictions.csv", "predictions.json", "embeddings.npz"
MOST_NAMED = 3  # inputs in a line


def write_predictions(folder: Path, predicted: Predicted, checkpoint: str, options: dict) -> list[str]:
    """Write the files into a folder; returns their names.

    Args:
        checkpoint: its path.
        options: of the call, for the record: `inputs`, `contrast`, `voxel_size`.
    """
    write_csv(folder / TABLE_FILE, predicted.table)
    write_json(folder / RECORD_FILE, record(predicted, checkpoint, options))
    save_embeddings(folder / EMBEDDINGS_FILE, predicted, checkpoint)
    return [TABLE_FILE, RECORD_FILE, EMBEDDINGS_FILE]


def record(predicted: Predicted, checkpoint: str, options: dict) -> dict:
    """What the predictions were made from: content of predictions.json."""
    content = predicted.checkpoint
    return {
        "made": time.strftime("%Y-%m-%d %H:%M:%S"),
        "checkpoint": os.path.abspath(checkpoint),
        "network": network_code(content),
        "epoch": content["epoch"],
        "validation_accuracy": content["metrics"]["log"][-1]["accuracy"],
        "inputs": [absolute(name, Path()) for name in options["inputs"]],
        "volumes": len(predicted),
        "contrast": predicted.preprocessing.contrast,
        "voxel_size": options["voxel_size"],
        "score": content["calibration"].score,
        "threshold": float(content["calibration"].threshold),
        "clusters": plain(predicted.clusters),
        "class_numbers": class_numbers(predicted),
        "enrolled": content["config"].get("enrolled", []),
    }


def save_embeddings(path: Path, predicted: Predicted, checkpoint: str) -> None:
    """Write what np.load reads, one row per volume in the order of predictions.csv.

    embeddings: (N, E), length 1; predictions: (N,) an index into classes, -1 for unknown, -2 for junk; classes: (C,)
    names; checkpoint: its path; inputs: the addresses as UTF-8 bytes, a zero byte between two, so that
    bytes(file["inputs"]).decode().split("\\0") gives them.
    """
    classes = predicted.checkpoint["classes"]
    number = {NO_PARTICLE: -2} | {name: index for index, name in enumerate(classes)}
    addresses = "\0".join(predicted.table[INPUT]).encode("utf-8", "surrogateescape")  # no path holds a zero byte
    arrays = {
        "inputs": np.frombuffer(addresses, dtype=np.uint8),
        "predictions": np.array([number.get(name, -1) for name in predicted.table[PREDICTION]], dtype=np.int32),
        "classes": np.array(classes),
        "checkpoint": np.array(str(checkpoint)),
    }
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("embeddings.npy", "w", force_zip64=True) as file:
            write_rows(file, predicted.embeddings.shape, in_chunks(predicted.embeddings))
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values)


def failures(failed: dict[int, str], inputs: Inputs) -> pd.DataFrame:
    """The content of failed.csv: the volumes that could not be read, with the row that they were and the reason."""
    table = inputs.table.iloc[list(failed)][[INPUT, SOURCE_FILE, SOURCE_ROW]].reset_index(drop=True)
    return table.assign(**{REASON: list(failed.values())})


def write_failures(folder: Path, table: pd.DataFrame) -> list[str]:
    """Write failed.csv, or remove that of before where nothing failed; returns the names of what was written."""
    if len(table):
        write_csv(folder / FAILED_FILE, table)
        return [FAILED_FILE]
    (folder / FAILED_FILE).unlink(missing_ok=True)
    return []


def replaced(folder: Path) -> str:
    """A word on the predictions that lie in a folder already, to be said before they are replaced; empty for none."""
    return f"{folder}: replaces the predictions {_origin(folder)}" if (folder / TABLE_FILE).is_file() else ""


def _origin(folder: Path) -> str:
    """What the predictions in a folder were made from, in words."""
    try:
        before = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        names: Sequence[str] = before["inputs"]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        named = ", ".join(names[:MOST_NAMED])
        return f"of {named}{more} by {before['checkpoint']}, made {before['made']} (--name keeps both)"
    except (OSError, ValueError, KeyError):
        return "that are there, made from what is not recorded (--name keeps both)"
