"""Does a cluster follow something other than structure: noise, brightness, the tomogram, the place in it?

Each cluster is compared with the other particles, factor by factor. A factor is named only where the difference is
both large (LEAST_AUC, LEAST_EXCESS) and beyond chance: where all factors are independent of the clusters, any is named
with a chance of CHANCE at most. A named one need not be the reason: a large complex is brighter, and some structures
are in one tomogram alone.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from evaluation.communities import NOISE

CHANCE = 0.05  # largest chance that any factor of a call is named where all are independent of the clusters
LEAST_AUC = 0.85  # of a number: chance that one of the cluster has the larger (or smaller) value than one of the others
LEAST_EXCESS = 0.3  # of groups: share of the cluster that would have to change its group, beyond what chance asks for
FEWEST = 5  # particles in a cluster, and beside it, that are compared; particles per group, on average
PERMUTATIONS = 1999
AT_ONCE = 2**21  # counts of a permutation in memory
MOST_OF_IT = 0.75  # share of a difference that the named groups make up


@dataclass(frozen=True)
class Followed:
    """A factor that a cluster follows.

    effect: of a number the AUC, 0 to 1, above 0.5 where the cluster's values are larger; of groups the excess.
    p: chance of as large an effect of any cluster and factor, if all were independent.
    own, others: of a number the medians of the cluster and of the others; of groups their shares in `groups`, 0 to 1.
    groups: the fewest that make up most of the difference, of so many `groups_there`; none for a number.
    """

    cluster: int
    factor: str
    effect: float
    p: float
    own: float
    others: float
    groups: tuple[str, ...] = ()
    groups_there: int = 0


def followed(numbers: np.ndarray, factors: dict[str, np.ndarray], seed: int) -> list[Followed]:
    """What the clusters follow, by cluster.

    Args:
        numbers: (N,) the cluster of each particle, from 0, NOISE for none; those in none are among the others.
        factors: name -> (N,) numbers, NaN where unknown; or text, for groups, empty where unknown.
        seed: of the permutations.
    """
    result = []
    for name, values in factors.items():
        if np.issubdtype(values.dtype, np.number):
            known = ~np.isnan(values)  # an SNR may be infinite
            found = follow_number(name, numbers[known], values[known].astype(float))
        else:
            known = values != ""
            found = follow_groups(name, numbers[known], values[known], seed)
        corrected = (replace(one, p=min(1.0, one.p * len(factors))) for one in found)
        result += [one for one in corrected if one.p <= CHANCE]
    return sorted(result, key=lambda each: each.cluster)


def compared(numbers: np.ndarray) -> list[int]:
    """The clusters of (N,) that are large enough to be compared, and leave enough others."""
    counts = np.bincount(numbers[numbers != NOISE])
    return [index for index, count in enumerate(counts) if FEWEST <= count <= len(numbers) - FEWEST]


def follow_number(factor: str, numbers: np.ndarray, values: np.ndarray) -> list[Followed]:
    """The clusters (N,) whose values (N,) are higher or lower; p by Mann-Whitney and Bonferroni, for this factor."""
    if len(np.unique(values)) < 2:
        return []
    from scipy.stats import rankdata  # here, so that --help does without SciPy

    ranks, clusters, total = rankdata(values), compared(numbers), len(values)
    ties = np.unique(values, return_counts=True)[1].astype(float)
    result = []
    for index in clusters:
        mine = numbers == index
        count, others = int(mine.sum()), total - int(mine.sum())
        auc = (ranks[mine].sum() - count * (count + 1) / 2) / (count * others)
        variance = (total + 1 - np.sum(ties**3 - ties) / (total * (total - 1))) / (12 * count * others)
        p = math.erfc(abs(auc - 0.5) / math.sqrt(2 * variance)) * len(clusters)
        if max(auc, 1 - auc) >= LEAST_AUC:
            medians = float(np.median(values[mine])), float(np.median(values[~mine]))
            result.append(Followed(index, factor, float(auc), min(1.0, p), *medians))
    return result


def follow_groups(factor: str, numbers: np.ndarray, groups: np.ndarray, seed: int) -> list[Followed]:
    """The clusters (N,) that lie in some groups (N,) more than others do; p is for this factor.

    The distance of the cluster's shares of the groups from those of the others (total variation) is compared with that
    of random clusters of its size. p is that of the largest of all clusters' standardised distances (Westfall and Young
    1993), so that it holds for all of them.
    """
    names, groups = np.unique(groups, return_inverse=True)
    counts, clusters = np.bincount(groups, minlength=len(names)), compared(numbers)
    if len(names) < 2 or len(groups) < FEWEST * len(names) or not clusters:
        return []
    rng = np.random.default_rng(seed)
    excess, observed, highest = np.zeros(len(clusters)), np.zeros(len(clusters)), np.full(PERMUTATIONS, -np.inf)
    inside = [np.bincount(groups[numbers == index], minlength=len(names)) for index in clusters]
    for place, mine in enumerate(inside):
        drawn = random_distances(counts, int(mine.sum()), rng)
        mean, spread = drawn.mean(), max(drawn.std(), 1e-12)
        excess[place] = distance(mine, counts) - mean
        observed[place] = excess[place] / spread
        highest = np.maximum(highest, (drawn - mean) / spread)
    return [
        Followed(
            index,
            factor,
            float(excess[place]),
            (1 + int(np.sum(highest >= observed[place]))) / (PERMUTATIONS + 1),
            *in_groups(names, inside[place], counts),
        )
        for place, index in enumerate(clusters)
        if excess[place] >= LEAST_EXCESS
    ]


def distance(inside: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Total variation distance between the shares (..., G) of a cluster's groups and those of the others, (...)."""
    others = counts - inside
    shares = inside / inside.sum(axis=-1, keepdims=True) - others / others.sum(axis=-1, keepdims=True)
    return np.abs(shares).sum(axis=-1) / 2


def random_distances(counts: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """The distances of PERMUTATIONS random clusters of a size, where groups hold `counts` (G,) particles."""
    block = max(1, AT_ONCE // len(counts))
    blocks = [min(block, PERMUTATIONS - start) for start in range(0, PERMUTATIONS, block)]
    drawn = (rng.multivariate_hypergeometric(counts, size, size=number, method="marginals") for number in blocks)
    return np.concatenate([distance(inside, counts) for inside in drawn])


def in_groups(names: np.ndarray, inside: np.ndarray, counts: np.ndarray) -> tuple[float, float, tuple[str, ...], int]:
    """The shares of a cluster and of the others in the fewest groups that make up MOST_OF_IT of the difference, these
    groups, and how many there are.

    Args:
        names, inside, counts: (G,) of the groups; inside: particles of the cluster; counts: of all.
    """
    others = counts - inside
    shares = inside / inside.sum(), others / others.sum()
    surplus = np.maximum(shares[0] - shares[1], 0)
    order = np.argsort(-surplus, kind="stable")
    chosen = order[: int(np.searchsorted(np.cumsum(surplus[order]), MOST_OF_IT * surplus.sum())) + 1]
    mine, theirs = (float(share[chosen].sum()) for share in shares)
    return mine, theirs, tuple(map(str, names[chosen])), len(names)


def edge_distance(positions: np.ndarray, tomograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far particles lie from the border and from the middle of the thickness of their tomogram's particles, (N,).

    Args:
        positions: (N, 3) z, y, x in A, NaN where unknown.
        tomograms: (N,) names.

    Returns:
        The distance along y or x, whichever is less, from the box that the tomogram's particles span; and that along z
        from the middle of it. A; NaN where the place is unknown.
    """
    border, middle = np.full(len(positions), np.nan), np.full(len(positions), np.nan)
    order = np.argsort(tomograms, kind="stable")
    starts = np.flatnonzero(np.append(True, tomograms[order][1:] != tomograms[order][:-1]))
    for rows in np.split(order, starts[1:]):
        rows = rows[np.isfinite(positions[rows]).all(axis=1)]
        if len(rows):
            low, high = positions[rows].min(axis=0), positions[rows].max(axis=0)
            border[rows] = np.minimum(positions[rows] - low, high - positions[rows])[:, 1:].min(axis=1)
            middle[rows] = np.abs(positions[rows, 0] - (low[0] + high[0]) / 2)
    return border, middle
