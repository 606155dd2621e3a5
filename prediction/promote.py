"""`--promote FOLDER CLUSTER=NAME`: a cluster that predict.py found becomes a class."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.cli import InputError
from evaluation.enrolled import NewClass
from loader.columns import CLUSTER, PARTICLE
from loader.sources import read_csv
from model import network_code
from prediction.enrol import chosen_rows, examples_text
from prediction.outputs import EMBEDDINGS_FILE, RECORD_FILE, TABLE_FILE

if TYPE_CHECKING:
    import pandas as pd


def promoted(words: Sequence[str], checkpoint: dict) -> list[NewClass]:
    """The classes that clusters of a folder of predictions are to become; that of `predict.py`, by the same network.

    Args:
        words: the folder, then CLUSTER=NAME, one or more.

    Raises:
        InputError: other words; no predictions there, or of another network; no cluster of the name.
    """
    folder, pairs = Path(words[0]), [word.partition("=") for word in words[1:]]
    if not pairs or not all(cluster and name for cluster, _, name in pairs):
        raise InputError(f"--promote {' '.join(words)}: expected a folder of predictions, then CLUSTER=NAME")
    table, embeddings = _predictions(folder, checkpoint)
    if CLUSTER not in table:
        raise InputError(f"{folder / TABLE_FILE}: no column {CLUSTER}: no clusters were found; expected some")
    found = []
    for cluster, _, name in pairs:
        rows = np.flatnonzero((table[CLUSTER] == cluster).to_numpy())
        if not len(rows):
            there = ", ".join(sorted(set(table[CLUSTER]) - {""})) or "none"
            raise InputError(f"{folder / TABLE_FILE}: no cluster {cluster}; it has {there}")
        chosen = rows[chosen_rows(len(rows))]
        names = table[PARTICLE].to_numpy(str)[chosen] if PARTICLE in table else np.full(len(chosen), "")
        particles = np.where(names == "", chosen.astype(str), names)
        source = f"{examples_text(len(chosen), len(rows))} in {cluster}"
        found.append(NewClass(name, source, embeddings[chosen], particles, embeddings[:0], "none"))
    return found


def _predictions(folder: Path, checkpoint: dict) -> tuple[pd.DataFrame, np.ndarray]:
    """The table of a folder, and its embeddings (N, E), by the network of the checkpoint."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        with np.load(folder / EMBEDDINGS_FILE, allow_pickle=False) as kept:
            embeddings = kept["embeddings"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{folder}: not a folder of predictions of predict.py ({error})") from error
    if record.get("network") != network_code(checkpoint):
        raise InputError(
            f"{folder}: predictions of {record.get('checkpoint', 'another checkpoint')}, whose network is another one; "
            "expected those of this checkpoint's"
        )
    table = read_csv(folder / TABLE_FILE, required=())
    if len(table) != len(embeddings):
        raise InputError(f"{folder}: {len(table)} rows in {TABLE_FILE}, {len(embeddings)} in {EMBEDDINGS_FILE}")
    return table, embeddings
