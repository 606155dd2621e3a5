"""Clusters of unknown particles: how many, which particles, how stable; of a few particles and of a million alike.

Their number is always estimated, never given. What is clustered are the DIMENSIONS leading principal components of unit
embeddings, as evaluation/communities.py says; copies of one particle count once, at their mean.
"""

from dataclasses import dataclass

import numpy as np

from common.machine import release
from evaluation.bootstrap import Resampling, particle_weights
from evaluation.communities import CENTRES, NOISE, SMALLEST_CLUSTER, cluster, means, some
from evaluation.rejection import unit

DIMENSIONS = 32  # principal components that are clustered
STABLE = 0.75  # mean Jaccard index under resampling from which a cluster counts as stable (Hennig 2007)
RECLUSTERINGS = 10  # resamples that are clustered again
FITTED_ROWS = 50_000  # rows, at random, that components rest on
STABILITY_ROWS = 10_000  # particles, at random, that stability rests on
CHUNK = 20_000  # embeddings at once


@dataclass(frozen=True)
class Clusters:
    """Clusters of N volumes, from 0, that of the most particles first.

    numbers: (N,) the cluster of each, NOISE for none.
    nearest: (N,) the same; for one in none the cluster whose mean direction is nearest; NOISE without clusters.
    means: (K, E) the mean direction of each cluster, length 1.
    medoids: (K,) the volume that is nearest to the middle of its cluster, as an index into the N.
    stability: (K,) mean Jaccard index with a cluster found again in resamples.
    by_centres: whether particles were gathered around centres first.
    """

    numbers: np.ndarray
    nearest: np.ndarray
    means: np.ndarray
    medoids: np.ndarray
    stability: np.ndarray
    by_centres: bool

    def __len__(self) -> int:
        return len(self.medoids)

    def sizes(self) -> np.ndarray:
        """Volumes of each cluster, (K,)."""
        return np.bincount(self.numbers[self.numbers != NOISE], minlength=len(self))


def find_clusters(
    embeddings: np.ndarray,
    rows: np.ndarray,
    seed: int,
    particles: np.ndarray | None = None,
    reclusterings: int = RECLUSTERINGS,
) -> Clusters | None:
    """Cluster some volumes; None where these are of fewer particles than two smallest clusters have.

    Args:
        embeddings: (M, E), of any length; they may be a mapped file. CHUNK of them are copied at once.
        rows: (N,) which of them are clustered, in order.
        seed: of all that is drawn.
        particles: (N,) numbers, 0 .. P - 1 without gaps, that all copies of a particle share; None: each is one.
        reclusterings: resamples that are clustered again, for the stability.
    """
    particles = np.arange(len(rows)) if particles is None else particles
    count = particles.max(initial=-1) + 1
    if count < 2 * SMALLEST_CLUSTER:
        return None
    volumes = project(embeddings, rows, seed)
    points = volumes if count == len(rows) else means(volumes, particles)
    of_particles = largest_first(cluster(points, seed))
    fitted = some(count, STABILITY_ROWS, seed)
    stabilities, _ = stability(points[fitted], of_particles[fitted], Resampling(reclusterings, seed))
    found = of_particles[particles]
    directions = mean_directions(embeddings, rows, found, of_particles.max() + 1)
    return Clusters(
        numbers=found,
        nearest=nearest_cluster(embeddings, rows, found, directions),
        means=directions,
        medoids=np.array([medoid(volumes, found == index) for index in range(len(directions))], dtype=int),
        stability=stabilities,
        by_centres=bool(count > CENTRES),
    )


def project(embeddings: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Principal components of unit embeddings (M, E), of rows (N,) of them: (N, at most DIMENSIONS) float32.

    They are fitted on FITTED_ROWS of the rows.
    """
    fitted = rows[some(len(rows), FITTED_ROWS, seed)]
    total, products = np.zeros(embeddings.shape[1]), np.zeros((embeddings.shape[1],) * 2)
    for directions in unit_chunks(embeddings, fitted):
        total += directions.sum(axis=0)
        products += directions.T @ directions
    mean = total / len(fitted)
    _, vectors = np.linalg.eigh(products / len(fitted) - np.outer(mean, mean))
    components = vectors[:, ::-1][:, :DIMENSIONS]  # (E, DIMENSIONS), the largest first
    return np.concatenate(
        [((directions - mean) @ components).astype(np.float32) for directions in unit_chunks(embeddings, rows)]
    )


def unit_chunks(embeddings: np.ndarray, rows: np.ndarray):
    """Unit embeddings of the rows, float64, CHUNK at a time; of a mapped file no more are in memory than that."""
    for start in range(0, len(rows), CHUNK):
        chunk = np.asarray(embeddings[rows[start : start + CHUNK]], dtype=np.float64)
        release(embeddings)
        yield unit(chunk)


def largest_first(found: np.ndarray) -> np.ndarray:
    """Clusters (N,) numbered anew by their size; NOISE stays."""
    sizes = np.bincount(found[found != NOISE], minlength=found.max() + 1)
    rank = np.empty(len(sizes) + 1, dtype=int)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    rank[-1] = NOISE  # where index NOISE leads
    return rank[found]


def medoid(points: np.ndarray, mine: np.ndarray) -> int:
    """The row of the point nearest to the mean of those that are `mine`, (N, F) and (N,) bool."""
    distances = np.linalg.norm(points[mine] - points[mine].mean(axis=0), axis=1)
    return int(np.flatnonzero(mine)[distances.argmin()])


def mean_directions(embeddings: np.ndarray, rows: np.ndarray, found: np.ndarray, number: int) -> np.ndarray:
    """The mean direction of each of `number` clusters (N,) of rows (N,) of the embeddings (M, E), (number, E)."""
    sums, start = np.zeros((number + 1, embeddings.shape[1])), 0  # the last row: noise
    for directions in unit_chunks(embeddings, rows):
        mine = found[start : start + len(directions)]
        order = np.argsort(mine, kind="stable")
        labels, first = np.unique(mine[order], return_index=True)
        sums[labels] += np.add.reduceat(directions[order], first, axis=0)
        start += len(directions)
    return unit(sums[:number])


def nearest_cluster(embeddings: np.ndarray, rows: np.ndarray, found: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The clusters (N,) as they are, and for noise the one whose mean direction (K, E) has the highest cosine."""
    nearest = found.copy()
    outside = np.flatnonzero(found == NOISE)
    if len(means) and len(outside):
        chunks = unit_chunks(embeddings, rows[outside])
        nearest[outside] = np.concatenate([(directions @ means.T).argmax(axis=1) for directions in chunks])
    return nearest


def stability(points: np.ndarray, found: np.ndarray, resampling: Resampling) -> tuple[np.ndarray, np.ndarray]:
    """For each cluster, the mean over resamples of its best Jaccard index with a cluster found again, (K,).

    Each row is a particle. Rows that a resample draws more than once are clustered once: repeats are not neighbours.
    So a resample holds about 63 % of the rows.

    Args:
        points: (N, F), as `cluster` takes them. found: (N,) their clusters.

    Returns:
        These means, and how many clusters each resample had, (n_boot,).
    """
    number = found.max() + 1
    indices, numbers = np.zeros((resampling.n_boot, number)), np.zeros(resampling.n_boot, dtype=int)
    for draw, weights in enumerate(particle_weights(np.arange(len(points)), resampling)):
        rows = np.flatnonzero(weights)
        again = cluster(points[rows], resampling.seed + draw, len(points))
        numbers[draw] = again.max() + 1
        indices[draw] = best_jaccard(found[rows], again, number)
    return indices.mean(axis=0), numbers


def best_jaccard(found: np.ndarray, again: np.ndarray, number: int) -> np.ndarray:
    """The best Jaccard index of each of `number` clusters (N,) with a cluster (N,) found again, (number,)."""
    table = np.zeros((number + 1, again.max() + 2))  # the last row and column: noise
    np.add.at(table, (found, again), 1)
    union = table.sum(axis=1, keepdims=True) + table.sum(axis=0) - table
    jaccard = np.divide(table, union, out=np.zeros_like(table), where=union > 0)
    return jaccard[:number, :-1].max(axis=1, initial=0)


def nearest_classes(clusters: Clusters, prototypes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The known class (K,) whose prototype (C, E) is nearest to the mean direction of each cluster, and its cosine."""
    cosines = clusters.means @ unit(prototypes).T  # (K, E) -> (K, C)
    return cosines.argmax(axis=1), cosines.max(axis=1)
