"""Groups among points: communities of a graph of neighbours, joined where no valley of density lies between them.

Points are gathered around at most CENTRES centres by mini-batch k-means; fewer points than that are centres themselves.
Centres that share many of their nearest neighbours form communities (Louvain, Blondel et al. 2008). These cut a large
group in pieces of the size of the others, and a lone group, too: so two of them are joined where the density along the
line between them has no valley. Last, points far outside their group are left out.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

SMALLEST_CLUSTER = 10  # points
NOISE = -1  # in no cluster
# chosen on simulated classes that no training saw, under the imaging of `benchmark`, `hard` and `series`
CENTRES = 1500
NEIGHBOURS = 15  # of a centre, at most; of few centres the square root of their number, but FEWEST_NEIGHBOURS
FEWEST_NEIGHBOURS = 5
SEPARATING = 12  # leading components of the points that valleys are sought in
VALLEY = 0.85  # density between two communities over the lower of their peaks, from which on they are one group
BANDWIDTH = 2.0  # of that density, times the spread of a community and n^-1/5, as in Silverman's rule
NEAR = 4  # communities nearest to one that it is compared with
FENCE = (
    3.0  # a point is in none where its distance from the middle is so many IQR above the third quartile (Tukey 1977)
)
# to bound time and memory
FITTED_ROWS = 50_000  # points, at random, that centres rest on
COMPARED_ROWS = 2000  # points of a community, at random, that a valley is sought with
STEPS = 41  # places between two communities where the density is taken


def cluster(points: np.ndarray, seed: int, of: int = 0, most_centres: int = CENTRES) -> np.ndarray:
    """Groups of points (N, F), components in the order of their spread: (N,) from 0, NOISE for points in none.

    Args:
        seed: of all that is drawn.
        of: where the points are some of so many, the smallest group is smaller in proportion.
        most_centres: centres that the points are gathered around; more than N: every point is one.
    """
    if in_one_place(points):
        return np.zeros(len(points), dtype=int)
    owner, middles = gathered(points, most_centres, seed)
    found = communities(middles, np.bincount(owner), seed)[owner]
    found = fenced(points, joined(points, found, seed))
    return without_small(found, round(SMALLEST_CLUSTER * len(points) / (of or len(points))))


def in_one_place(points: np.ndarray) -> bool:
    """Whether all points (N, F) coincide: they would be split at random."""
    return bool(np.ptp(points, axis=0).max() < 1e-6)


def some(count: int, most: int, seed: int) -> np.ndarray:
    """At most so many of `count` rows, at random, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def gathered(points: np.ndarray, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The centre of each point (N, F), as a number, (N,), and the mean of the points of each centre, (C, F)."""
    if len(points) <= most:
        return np.arange(len(points)), points
    from sklearn.cluster import MiniBatchKMeans  # here: predict.py --help does without scikit-learn

    kmeans = MiniBatchKMeans(most, random_state=seed, batch_size=4096, n_init=1, max_iter=10, reassignment_ratio=0)
    kmeans.fit(points[some(len(points), FITTED_ROWS, seed)])
    owner = np.unique(kmeans.predict(points), return_inverse=True)[1]  # without the centres of no point
    return owner, means(points, owner)


def means(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean of the points (N, F) of each label (N,), 0 .. K - 1 without gaps: (K, F)."""
    sums = [np.bincount(labels, weights=column) for column in points.T]
    return np.stack(sums, axis=1) / np.bincount(labels)[:, None]


def communities(centres: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Communities (C,) of centres (C, F) that stand for `counts` (C,) points, from 0."""
    import networkx  # here, for the same reason

    weights = shared_neighbours(centres).multiply(counts[:, None]).multiply(counts).tocsr()
    found = np.empty(len(centres), dtype=int)
    graph = networkx.from_scipy_sparse_array(weights)
    for number, members in enumerate(networkx.community.louvain_communities(graph, seed=seed)):
        found[[*members]] = number
    return found


def shared_neighbours(centres: np.ndarray) -> "csr_matrix":
    """How many neighbours two centres (C, F) share, where one of them is the other's neighbour: (C, C), sparse."""
    from sklearn.neighbors import NearestNeighbors  # here, for the same reason

    number = min(NEIGHBOURS, max(FEWEST_NEIGHBOURS, round(len(centres) ** 0.5)), len(centres) - 1)
    near = NearestNeighbors(n_neighbors=number).fit(centres).kneighbors_graph()  # of itself no centre is one
    near = near + near.T  # 2 where both are
    shared = (near @ near).multiply(near > 0).tocsr()
    shared.setdiag(0)
    shared.eliminate_zeros()
    return shared


def joined(points: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """The communities (N,) of points (N, F) joined, the pair with the least valley first, until all have one."""
    samples = whitened(sampled(points[:, :SEPARATING], labels, seed))
    groups = dict(enumerate(samples))
    target, valleys = np.arange(len(samples)), {}
    while len(groups) > 1:
        pairs = {*near_pairs(groups)}
        valleys |= {pair: valley(*(groups[number] for number in pair)) for pair in pairs - {*valleys}}
        best = max(sorted(pairs), key=valleys.__getitem__)
        if valleys[best] <= VALLEY:
            break
        first, second = best
        groups[first] = np.concatenate([groups[first], groups.pop(second)])
        target[target == second] = first
        valleys = {pair: value for pair, value in valleys.items() if not {*pair} & {*best}}
    return np.unique(target[labels], return_inverse=True)[1]


def sampled(points: np.ndarray, labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """At most COMPARED_ROWS points of each label, a list of (n, F)."""
    order = np.argsort(labels, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(labels))[:-1])
    return [points[part[some(len(part), COMPARED_ROWS, seed)]].astype(float) for part in parts]


def whitened(groups: list[np.ndarray]) -> list[np.ndarray]:
    """Groups (n, F) in coordinates in which their points spread alike about their means in every direction."""
    inner = np.concatenate([group - group.mean(axis=0) for group in groups])
    values, vectors = np.linalg.eigh(inner.T @ inner / len(inner))
    few = len(values) / len(inner)  # few points seem to spread less in some directions than they do
    scale = vectors / np.sqrt((values + few * values.mean()) / (1 + few) + 1e-12)
    return [group @ scale for group in groups]


def near_pairs(groups: dict[int, np.ndarray]) -> Iterator[tuple[int, int]]:
    """Each group (n, F) with the NEAR groups whose means are nearest, by their keys, the smaller first."""
    keys = sorted(groups)
    middles = np.stack([groups[key].mean(axis=0) for key in keys])
    distances = np.linalg.norm(middles[:, None] - middles, axis=2)
    np.fill_diagonal(distances, np.inf)
    for place, order in enumerate(np.argsort(distances, axis=1, kind="stable")[:, : min(NEAR, len(keys) - 1)]):
        for other in order:
            yield min(keys[place], keys[other]), max(keys[place], keys[other])


def valley(first: np.ndarray, second: np.ndarray) -> float:
    """The lowest density between two groups (n, F) over the lower of the two peaks beside it, 0 to 1.

    The density is that along the line through the means, both groups having one weight. A point takes no part in the
    mean of its own group: few points in many dimensions would lie apart along any line that they fixed themselves.
    """
    if min(len(first), len(second)) < FEWEST_NEIGHBOURS:
        return 0.0  # too few to tell; groups of so few are left out in the end
    means_without = [(group.sum(axis=0) - group) / (len(group) - 1) for group in (first, second)]
    left = _along(first, means_without[0], second.mean(axis=0))
    right = -_along(second, means_without[1], first.mean(axis=0))
    low, high = np.median(left), np.median(right)
    if high <= low:
        return 1.0
    width = BANDWIDTH * (left.std() + right.std()) / 2 * min(len(left), len(right)) ** -0.2 + 1e-12
    places = np.linspace(low, high, STEPS)[:, None]
    density = sum(np.exp(-(((places - side) / width) ** 2) / 2).mean(axis=1) for side in (left, right))
    lowest = density.argmin()
    return float(density[lowest] / min(density[: lowest + 1].max(), density[lowest:].max()))


def _along(points: np.ndarray, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where points (n, F) lie on the lines from their own means (n, F) to another (F,), from the middle of both."""
    lines = other - own
    lengths = np.maximum(np.linalg.norm(lines, axis=1), 1e-12)
    return np.sum((points - (own + other) / 2) * lines, axis=1) / lengths


def fenced(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The groups (N,) of points (N, F) without those that lie far outside, which become NOISE."""
    found, middles = labels.copy(), means(points, labels)
    for number, middle in enumerate(middles):
        mine = np.flatnonzero(labels == number)
        distances = np.linalg.norm(points[mine] - middle, axis=1)
        low, high = np.quantile(distances, [0.25, 0.75])
        found[mine[distances > high + FENCE * max(high - low, 1e-6)]] = NOISE
    return found


def without_small(labels: np.ndarray, smallest: int) -> np.ndarray:
    """Groups (N,) without those of fewer points, numbered without gaps; NOISE for points in none."""
    counts = np.bincount(labels[labels != NOISE], minlength=1)
    large = np.flatnonzero(counts >= smallest)
    number = np.full(len(counts) + 1, NOISE)  # the last: where index NOISE leads
    number[large] = np.arange(len(large))
    return number[labels]
