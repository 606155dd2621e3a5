"""Verification: are two particles of the same class? The authors' protocol, and the same on very many pairs."""

from dataclasses import dataclass

import numpy as np

from evaluation.bootstrap import Resampling, interval, particle_weights
from evaluation.ranking import roc
from evaluation.rejection import unit

CHUNK = 16384  # pairs whose embeddings are gathered at once
MOST_PRODUCTS = 4  # products of rows per pair, up to which all are computed
FOLDS = 10  # of the authors' protocol
FALSE_ACCEPT_RATES = (1e-2, 1e-3)
EXPECTED_FALSE_ACCEPTS = 100  # a validation rate needs this many: FAR 1e-3 needs 1e5 different pairs


@dataclass(frozen=True)
class PairPlan:
    """Which pairs are compared.

    n_same, n_different: pairs drawn, or all that exist where they are fewer.
    prepare: subtract from each embedding the mean of its own components and give it length 1, as the authors do.
    resampled: pairs of each kind that the intervals rest on, at most.
    """

    n_same: int
    n_different: int
    prepare: bool = True
    resampled: int = 100_000


AUTHORS = PairPlan(600, 1200)
SCALE = PairPlan(100_000, 1_000_000)


def center_and_normalise(embeddings: np.ndarray) -> np.ndarray:
    """The authors' preparation of (N, E): subtract from each embedding the mean of its components, then length 1."""
    return unit(embeddings - embeddings.mean(axis=1, keepdims=True))


def similarity(features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Minus the squared Euclidean distance of pairs (M, 2) of rows of features (N, F): higher is more alike, (M,).

    Where there are about as many pairs as two rows of N make, all products of rows at once are far faster than to
    fetch both rows of each pair.
    """
    if len(features) ** 2 <= MOST_PRODUCTS * len(pairs):
        features = features.astype(float)  # differences of like numbers
        products = features @ features.T  # (N, N)
        squares = np.diag(products)
        first, second = pairs.T
        return np.minimum(2 * products[first, second] - squares[first] - squares[second], 0)
    scores = np.empty(len(pairs))
    for start in range(0, len(pairs), CHUNK):
        first, second = pairs[start : start + CHUNK].T
        offset = features[first] - features[second]  # (chunk, F)
        scores[start : start + CHUNK] = -np.einsum("mf,mf->m", offset, offset)
    return scores


@dataclass(frozen=True)
class PairPool:
    """All pairs of rows between some pairs of classes, without those that share a particle.

    Rows are kept sorted by class; a block (a, b) is every pair of a row of class a with a row of class b.
    """

    rows: np.ndarray  # (N,) row numbers, sorted by class
    starts: np.ndarray  # (K + 1,) where each class starts in `rows`
    particles: np.ndarray  # (N_all,) integer particle of each row number
    blocks: np.ndarray  # (B, 2) class numbers
    sizes: np.ndarray  # (B,) pairs of each block that share no particle

    @property
    def count(self) -> int:
        """How many pairs there are."""
        return int(self.sizes.sum())

    def draw(self, wanted: int, rng: np.random.Generator) -> np.ndarray:
        """`wanted` distinct pairs (M, 2) drawn evenly, or all when there are no more; memory grows with `wanted`."""
        if self.count <= 2 * wanted:
            pairs = np.concatenate([self._enumerate(a, b) for a, b in self.blocks] or [np.empty((0, 2), int)])
            return pairs if len(pairs) <= wanted else rng.choice(pairs, wanted, replace=False)
        total = len(self.particles)
        codes = np.empty(0, dtype=np.int64)
        while len(codes) < wanted:
            pairs = self._throw(2 * (wanted - len(codes)) + 64, rng)
            codes = np.concatenate([codes, pairs.min(axis=1) * total + pairs.max(axis=1)])
            codes = codes[np.sort(np.unique(codes, return_index=True)[1])]  # the first of each, order kept
        return np.stack(np.divmod(codes[:wanted], total), axis=1)

    def _enumerate(self, a: int, b: int) -> np.ndarray:
        """Every pair (M, 2) of block (a, b)."""
        first, second = (self.rows[self.starts[k] : self.starts[k + 1]] for k in (a, b))
        apart = self.particles[first][:, None] != self.particles[second][None, :]
        if a == b:
            apart = np.triu(apart, 1)
        i, j = np.nonzero(apart)
        return np.stack([first[i], second[j]], axis=1)

    def _throw(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Some pairs (<= number, 2), each pair of the pool as likely as any other; repeats happen."""
        lengths = np.diff(self.starts)
        block_lengths = lengths[self.blocks]  # (B, 2)
        boxes = block_lengths.prod(axis=1).astype(float)
        boxes[self.blocks[:, 0] == self.blocks[:, 1]] /= (
            2  # each pair within a class is met twice, as (i, j) and (j, i)
        )
        block = rng.choice(len(boxes), size=number, p=boxes / boxes.sum())
        within = (rng.random((number, 2)) * block_lengths[block]).astype(int)
        pairs = self.rows[self.starts[self.blocks[block]] + within]
        return pairs[self.particles[pairs[:, 0]] != self.particles[pairs[:, 1]]]


def pair_pools(labels: np.ndarray, particles: np.ndarray, sides: np.ndarray | None = None) -> tuple[PairPool, PairPool]:
    """The pools of same-class and of different-class pairs; no pair shares a particle.

    Args:
        labels: (N,) class names.
        particles: (N,) an identity that all copies of one particle share.
        sides: (N,) bool; when given, different-class pairs are only those of one row of each side.
    """
    from scipy.sparse import csr_matrix  # here: open_set.py --help does without SciPy

    particles = np.unique(np.asarray(particles), return_inverse=True)[1]
    names, numbers = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(len(names) + 1))
    copies = csr_matrix((np.ones(len(numbers)), (particles, numbers)))  # (particles, K)
    shared = (copies.T @ copies).toarray()  # (K, K) ordered row pairs that share a particle

    blocks = np.stack(np.triu_indices(len(names)), axis=1)
    lengths = np.diff(starts)
    sizes = lengths[blocks].prod(axis=1) - shared[blocks[:, 0], blocks[:, 1]]
    same = blocks[:, 0] == blocks[:, 1]
    sizes = np.where(same, sizes / 2, sizes).astype(np.int64)
    different = ~same
    if sides is not None:
        side = np.asarray(sides)[order[starts[:-1]]]  # (K,)
        if (side[numbers] != sides).any():
            raise ValueError("a class has rows on both sides; expected seen and unseen classes to be disjoint")
        different &= side[blocks[:, 0]] != side[blocks[:, 1]]
    return tuple(
        PairPool(order, starts, particles, blocks[chosen & (sizes > 0)], sizes[chosen & (sizes > 0)])
        for chosen in (same, different)
    )


@dataclass(frozen=True)
class RankedPairs:
    """Drawn pairs sorted from the most alike down, ready to be counted again with other weights."""

    is_same: np.ndarray  # (M,) bool
    first: np.ndarray  # (M,) row number
    second: np.ndarray  # (M,) row number
    scores: np.ndarray  # (M,) descending
    last: np.ndarray  # (T,) the last pair of each distinct score

    def keep(self, chosen: np.ndarray) -> "RankedPairs":
        """Only the chosen (M,) bool pairs."""
        scores = self.scores[chosen]
        return RankedPairs(self.is_same[chosen], self.first[chosen], self.second[chosen], scores, _ends(scores))

    def curve(self, weights: np.ndarray | None = None) -> np.ndarray:
        """The ROC from (0, 0) to (1, 1), (2, T + 1): false-accept rate, validation rate; ties in one step.

        `weights` (N,) counts each row, a pair the product of its two. NaN where one kind of pair is missing.
        """
        counts = np.ones(len(self.first)) if weights is None else weights[self.first] * weights[self.second]
        accepted = np.cumsum(counts)[self.last].astype(float)
        same = np.cumsum(counts * self.is_same)[self.last]
        with np.errstate(invalid="ignore"):
            rates = [(accepted - same) / (accepted[-1] - same[-1]), same / same[-1]]
        return np.pad(rates, ((0, 0), (1, 0)))


def _ends(scores: np.ndarray) -> np.ndarray:
    return np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)


def rank_pairs(features: np.ndarray, same: np.ndarray, different: np.ndarray) -> RankedPairs:
    """Score and sort pairs (M, 2) of rows of features (N, F)."""
    pairs = np.concatenate([same, different])
    scores = similarity(features, pairs)
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    return RankedPairs(order < len(same), pairs[order, 0], pairs[order, 1], scores, _ends(scores))


def area(curve: np.ndarray) -> float:
    """Area under a ROC (2, points)."""
    return float(np.trapezoid(curve[1], curve[0]))


def equal_error_rate(curve: np.ndarray) -> float:
    """Where the false-accept rate equals the false-reject rate, on the straight line between two points of the ROC."""
    excess = curve[0] + curve[1] - 1  # false accepts minus false rejects, from -1 up to 1
    if np.isnan(excess).any():
        return float("nan")
    after = int(np.argmax(excess >= 0))
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(curve[0, after - 1] + share * (curve[0, after] - curve[0, after - 1]))


def validation_rate(curve: np.ndarray, false_accept_rate: float) -> float:
    """The highest share of same pairs accepted at a threshold whose false-accept rate is at most the given one."""
    if np.isnan(curve).any():
        return float("nan")
    return float(curve[1, curve[0] <= false_accept_rate].max())


def authors_protocol(
    embeddings: np.ndarray, labels: np.ndarray, particles: np.ndarray, plan: PairPlan, resampling: Resampling
) -> dict:
    """The authors' verification of unseen classes: the threshold that is best on nine folds is scored on the tenth.

    Args:
        embeddings: (N, E) of unseen classes only.
        labels: (N,) class names.
        particles: (N,) an identity that all copies of one particle share; no pair shares one.
        plan: AUTHORS is theirs.
        resampling: of the interval of the accuracy, with the folds' thresholds as they are; its seed draws the pairs.

    Returns:
        accuracy, its std over folds and its interval, `floor` (accuracy of always giving the more frequent answer),
        auc, eer, validation rates where the pairs are enough for them, and the numbers of pairs; the figures are None,
        with a `reason`, when there are fewer pairs of a kind than folds.
    """
    pools = pair_pools(labels, particles)
    rng = np.random.default_rng(resampling.seed)
    wanted = plan.n_same, plan.n_different
    drawn = [rng.permutation(pool.draw(number, rng)) for pool, number in zip(pools, wanted, strict=True)]
    counts = [len(pairs) for pairs in drawn]
    result = {"n_same": counts[0], "n_different": counts[1], "folds": FOLDS, "seed": resampling.seed}
    if min(counts) < FOLDS:
        names = dict.fromkeys(["accuracy", "std", "accuracy_interval", "floor", "auc", "eer", "val_at_far"])
        return {**names, **result, "reason": f"{counts[0]} same and {counts[1]} different pairs for {FOLDS} folds"}

    features = center_and_normalise(embeddings) if plan.prepare else embeddings
    scores = [similarity(features, pairs) for pairs in drawn]
    fold_of = [np.arange(count) * FOLDS // count for count in counts]
    accuracies, rows, right = [], [], []
    for fold in range(FOLDS):
        fit = [kind[of != fold] for kind, of in zip(scores, fold_of, strict=True)]
        same, different = (kind[of == fold] for kind, of in zip(scores, fold_of, strict=True))
        threshold = best_threshold(*fit)
        hits = np.concatenate([same >= threshold, different < threshold])
        accuracies.append(hits.mean())
        right.append(hits)
        rows += [kind[of == fold] for kind, of in zip(drawn, fold_of, strict=True)]
    curve = np.stack(roc(*scores))
    return {
        "accuracy": float(np.mean(accuracies)),
        "std": float(np.std(accuracies)),
        "accuracy_interval": _pair_interval(np.concatenate(right), np.concatenate(rows), particles, resampling),
        "floor": max(counts) / sum(counts),
        "auc": area(curve),
        "eer": equal_error_rate(curve),
        "val_at_far": {f"{rate:g}": _validation_entry(curve, rate, counts[1], []) for rate in FALSE_ACCEPT_RATES},
        **result,
    }


def _pair_interval(
    right: np.ndarray, pairs: np.ndarray, particles: np.ndarray, resampling: Resampling
) -> list[float] | None:
    """The interval of the mean over pairs (M, 2), a pair counting as often as its two rows together."""
    means = []
    for weights in particle_weights(particles, resampling):
        counts = weights[pairs].prod(axis=1)
        means.append(np.sum(right * counts) / counts.sum() if counts.any() else np.nan)
    return interval(means)


def best_threshold(same: np.ndarray, different: np.ndarray) -> float:
    """The threshold with the most right answers, halfway between two neighbouring scores; +-inf when one answer is."""
    scores = np.concatenate([same, different])
    gain = np.concatenate([np.ones(len(same)), -np.ones(len(different))])
    values, rows = np.unique(-scores, return_inverse=True)  # ascending in -score
    gains = np.append(0, np.cumsum(np.bincount(rows, gain)))  # of accepting the best 0, 1, 2, ... values
    limits = np.concatenate([[np.inf], -(values[:-1] + values[1:]) / 2, [-np.inf]])
    return float(limits[np.argmax(gains)])


def pairs_at_scale(
    embeddings: np.ndarray,
    labels: np.ndarray,
    particles: np.ndarray,
    plan: PairPlan,
    resampling: Resampling,
    sides: np.ndarray | None = None,
) -> dict:
    """Verification on very many pairs: AUC, EER, and validation rates at low false-accept rates.

    Args:
        embeddings, labels, particles: as in `authors_protocol`.
        plan: SCALE, or another number of pairs, which are drawn evenly.
        resampling: of particles for the 95 % intervals; its seed draws the pairs.
        sides: (N,) bool; when given, different pairs are only those of one row of each side (seen against unseen).

    Returns:
        The figures with intervals, overall and per class (its same pairs against its different ones), and the ROC.
        A validation rate at a false-accept rate that the pairs cannot resolve is None, with a `reason`.
    """
    pools = pair_pools(labels, particles, sides)
    rng = np.random.default_rng(resampling.seed)
    wanted = plan.n_same, plan.n_different
    same, different = (pool.draw(number, rng) for pool, number in zip(pools, wanted, strict=True))
    result = {
        "n_same": len(same),
        "n_different": len(different),
        "n_same_exist": pools[0].count,
        "n_different_exist": pools[1].count,
        "seed": resampling.seed,
        "bootstrap": resampling.n_boot,
    }
    if len(same) == 0 or len(different) == 0:
        names = dict.fromkeys(["auc", "auc_interval", "eer", "eer_interval", "val_at_far", "roc", "per_class"])
        return {**names, **result, "reason": f"{len(same)} same and {len(different)} different pairs"}

    features = center_and_normalise(embeddings) if plan.prepare else embeddings
    curve = rank_pairs(features, same, different).curve()
    fewer = [rng.permutation(pairs)[: plan.resampled] for pairs in (same, different)]
    ranked = rank_pairs(features, *fewer)
    by_class = _by_class(ranked, np.asarray(labels).astype(str))
    draws = {"auc": [], "eer": [], **{rate: [] for rate in FALSE_ACCEPT_RATES}, **{name: [] for name in by_class}}
    for weights in particle_weights(particles, resampling):
        resampled = ranked.curve(weights)
        draws["auc"].append(area(resampled))
        draws["eer"].append(equal_error_rate(resampled))
        for rate in FALSE_ACCEPT_RATES:
            draws[rate].append(validation_rate(resampled, rate))
        for name, ranked_of_class in by_class.items():
            draws[name].append(area(ranked_of_class.curve(weights)))
    return {
        "auc": area(curve),
        "auc_interval": interval(draws["auc"]),
        "eer": equal_error_rate(curve),
        "eer_interval": interval(draws["eer"]),
        "val_at_far": {
            f"{rate:g}": _validation_entry(curve, rate, len(different), draws[rate]) for rate in FALSE_ACCEPT_RATES
        },
        **result,
        "per_class": [
            {
                "class": name.removeprefix("class "),
                "auc": area(ranked_of_class.curve()),
                "auc_interval": interval(draws[name]),
                "n_same": int(np.sum(ranked_of_class.is_same)),
                "n_different": int(np.sum(~ranked_of_class.is_same)),
            }
            for name, ranked_of_class in by_class.items()
        ],
        "roc": thin(curve),
    }


def _by_class(ranked: RankedPairs, labels: np.ndarray) -> dict[str, RankedPairs]:
    """The pairs that involve each class, where there are both kinds, under the key `class NAME`."""
    result = {}
    for name in np.unique(labels):
        mine = ranked.keep((labels[ranked.first] == name) | (labels[ranked.second] == name))
        if mine.is_same.any() and not mine.is_same.all():
            result[f"class {name}"] = mine
    return result


def _validation_entry(curve: np.ndarray, rate: float, n_different: int, draws: list[float]) -> dict:
    needed = round(EXPECTED_FALSE_ACCEPTS / rate)
    if n_different < needed:
        return {"value": None, "interval": None, "reason": f"{n_different} different pairs; {needed} are needed"}
    return {"value": validation_rate(curve, rate), "interval": interval(draws)}


def thin(curve: np.ndarray, points: int = 200) -> dict[str, list[float]]:
    """A ROC (2, many) at few false-accept rates, dense near 0, for a picture or a file."""
    rates = np.unique(np.concatenate([[0], np.geomspace(1e-4, 1, points // 2), np.linspace(0, 1, points // 2)]))
    below = np.searchsorted(curve[0], rates, side="right") - 1
    return {"far": np.round(rates, 6).tolist(), "val": np.round(curve[1, below], 6).tolist()}
