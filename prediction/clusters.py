"""Clusters of the particles that are called unknown: two columns of the table, and what is said of each cluster."""

from dataclasses import replace

import numpy as np
import pandas as pd

from common.cli import plural
from evaluation.clusters import NOISE, SMALLEST_CLUSTER, STABLE, Clusters, find_clusters, nearest_classes
from evaluation.factors import Followed, edge_distance, followed
from loader.columns import CLUSTER, INPUT, NEAREST_CLUSTER, POSITION, RUNNER_UP_COSINE, TOMOGRAM, cluster_name
from prediction.parts import Embedded
from prediction.predicted import Predicted

SEED = 0  # of everything that clustering draws


def clustered(predicted: Predicted, embedded: Embedded) -> Predicted:
    """The same with the columns Cluster and Nearest Cluster, and with `clusters`, which goes into predictions.json.

    `clusters` has n, the unknown particles; in_none, those in no cluster; smallest, the fewest particles that make one;
    by_centres (evaluation/clusters.py); seed; and as `found` of each cluster, the largest first, its name, n,
    stability, whether it is stable, medoid (an address), nearest known class with cosine, and what it may follow beside
    structure. Where there are too few unknown particles it has n and a `reason`.
    """
    rows = predicted.unknown
    found = find_clusters(predicted.embeddings, rows, SEED)
    own, nearest = np.full((2, len(predicted)), "", dtype=object)
    if found is None:
        few = f"{len(rows)} unknown {plural('particle', len(rows))}; {2 * SMALLEST_CLUSTER} are needed"
        content = {"n": len(rows), "reason": few}
        return replace(predicted, table=with_columns(predicted.table, own, nearest), clusters=content)
    labels = np.array([*map(cluster_name, range(len(found))), ""], dtype=object)  # the last: NOISE
    own[rows], nearest[rows] = labels[found.numbers], labels[found.nearest]
    factors = {name: values[rows] for name, values in factors_at_hand(predicted.inputs.table, embedded).items()}
    content = {
        "n": len(rows),
        "in_none": int(np.sum(found.numbers == NOISE)),
        "smallest": found.smallest,
        "by_centres": found.by_centres,
        "seed": SEED,
        "found": described(found, predicted, followed(found.numbers, factors, SEED)),
    }
    return replace(predicted, table=with_columns(predicted.table, own, nearest), clusters=content)


def with_columns(table: pd.DataFrame, own: np.ndarray, nearest: np.ndarray) -> pd.DataFrame:
    """The table with the names of clusters (N,) after the classes, and before what the source told."""
    table = table.copy()
    place = table.columns.get_loc(RUNNER_UP_COSINE) + 1
    table.insert(place, CLUSTER, own)
    table.insert(place + 1, NEAREST_CLUSTER, nearest)
    return table


def factors_at_hand(told: pd.DataFrame, embedded: Embedded) -> dict[str, np.ndarray]:
    """What a cluster must not follow, as far as it is known: of the volumes themselves, and of what a table told.

    The names stand in a sentence. The brightness of the centre goes with the size of a complex, so that clusters of
    true structures may differ in it.
    """
    factors = {"brightness or size": embedded.brightness, "noise": embedded.noise}
    tomograms = told[TOMOGRAM].to_numpy(str)
    if len(np.unique(tomograms)) > 1:
        factors["tomogram"] = tomograms
    positions = told[[*POSITION]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if np.isfinite(positions).any():
        border, middle = edge_distance(positions, tomograms)
        factors |= {"distance from the tomogram's border": border, "distance from its middle along z": middle}
    return factors


def described(found: Clusters, predicted: Predicted, follows: list[Followed]) -> list[dict]:
    """What predictions.json says of each cluster."""
    classes = predicted.checkpoint["classes"]
    numbers, cosines = nearest_classes(found, predicted.checkpoint["calibration"].prototypes)
    rows, addresses = predicted.unknown, predicted.table[INPUT]
    return [
        {
            "cluster": cluster_name(index),
            "n": int(size),
            "stability": float(found.stability[index]),
            "stable": bool(found.stability[index] >= STABLE),
            "medoid": addresses.iloc[rows[found.medoids[index]]],
            "nearest_class": classes[numbers[index]],
            "nearest_cosine": float(cosines[index]),
            "may_follow": [
                {"factor": each.factor, "effect": each.effect, "p": each.p, "text": each.text}
                for each in follows
                if each.cluster == index
            ],
        }
        for index, size in enumerate(found.sizes())
    ]
