"""Discovery: how many new classes are among the unknown particles, and which particles belong together?

The clusters are found as evaluation/clusters.py says; here they are judged by true classes. One volume of each particle
is clustered: copies of one particle are trivially alike and would make clusters of their own. Of more than
MOST_PARTICLES, as many are drawn, so that intervals take little time.
"""

from dataclasses import replace

import numpy as np

from evaluation.bootstrap import Resampling, interval
from evaluation.clusters import RECLUSTERINGS, STABLE, largest_first, medoid, project, stability
from evaluation.communities import NOISE, SMALLEST_CLUSTER, cluster

MOST_PARTICLES = 5000  # that are clustered


def one_per_particle(particles: np.ndarray, seed: int) -> np.ndarray:
    """The rows of one copy, at random, of each particle (N,), in order."""
    shuffled = np.random.default_rng(seed).permutation(len(particles))
    return np.sort(shuffled[np.unique(np.asarray(particles)[shuffled], return_index=True)[1]])


def purity(found: np.ndarray, classes: np.ndarray) -> float | None:
    """The share of rows that are of the commonest class of their cluster, noise left out; None without a cluster."""
    kept = found != NOISE
    if not kept.any():
        return None
    table = _table(found[kept], classes[kept])
    return float(table.max(axis=1).sum() / kept.sum())


def _table(found: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Rows in cluster i (row) of class j (column)."""
    rows, columns = (np.unique(values, return_inverse=True)[1] for values in (found, classes))
    table = np.zeros((rows.max() + 1, columns.max() + 1), dtype=int)
    np.add.at(table, (rows, columns), 1)
    return table


def agreement(found: np.ndarray, classes: np.ndarray) -> dict[str, float | None]:
    """How well clusters (N,) agree with classes (N,): ARI, NMI (noise as one more cluster) and purity.

    The adjusted Rand index is that of Hubert and Arabie (1985), the mutual information is divided by the mean entropy.
    """
    table = _table(found, classes).astype(float)
    return {"ari": _adjusted_rand(table), "nmi": _mutual_information(table), "purity": purity(found, classes)}


def _adjusted_rand(table: np.ndarray) -> float:
    def pairs(counts: np.ndarray) -> float:
        return float(np.sum(counts * (counts - 1)) / 2)

    both, rows, columns = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    expected, most = rows * columns / max(pairs(table.sum()), 1), (rows + columns) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def _mutual_information(table: np.ndarray) -> float:
    def entropy(counts: np.ndarray) -> float:
        shares = counts[counts > 0] / table.sum()
        return float(-np.sum(shares * np.log(shares)))

    rows, columns = entropy(table.sum(axis=1)), entropy(table.sum(axis=0))
    mean = (rows + columns) / 2
    return 1.0 if mean == 0 else max(0.0, rows + columns - entropy(table)) / mean


def _agreement_intervals(found: np.ndarray, classes: np.ndarray, resampling: Resampling) -> dict[str, list | None]:
    """The intervals of the agreement, the clusters being as they are.

    Drawn with repeats, copies of a particle would agree with themselves; so half of the particles are drawn without,
    which spreads as much. All three measures also depend on the number of particles: the spread is put around the
    figure of all.
    """
    rng = np.random.default_rng(resampling.seed)
    halves = [rng.permutation(len(found))[: len(found) // 2] for _ in range(resampling.n_boot)]
    classes = np.unique(classes, return_inverse=True)[1]  # numbers sort faster than names
    draws = [agreement(found[rows], classes[rows]) for rows in halves]
    result = {}
    for key, value in agreement(found, classes).items():
        values = np.array([draw[key] for draw in draws if draw[key] is not None])
        enough = value is not None and len(values) > 1
        result[f"{key}_interval"] = interval(np.clip(value + values - values.mean(), -1, 1)) if enough else None
    return result


def discover(
    embeddings: np.ndarray,
    classes: np.ndarray,
    particles: np.ndarray,
    resampling: Resampling,
    reclusterings: int = RECLUSTERINGS,
) -> dict:
    """Cluster the particles and compare with their true classes.

    Args:
        embeddings: (N, E).
        classes: (N,) true class names; they judge the clusters and do not make them.
        particles: (N,) an identity that all copies of one particle share; one copy of each is used.
        resampling: draws of half of the particles for the intervals of ARI, NMI and purity, the clusters being as they
            are; its seed also chooses the copies.
        reclusterings: resamples that are clustered again, for stability and for the interval of the number.

    Returns:
        `n` particles clustered of `n_there`, and for `found`: clusters found, their number in resamples, true classes
        (those with particles enough for a cluster), ARI, NMI (noise as one more cluster), purity and share of noise,
        and of each cluster its n, stability, commonest class and medoid (row number). None, with a `reason`, when there
        are too few particles for two clusters.
    """
    rows = one_per_particle(particles, resampling.seed)
    there = len(rows)
    if there > MOST_PARTICLES:
        rows = np.sort(np.random.default_rng(resampling.seed).permutation(rows)[:MOST_PARTICLES])
    result = {"n": len(rows), "n_there": there, "seed": resampling.seed, "bootstrap": resampling.n_boot}
    result["reclusterings"] = reclusterings
    if len(rows) < 2 * SMALLEST_CLUSTER:
        reason = f"{len(rows)} particles; {2 * SMALLEST_CLUSTER} are needed for two clusters"
        return {"found": None, **result, "reason": reason}
    points, classes = project(embeddings, rows, resampling.seed), np.asarray(classes)[rows]
    counts = np.unique(classes, return_counts=True)[1]
    found = largest_first(cluster(points, resampling.seed))
    stabilities, numbers = stability(points, found, replace(resampling, n_boot=reclusterings))
    result["found"] = {
        "clusters": int(found.max() + 1),
        "clusters_interval": interval(numbers),
        "true_classes": int(np.sum(counts >= SMALLEST_CLUSTER)),
        **agreement(found, classes),
        **_agreement_intervals(found, classes, resampling),
        "purity_floor": float(counts.max() / len(rows)),
        "noise": float(np.mean(found == NOISE)),
        "stable_clusters": int(np.sum(stabilities >= STABLE)),
        "per_cluster": [
            _describe(points, classes, rows, found == index, float(stabilities[index]))
            for index in range(found.max() + 1)
        ],
    }
    return result


def _describe(points: np.ndarray, classes: np.ndarray, rows: np.ndarray, mine: np.ndarray, stable: float) -> dict:
    names, counts = np.unique(classes[mine], return_counts=True)
    return {
        "n": int(mine.sum()),
        "stability": stable,
        "class": str(names[counts.argmax()]),
        "purity": float(counts.max() / mine.sum()),
        "medoid": int(rows[medoid(points, mine)]),
    }
