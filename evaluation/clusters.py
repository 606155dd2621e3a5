"""Clusters of unknown particles: how many, which particles, how stable; of a few particles and of a million.

Their number is always estimated, never given. Up to MOST_DIRECTLY particles are clustered as they are, by HDBSCAN.
Time and memory of that grow with the square of their number; so more are first gathered around CENTRES centres by
mini-batch k-means, HDBSCAN finds clusters of the centres, each weighed by its particles, and each particle belongs
where its centre does. Both ways look at the DIMENSIONS leading principal components of unit embeddings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from evaluation.bootstrap import Resampling, particle_weights
from evaluation.rejection import unit

DIMENSIONS = 16  # principal components that are clustered
SMALLEST_CLUSTER = 10  # particles
SMALLEST_SHARE = 0.02  # of all particles, where that is more
MOST_DIRECTLY = 5000  # particles that are clustered without centres
STABLE = 0.75  # mean Jaccard index under resampling from which a cluster counts as stable (Hennig 2007)
NOISE = -1  # of HDBSCAN: in no cluster
RECLUSTERINGS = 20  # resamples that are clustered again
# of the way by centres
CENTRES = 600
FITTED_ROWS = 50_000  # particles, at random, that components, centres and stability rest on
DENSITY_ROWS = 5000  # particles, at random, that the density around a centre is measured with
DENSITY_NEIGHBOURS = 20  # of them: the radius that holds so many is the core distance of a centre
COPIES = 3000  # points in the place of the centres, each centre in proportion to its particles; of less than half: none
CHUNK = 20_000  # embeddings at once


@dataclass(frozen=True)
class Clusters:
    """Clusters of N particles, from 0, the largest first.

    numbers: (N,) the cluster of each particle, NOISE for none.
    nearest: (N,) the same; for a particle in none the cluster whose mean direction is nearest; NOISE without clusters.
    means: (K, E) the mean direction of each cluster, length 1.
    medoids: (K,) the particle that is nearest to the middle of its cluster, as an index into the N.
    stability: (K,) mean Jaccard index with a cluster found again in resamples.
    smallest: the fewest particles that could make a cluster.
    by_centres: whether they were found by centres.
    """

    numbers: np.ndarray
    nearest: np.ndarray
    means: np.ndarray
    medoids: np.ndarray
    stability: np.ndarray
    smallest: int
    by_centres: bool

    def __len__(self) -> int:
        return len(self.medoids)

    def sizes(self) -> np.ndarray:
        """Particles of each cluster, (K,)."""
        return np.bincount(self.numbers[self.numbers != NOISE], minlength=len(self))


def find_clusters(
    embeddings: np.ndarray, rows: np.ndarray, seed: int, reclusterings: int = RECLUSTERINGS
) -> Clusters | None:
    """Cluster some particles; None where they are fewer than two smallest clusters.

    Args:
        embeddings: (M, E), of any length; they may be a mapped file. CHUNK of them are copied at once.
        rows: (N,) which of them are clustered, in order.
        seed: of all that is drawn.
        reclusterings: resamples that are clustered again, for the stability.
    """
    if len(rows) < 2 * SMALLEST_CLUSTER:
        return None
    by_centres = len(rows) > MOST_DIRECTLY
    cluster = partial(cluster_by_centres, seed=seed) if by_centres else hdbscan
    points = project(embeddings, rows, seed) if by_centres else reduce(embeddings[rows])
    found = largest_first(cluster(points))
    fitted = some(len(rows), FITTED_ROWS, seed)
    resampling = Resampling(reclusterings, seed)
    stabilities, _ = stability(points[fitted], found[fitted], resampling, cluster)
    number = found.max() + 1
    means = mean_directions(embeddings, rows, found, number)
    return Clusters(
        numbers=found,
        nearest=nearest_cluster(embeddings, rows, found, means),
        means=means,
        medoids=np.array([medoid(points, found == index) for index in range(number)], dtype=int),
        stability=stabilities,
        smallest=smallest_cluster(len(rows)),
        by_centres=by_centres,
    )


def smallest_cluster(count: int) -> int:
    """The fewest of `count` particles that make a cluster."""
    return max(SMALLEST_CLUSTER, round(SMALLEST_SHARE * count))


def some(count: int, most: int, seed: int) -> np.ndarray:
    """At most so many of `count` rows, at random, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def reduce(embeddings: np.ndarray) -> np.ndarray:
    """Principal components of unit embeddings, (N, E) -> (N, at most DIMENSIONS)."""
    directions = unit(np.asarray(embeddings, dtype=np.float64))
    left, spread, _ = np.linalg.svd(directions - directions.mean(axis=0), full_matrices=False)
    return (left * spread)[:, :DIMENSIONS]


def project(embeddings: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """As `reduce`, with components fitted on FITTED_ROWS of the rows (N,): (N, at most DIMENSIONS) float32."""
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
    """Unit embeddings of the rows, float64, CHUNK at a time."""
    for start in range(0, len(rows), CHUNK):
        yield unit(np.asarray(embeddings[rows[start : start + CHUNK]], dtype=np.float64))


def in_one_place(points: np.ndarray) -> bool:
    """Whether all points (N, F) coincide: density is infinite then, and would be split at random."""
    return bool(np.ptp(points, axis=0).max() < 1e-6)


def hdbscan(points: np.ndarray, of: int = 0) -> np.ndarray:
    """Clusters by density (Campello et al. 2013), (N, F) -> (N,) from 0, NOISE for rows in none.

    Where the points are some of `of`, the smallest cluster and the neighbourhood are smaller in proportion.
    """
    if in_one_place(points):
        return np.zeros(len(points), dtype=int)
    from sklearn.cluster import HDBSCAN  # here: open_set.py --help does without scikit-learn

    of = of or len(points)
    size, neighbours = (round(count * len(points) / of) for count in (smallest_cluster(of), SMALLEST_CLUSTER // 2))
    return HDBSCAN(min_cluster_size=max(size, 2), min_samples=max(neighbours, 2), copy=True).fit_predict(points)


def cluster_by_centres(points: np.ndarray, of: int = 0, seed: int = 0) -> np.ndarray:
    """As `hdbscan`, by way of CENTRES centres; `of` changes nothing, as the smallest cluster is a share here."""
    if in_one_place(points):
        return np.zeros(len(points), dtype=int)
    from sklearn.cluster import MiniBatchKMeans  # here, for the same reason

    number = min(CENTRES, len(points))
    kmeans = MiniBatchKMeans(number, random_state=seed, batch_size=4096, n_init=1, max_iter=20, reassignment_ratio=0)
    kmeans.fit(points[some(len(points), FITTED_ROWS, seed)])
    owner = kmeans.predict(points)  # (N,) the centre of each point
    shares = np.bincount(owner, minlength=number) / len(points)
    sample = points[some(len(points), DENSITY_ROWS, seed + 1)]
    return cluster_centres(kmeans.cluster_centers_, shares, sample)[owner]


def cluster_centres(centres: np.ndarray, shares: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """HDBSCAN of centres (C, F) that stand for shares (C,) of all particles: the cluster of each, (C,), NOISE for none.

    Centres lie thinner than the particles where these lie close, so that density is not theirs: the core distance of a
    centre is the radius that holds DENSITY_NEIGHBOURS of a sample (S, F) of the particles. A centre stands COPIES times
    its share; where that is less than a half it is left out as noise. Clusters are the leaves of HDBSCAN's tree:
    centres are smooth enough not to be split by chance, and by excess of mass, as `hdbscan` has it, one cluster
    swallowed most classes with some seeds.
    """
    from scipy.spatial.distance import cdist  # here, for the same reason
    from sklearn.cluster import HDBSCAN

    neighbours = min(DENSITY_NEIGHBOURS, len(sample)) - 1
    core = np.partition(cdist(centres, sample), neighbours, axis=1)[:, neighbours]
    reach = np.maximum(cdist(centres, centres), np.maximum(core[:, None], core))  # (C, C) mutual reachability
    copies = np.repeat(np.arange(len(centres)), np.round(COPIES * shares).astype(int))
    size = max(round(SMALLEST_SHARE * len(copies)), 2)
    options = {"metric": "precomputed", "cluster_selection_method": "leaf", "copy": True}
    model = HDBSCAN(min_cluster_size=size, min_samples=1, **options)
    labels = model.fit_predict(reach[np.ix_(copies, copies)])
    votes = np.zeros((len(centres), labels.max() + 2), dtype=int)  # the last column: noise
    np.add.at(votes, (copies, labels), 1)
    votes[votes.sum(axis=1) == 0, -1] = 1
    winners = votes.argmax(axis=1)  # copies of a centre lie equally far from each other, and may be told apart
    used = np.unique(winners[winners < votes.shape[1] - 1])
    return np.where(np.isin(winners, used), np.searchsorted(used, winners), NOISE)


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


def stability(
    points: np.ndarray,
    found: np.ndarray,
    resampling: Resampling,
    cluster: Callable[[np.ndarray, int], np.ndarray] = hdbscan,
) -> tuple[np.ndarray, np.ndarray]:
    """For each cluster, the mean over resamples of its best Jaccard index with a cluster found again, (K,).

    Each row is a particle. Rows that a resample draws more than once are clustered once: repeats are not neighbours.
    So a resample holds about 63 % of the rows. `cluster` takes points, and the number that these are some of.

    Returns:
        These means, and how many clusters each resample had, (n_boot,).
    """
    number = found.max() + 1
    indices, numbers = np.zeros((resampling.n_boot, number)), np.zeros(resampling.n_boot, dtype=int)
    for draw, weights in enumerate(particle_weights(np.arange(len(points)), resampling)):
        rows = np.flatnonzero(weights)
        again = cluster(points[rows], len(points))
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
