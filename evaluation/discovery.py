"""Discovery: how many new classes are among the unknown particles, and which particles belong together?

The clusters are found as evaluation/clusters.py says; here they are judged by true classes. One volume of each particle
is clustered: copies of one particle are trivially alike and would make clusters of their own. Of more than
MOST_PARTICLES, as many are drawn, so that intervals take little time.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np

from evaluation.bootstrap import Resampling, interval
from evaluation.clusters import RECLUSTERINGS, STABLE, largest_first, medoid, project, stability
from evaluation.communities import NOISE, SMALLEST_CLUSTER, cluster
from evaluation.figures import Figure

MOST_PARTICLES = 5000  # that are clustered


@dataclass(frozen=True)
class Agreement:
    """How well clusters agree with classes: adjusted Rand index, normalised mutual information (noise as one more
    cluster), and purity, None without a cluster."""

    ari: float
    nmi: float
    purity: float | None


@dataclass(frozen=True)
class Cluster:
    """One cluster of n particles: its stability (mean Jaccard index), its commonest class, the share that is of it, and
    the row nearest to its middle."""

    n: int
    stability: float
    class_: str
    purity: float
    medoid: int


@dataclass(frozen=True)
class Found:
    """Clusters, and how they agree with the true classes.

    clusters: their number, with its interval over resamples that were clustered again.
    true_classes: those of particles enough for a cluster.
    ari, nmi, purity: as of `Agreement`; no figure of purity without a cluster.
    purity_floor: of all particles as one cluster; noise: the share of particles in none.
    """

    clusters: Figure
    true_classes: int
    ari: Figure
    nmi: Figure
    purity: Figure
    purity_floor: float
    noise: float
    stable_clusters: int
    per_cluster: list[Cluster]


@dataclass(frozen=True)
class Discovered:
    """What clustering n of n_there particles found; None, with a `reason`, of too few particles for two clusters.

    reclusterings: resamples that were clustered again; bootstrap: those of the other intervals.
    known_among_them: the share of particles that are of known classes, where it was asked for.
    """

    found: Found | None
    n: int
    n_there: int
    seed: int
    bootstrap: int
    reclusterings: int
    reason: str = ""
    known_among_them: float | None = None


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


def agreement(found: np.ndarray, classes: np.ndarray) -> Agreement:
    """How well clusters (N,) agree with classes (N,).

    The adjusted Rand index is that of Hubert and Arabie (1985), the mutual information is divided by the mean entropy.
    """
    table = _table(found, classes).astype(float)
    return Agreement(_adjusted_rand(table), _mutual_information(table), purity(found, classes))


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


def _agreement_figures(found: np.ndarray, classes: np.ndarray, resampling: Resampling) -> dict[str, Figure]:
    """The agreement, each measure by name with its interval, the clusters being as they are.

    Drawn with repeats, copies of a particle would agree with themselves; so half of the particles are drawn without,
    which spreads as much. All three measures also depend on the number of particles: the spread is put around the
    figure of all.
    """
    rng = np.random.default_rng(resampling.seed)
    halves = [rng.permutation(len(found))[: len(found) // 2] for _ in range(resampling.n_boot)]
    classes = np.unique(classes, return_inverse=True)[1]  # numbers sort faster than names
    draws = [asdict(agreement(found[rows], classes[rows])) for rows in halves]
    result = {}
    for key, value in asdict(agreement(found, classes)).items():
        values = np.array([draw[key] for draw in draws if draw[key] is not None])
        enough = value is not None and len(values) > 1
        result[key] = Figure(value, interval(np.clip(value + values - values.mean(), -1, 1)) if enough else None)
    return result


def discover(
    embeddings: np.ndarray,
    classes: np.ndarray,
    particles: np.ndarray,
    resampling: Resampling,
    reclusterings: int = RECLUSTERINGS,
) -> Discovered:
    """Cluster the particles and compare with their true classes.

    Args:
        embeddings: (N, E).
        classes: (N,) true class names; they judge the clusters and do not make them.
        particles: (N,) an identity that all copies of one particle share; one copy of each is used.
        resampling: draws of half of the particles for the intervals of ARI, NMI and purity, the clusters being as they
            are; its seed also chooses the copies.
        reclusterings: resamples that are clustered again, for stability and for the interval of the number.
    """
    rows = one_per_particle(particles, resampling.seed)
    there = len(rows)
    if there > MOST_PARTICLES:
        rows = np.sort(np.random.default_rng(resampling.seed).permutation(rows)[:MOST_PARTICLES])
    given = {"n": len(rows), "n_there": there, "seed": resampling.seed, "bootstrap": resampling.n_boot}
    given["reclusterings"] = reclusterings
    if len(rows) < 2 * SMALLEST_CLUSTER:
        reason = f"{len(rows)} particles; {2 * SMALLEST_CLUSTER} are needed for two clusters"
        return Discovered(found=None, **given, reason=reason)
    points, classes = project(embeddings, rows, resampling.seed), np.asarray(classes)[rows]
    counts = np.unique(classes, return_counts=True)[1]
    found = largest_first(cluster(points, resampling.seed))
    stabilities, numbers = stability(points, found, replace(resampling, n_boot=reclusterings))
    described = Found(
        clusters=Figure(int(found.max() + 1), interval(numbers)),
        true_classes=int(np.sum(counts >= SMALLEST_CLUSTER)),
        **_agreement_figures(found, classes, resampling),
        purity_floor=float(counts.max() / len(rows)),
        noise=float(np.mean(found == NOISE)),
        stable_clusters=int(np.sum(stabilities >= STABLE)),
        per_cluster=[
            _describe(points, classes, rows, found == index, float(stabilities[index]))
            for index in range(found.max() + 1)
        ],
    )
    return Discovered(found=described, **given)


def _describe(points: np.ndarray, classes: np.ndarray, rows: np.ndarray, mine: np.ndarray, stable: float) -> Cluster:
    names, counts = np.unique(classes[mine], return_counts=True)
    most = counts.argmax()
    share = float(counts[most] / mine.sum())
    return Cluster(int(mine.sum()), stable, str(names[most]), share, int(rows[medoid(points, mine)]))
