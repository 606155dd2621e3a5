"""Verification: are two particles of the same class? The authors' protocol, and the same on very many pairs."""

from dataclasses import dataclass

import numpy as np

from evaluation.bootstrap import Resampling, interval, particle_weights
from evaluation.figures import NO_FIGURE, Figure
from evaluation.pair_pool import pair_pools
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


@dataclass(frozen=True)
class Authors:
    """Verification by the authors' protocol. Of too few pairs the figures are None, and `reason` says so.

    accuracy: share of right answers, 0 to 1; std: over folds; floor: of always giving the more frequent answer.
    auc, eer: of the pairs; val_at_far: false-accept rate, as text, -> validation rate; all without intervals.
    n_same, n_different: pairs; seed: that they were drawn by.
    """

    accuracy: Figure
    std: float | None
    floor: float | None
    auc: float | None
    eer: float | None
    val_at_far: dict[str, Figure] | None
    n_same: int
    n_different: int
    folds: int
    seed: int
    reason: str = ""


@dataclass(frozen=True)
class Roc:
    """Points of a ROC: false-accept rates, and the validation rate at each; 0 to 1."""

    far: list[float]
    val: list[float]


@dataclass(frozen=True)
class ClassPairs:
    """The pairs of which one row or both are of a class."""

    auc: Figure
    n_same: int
    n_different: int


@dataclass(frozen=True)
class Pairs:
    """Verification on very many pairs. Where one kind of pair is missing the figures are None, and `reason` says so.

    auc, eer: 0 to 1; val_at_far: false-accept rate, as text, -> validation rate.
    n_same, n_different: pairs that were drawn; n_same_exist, n_different_exist: that there are.
    seed, bootstrap: of the draws, and resamples of each interval.
    per_class: of classes that have both kinds of pair.
    """

    auc: Figure
    eer: Figure
    val_at_far: dict[str, Figure] | None
    n_same: int
    n_different: int
    n_same_exist: int
    n_different_exist: int
    seed: int
    bootstrap: int
    per_class: dict[str, ClassPairs] | None
    roc: Roc | None
    reason: str = ""


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
) -> Authors:
    """The authors' verification of unseen classes: the threshold that is best on nine folds is scored on the tenth.

    Args:
        embeddings: (N, E) of unseen classes only.
        labels: (N,) class names.
        particles: (N,) an identity that all copies of one particle share; no pair shares one.
        plan: AUTHORS is theirs.
        resampling: of the interval of the accuracy, with the folds' thresholds as they are; its seed draws the pairs.
    """
    pools = pair_pools(labels, particles)
    rng = np.random.default_rng(resampling.seed)
    wanted = plan.n_same, plan.n_different
    drawn = [rng.permutation(pool.draw(number, rng)) for pool, number in zip(pools, wanted, strict=True)]
    counts = [len(pairs) for pairs in drawn]
    given = {"n_same": counts[0], "n_different": counts[1], "folds": FOLDS, "seed": resampling.seed}
    if min(counts) < FOLDS:
        none = dict.fromkeys(("std", "floor", "auc", "eer", "val_at_far"))
        reason = f"{counts[0]} same and {counts[1]} different pairs for {FOLDS} folds"
        return Authors(accuracy=NO_FIGURE, **none, **given, reason=reason)

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
    low_high = _pair_interval(np.concatenate(right), np.concatenate(rows), particles, resampling)
    return Authors(
        accuracy=Figure(float(np.mean(accuracies)), low_high),
        std=float(np.std(accuracies)),
        floor=max(counts) / sum(counts),
        auc=area(curve),
        eer=equal_error_rate(curve),
        val_at_far={f"{rate:g}": _validation_figure(curve, rate, counts[1], []) for rate in FALSE_ACCEPT_RATES},
        **given,
    )


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
) -> Pairs:
    """Verification on very many pairs: AUC, EER, and validation rates at low false-accept rates.

    Args:
        embeddings, labels, particles: as in `authors_protocol`.
        plan: SCALE, or another number of pairs, which are drawn evenly.
        resampling: of particles for the 95 % intervals; its seed draws the pairs.
        sides: (N,) bool; when given, different pairs are only those of one row of each side (seen against unseen).
    """
    pools = pair_pools(labels, particles, sides)
    rng = np.random.default_rng(resampling.seed)
    wanted = plan.n_same, plan.n_different
    same, different = (pool.draw(number, rng) for pool, number in zip(pools, wanted, strict=True))
    given = {
        "n_same": len(same),
        "n_different": len(different),
        "n_same_exist": pools[0].count,
        "n_different_exist": pools[1].count,
        "seed": resampling.seed,
        "bootstrap": resampling.n_boot,
    }
    if len(same) == 0 or len(different) == 0:
        none = dict.fromkeys(("val_at_far", "per_class", "roc"))
        reason = f"{len(same)} same and {len(different)} different pairs"
        return Pairs(auc=NO_FIGURE, eer=NO_FIGURE, **none, **given, reason=reason)

    features = center_and_normalise(embeddings) if plan.prepare else embeddings
    curve = rank_pairs(features, same, different).curve()
    fewer = [rng.permutation(pairs)[: plan.resampled] for pairs in (same, different)]
    ranked = rank_pairs(features, *fewer)
    by_class = _by_class(ranked, np.asarray(labels).astype(str))
    draws = {name: [] for name in ("auc", "eer", *FALSE_ACCEPT_RATES)}
    of_classes = {name: [] for name in by_class}
    for weights in particle_weights(particles, resampling):
        resampled = ranked.curve(weights)
        draws["auc"].append(area(resampled))
        draws["eer"].append(equal_error_rate(resampled))
        for rate in FALSE_ACCEPT_RATES:
            draws[rate].append(validation_rate(resampled, rate))
        for name, of_class in by_class.items():
            of_classes[name].append(area(of_class.curve(weights)))
    return Pairs(
        auc=Figure(area(curve), interval(draws["auc"])),
        eer=Figure(equal_error_rate(curve), interval(draws["eer"])),
        val_at_far={
            f"{rate:g}": _validation_figure(curve, rate, len(different), draws[rate]) for rate in FALSE_ACCEPT_RATES
        },
        **given,
        per_class={
            name: ClassPairs(
                auc=Figure(area(of_class.curve()), interval(of_classes[name])),
                n_same=int(np.sum(of_class.is_same)),
                n_different=int(np.sum(~of_class.is_same)),
            )
            for name, of_class in by_class.items()
        },
        roc=thin(curve),
    )


def _by_class(ranked: RankedPairs, labels: np.ndarray) -> dict[str, RankedPairs]:
    """The pairs that involve each class, where there are both kinds."""
    result = {}
    for name in np.unique(labels):
        mine = ranked.keep((labels[ranked.first] == name) | (labels[ranked.second] == name))
        if mine.is_same.any() and not mine.is_same.all():
            result[str(name)] = mine
    return result


def _validation_figure(curve: np.ndarray, rate: float, n_different: int, draws: list[float]) -> Figure:
    needed = round(EXPECTED_FALSE_ACCEPTS / rate)
    if n_different < needed:
        return Figure(None, None, f"{n_different} different pairs; {needed} are needed")
    return Figure(validation_rate(curve, rate), interval(draws))


def thin(curve: np.ndarray, points: int = 200) -> Roc:
    """A ROC (2, many) at few false-accept rates, dense near 0, for a picture or a file."""
    rates = np.unique(np.concatenate([[0], np.geomspace(1e-4, 1, points // 2), np.linspace(0, 1, points // 2)]))
    below = np.searchsorted(curve[0], rates, side="right") - 1
    return Roc(np.round(rates, 6).tolist(), np.round(curve[1, below], 6).tolist())
