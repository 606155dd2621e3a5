"""What is known of the volumes once they are embedded, and the classes that are told from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluation.rejection import calibrated_score, unit
from loader.columns import (
    INPUT,
    JUNK_SCORE,
    NEAREST,
    NEAREST_COSINE,
    NO_PARTICLE,
    PREDICTION,
    RUNNER_UP,
    RUNNER_UP_COSINE,
    SCORE,
    THRESHOLD,
    UNKNOWN,
)
from loader.prepare import Preprocessing
from prediction.inputs import Inputs
from prediction.parts import in_chunks

if TYPE_CHECKING:
    import pandas as pd

DECIMALS = 6  # of the numbers in predictions.csv


@dataclass(frozen=True)
class MayFollow:
    """What a cluster may follow beside structure: effect and p as of `Followed` (evaluation/factors.py); in words."""

    factor: str
    effect: float
    p: float
    text: str


@dataclass(frozen=True)
class UnknownCluster:
    """A cluster of n unknown volumes: its name, and of how many particles they are; its stability (mean Jaccard index),
    and whether that makes it stable; the address of the most central volume; the nearest known class and its cosine."""

    cluster: str
    n: int
    particles: int
    stability: float
    stable: bool
    medoid: str
    nearest_class: str
    nearest_cosine: float
    may_follow: list[MayFollow]


@dataclass(frozen=True)
class UnknownClusters:
    """Clusters of n unknown volumes, of so many particles, the largest first.

    in_none: volumes in no cluster; smallest: the fewest particles that make one; by_centres: as evaluation/clusters.py
    says; seed: of all that was drawn.
    """

    n: int
    particles: int
    in_none: int
    smallest: int
    by_centres: bool
    seed: int
    found: list[UnknownCluster]


@dataclass(frozen=True)
class NotClustered:
    """n unknown volumes, of too few particles to be clustered, and that in words."""

    n: int
    particles: int
    reason: str


@dataclass(frozen=True)
class Predicted:
    """N volumes and what is said of them: row i of everything is volume i.

    table: the columns of predictions.csv, which a step may add to (dataclasses.replace): Input Data, Prediction, Score
        and so on (loader/columns.py), then what the source tells of the particle (`Inputs.table`).
    embeddings: (N, E) float32, length 1.
    inputs: the volumes, and the rows of the user's files that they are.
    preprocessing: how they were brought to what the network sees.
    checkpoint: what load_model gives beside the network: classes, calibration, config and so on.
    clusters: of the unknown; None before they were sought.
    """

    table: pd.DataFrame
    embeddings: np.ndarray
    inputs: Inputs
    preprocessing: Preprocessing
    checkpoint: dict
    clusters: UnknownClusters | NotClustered | None = None

    def __len__(self) -> int:
        return len(self.table)

    @property
    def unknown(self) -> np.ndarray:
        """The numbers of the rows that are of no known class, (n,)."""
        return np.flatnonzero((self.table[PREDICTION] == UNKNOWN).to_numpy())


def classified(embeddings: np.ndarray, inputs: Inputs, checkpoint: dict) -> pd.DataFrame:
    """The table of volumes with embeddings (N, E): class or unknown, score, threshold, nearest class and runner-up.

    Of what the source tells, the columns that are empty throughout are left out.
    """
    import pandas as pd

    parts = [rounded(predictions(chunk, checkpoint)) for chunk in in_chunks(embeddings)]
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, INPUT, inputs.table[INPUT])
    told = [name for name in inputs.table if name != INPUT and (inputs.table[name] != "").any()]
    return pd.concat([table, inputs.table[told]], axis=1)


def predictions(embeddings: np.ndarray, checkpoint: dict) -> pd.DataFrame:
    """One row an embedding of (N, E): class, unknown or junk, score, threshold, nearest class and runner-up.

    Where the checkpoint tells junk, what is junk is so whatever its score is, and the table has a column Junk Score.
    """
    import pandas as pd

    calibration = checkpoint["calibration"]
    classes = np.array([*checkpoint["classes"], ""], dtype=object)  # the rows of a class share one text
    cosines = unit(embeddings) @ unit(calibration.prototypes).T  # (N, E) -> (N, C)
    cosines = np.pad(cosines, ((0, 0), (0, 1)), constant_values=np.nan)  # so that a lone class has a runner-up: none
    first, second = np.argsort(-cosines, axis=1, kind="stable")[:, :2].T
    scores = calibrated_score(embeddings, calibration)
    rows = np.arange(len(embeddings))
    named, junk = np.where(scores >= calibration.threshold, classes[first], UNKNOWN), checkpoint["junk"]
    if junk is not None:
        junk_scores = junk.score(embeddings)
        named = np.where(junk_scores >= junk.threshold, NO_PARTICLE, named)
    table = pd.DataFrame(
        {
            PREDICTION: named,
            SCORE: scores.astype(float),
            THRESHOLD: calibration.threshold,
            NEAREST: classes[first],
            NEAREST_COSINE: cosines[rows, first].astype(float),
            RUNNER_UP: classes[second],
            RUNNER_UP_COSINE: cosines[rows, second].astype(float),
        }
    )
    return table if junk is None else table.assign(**{JUNK_SCORE: junk_scores.astype(float)})


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers with DECIMALS decimals; a particle stays unknown where, and only where, its score is the lower."""
    table = table.round(DECIMALS)
    level = (table[PREDICTION] == UNKNOWN) & (table[SCORE] >= table[THRESHOLD])
    table.loc[level, SCORE] = (table[THRESHOLD] - 10.0**-DECIMALS).round(DECIMALS)
    return table
