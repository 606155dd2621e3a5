"""Discovery: how many new classes are among the unknown particles, and which particles belong together?

The number of clusters is always estimated, never given. One volume of each particle is clustered: copies of one
particle are trivially alike and would make clusters of their own.
"""

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.cluster import HDBSCAN
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from evaluation.bootstrap import interval, particle_weights
from evaluation.rejection import unit

DIMENSIONS = 16  # principal components that are clustered
SMALLEST_CLUSTER = 10  # particles
SMALLEST_SHARE = 0.02  # of all particles, where that is more
MOST_CLUSTERS = 30  # that the mixture tries
STABLE = 0.75  # mean Jaccard index under resampling from which a cluster counts as stable (Hennig 2007)
NOISE = -1  # of HDBSCAN: in no cluster

Clusterer = Callable[[np.ndarray], np.ndarray]  # points (N, F) -> clusters (N,)


def one_per_particle(particles: np.ndarray, seed: int) -> np.ndarray:
    """The rows of one copy, at random, of each particle (N,), in order."""
    shuffled = np.random.default_rng(seed).permutation(len(particles))
    return np.sort(shuffled[np.unique(np.asarray(particles)[shuffled], return_index=True)[1]])


def reduce(embeddings: np.ndarray) -> np.ndarray:
    """Principal components of unit embeddings, (N, E) -> (N, at most DIMENSIONS)."""
    directions = unit(np.asarray(embeddings, dtype=np.float64))
    left, spread, _ = np.linalg.svd(directions - directions.mean(axis=0), full_matrices=False)
    return (left * spread)[:, :DIMENSIONS]


def smallest_cluster(count: int) -> int:
    """The fewest of `count` particles that make a cluster."""
    return max(SMALLEST_CLUSTER, round(SMALLEST_SHARE * count))


def hdbscan(points: np.ndarray, of: int = 0) -> np.ndarray:
    """Clusters by density (Campello et al. 2013), (N, F) -> (N,) from 0, NOISE for rows in none.

    Where the points are some of `of`, the smallest cluster and the neighbourhood are smaller in proportion.
    """
    if np.ptp(points, axis=0).max() < 1e-6:  # all in one place: density is infinite and would be split at random
        return np.zeros(len(points), dtype=int)
    of = of or len(points)
    size, neighbours = (round(count * len(points) / of) for count in (smallest_cluster(of), SMALLEST_CLUSTER // 2))
    return HDBSCAN(min_cluster_size=max(size, 2), min_samples=max(neighbours, 2), copy=True).fit_predict(points)


def gaussian_mixture(points: np.ndarray, numbers: range, seed: int) -> np.ndarray:
    """The mixture of axis-aligned Gaussians with the best BIC among these numbers of them, (N, F) -> (N,) from 0.

    A number of components whose fit does not converge is passed over.
    """
    best, best_bic = None, np.inf
    for number in numbers:
        mixture = GaussianMixture(
            number, covariance_type="diag", n_init=3, max_iter=500, reg_covar=1e-5, random_state=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                found = mixture.fit_predict(points)
            except ConvergenceWarning:
                continue
        bic = mixture.bic(points)
        if bic < best_bic:
            best, best_bic = found, bic
    if best is None:
        raise ValueError(f"no Gaussian mixture of {numbers} components converged on {len(points)} points")
    return np.unique(best, return_inverse=True)[1]  # components that no row belongs to leave no gap


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


def stability(
    points: np.ndarray, found: np.ndarray, cluster: Clusterer, n_boot: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each cluster, the mean over resamples of its best Jaccard index with a cluster found again, (K,).

    Each row is a particle. Rows that a resample draws more than once are clustered once: repeats are not neighbours.
    So a resample holds about 63 % of the rows.

    Returns:
        These means, and how many clusters each resample had, (n_boot,).
    """
    number = found.max() + 1
    indices, numbers = np.zeros((n_boot, number)), np.zeros(n_boot, dtype=int)
    for draw, weights in enumerate(particle_weights(np.arange(len(points)), n_boot, seed)):
        rows = np.flatnonzero(weights)
        again = cluster(points[rows])
        numbers[draw] = again.max() + 1
        for index in range(number):
            mine = found[rows] == index
            for other in range(again.max() + 1):
                theirs = again == other
                union = np.sum(mine | theirs)
                indices[draw, index] = max(indices[draw, index], np.sum(mine & theirs) / union if union else 0)
    return indices.mean(axis=0), numbers


def agreement(found: np.ndarray, classes: np.ndarray) -> dict[str, float | None]:
    """How well clusters (N,) agree with classes (N,): ARI, NMI (noise as one more cluster) and purity."""
    return {
        "ari": float(adjusted_rand_score(classes, found)),
        "nmi": float(normalized_mutual_info_score(classes, found)),
        "purity": purity(found, classes),
    }


def _agreement_intervals(found: np.ndarray, classes: np.ndarray, n_boot: int, seed: int) -> dict[str, list | None]:
    """The intervals of the agreement, the clusters being as they are.

    Drawn with repeats, copies of a particle would agree with themselves; so half of the particles are drawn without,
    which spreads as much. All three measures also depend on the number of particles: the spread is put around the
    figure of all.
    """
    rng = np.random.default_rng(seed)
    halves = [rng.permutation(len(found))[: len(found) // 2] for _ in range(n_boot)]
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
    seed: int = 0,
    n_boot: int = 200,
    reclusterings: int = 20,
) -> dict:
    """Cluster the particles by both methods and compare with their true classes.

    Args:
        embeddings: (N, E).
        classes: (N,) true class names; they judge the clusters and do not make them.
        particles: (N,) an identity that all copies of one particle share; one copy of each is used.
        n_boot: draws of half of the particles for the intervals of ARI, NMI and purity, the clusters being as they are.
        reclusterings: resamples that are clustered again, for stability and for the interval of the number.

    Returns:
        For `hdbscan` and `gaussian_mixture`: clusters found, their number in resamples (None for the mixture, whose
        number stays), whether these are the most that were tried, true classes (those with particles enough for a
        cluster), ARI, NMI (noise as one more cluster), purity and share of noise, and of each cluster its n, stability,
        commonest class and medoid (row number). Both None, with a `reason`, when there are too few particles for two
        clusters.
    """
    rows = one_per_particle(particles, seed)
    _, counts = np.unique(np.asarray(classes)[rows], return_counts=True)
    result = {"n": len(rows), "seed": seed, "bootstrap": n_boot, "reclusterings": reclusterings}
    if len(rows) < 2 * SMALLEST_CLUSTER:
        reason = f"{len(rows)} particles; {2 * SMALLEST_CLUSTER} are needed for two clusters"
        return {"hdbscan": None, "gaussian_mixture": None, **result, "reason": reason}
    points, classes = reduce(np.asarray(embeddings)[rows]), np.asarray(classes)[rows]
    most = min(MOST_CLUSTERS, len(rows) // SMALLEST_CLUSTER)
    by_mixture = gaussian_mixture(points, range(1, most + 1), seed)
    number = by_mixture.max() + 1
    methods = {
        "hdbscan": (hdbscan(points), lambda some: hdbscan(some, len(points))),
        "gaussian_mixture": (by_mixture, lambda some: _mixture_again(some, number, seed)),
    }
    for method, (found, cluster) in methods.items():
        stabilities, numbers = stability(points, found, cluster, reclusterings, seed)
        result[method] = {
            "clusters": int(found.max() + 1),
            "clusters_interval": interval(numbers) if method == "hdbscan" else None,
            "at_limit": bool(method == "gaussian_mixture" and number == most > 1),
            "true_classes": int(np.sum(counts >= smallest_cluster(len(rows)))),
            **agreement(found, classes),
            **_agreement_intervals(found, classes, n_boot, seed),
            "purity_floor": float(counts.max() / len(rows)),
            "noise": float(np.mean(found == NOISE)),
            "stable_clusters": int(np.sum(stabilities >= STABLE)),
            "per_cluster": [
                _describe(points, classes, rows, found == index, float(stabilities[index]))
                for index in range(found.max() + 1)
            ],
        }
    return result


def _mixture_again(points: np.ndarray, number: int, seed: int) -> np.ndarray:
    """The mixture of as many components; where that does not converge nothing was found again: all noise."""
    try:
        return gaussian_mixture(points, range(number, number + 1), seed)
    except ValueError:
        return np.full(len(points), NOISE)


def _describe(points: np.ndarray, classes: np.ndarray, rows: np.ndarray, mine: np.ndarray, stable: float) -> dict:
    names, counts = np.unique(classes[mine], return_counts=True)
    distances = np.linalg.norm(points[mine] - points[mine].mean(axis=0), axis=1)
    return {
        "n": int(mine.sum()),
        "stability": stable,
        "class": str(names[counts.argmax()]),
        "purity": float(counts.max() / mine.sum()),
        "medoid": int(rows[mine][distances.argmin()]),
    }
