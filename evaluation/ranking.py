"""How well a score tells known from unknown: ROC curves, AUROC, AUPR, FPR95 and OSCR.

Higher is more known. Thresholds are inclusive: a particle is accepted as known when its score is at least the
threshold.
"""

from dataclasses import dataclass

import numpy as np

from evaluation.bootstrap import Resampling, interval, known_unknown_weights
from evaluation.figures import Figure


def checked(scores: np.ndarray, name: str) -> np.ndarray:
    """Scores (N,) as an array; raises ValueError for another shape, none at all, or one that is not finite."""
    scores = np.asarray(scores)
    if scores.ndim != 1 or len(scores) == 0 or not np.isfinite(scores).all():
        raise ValueError(f"{name} scores have shape {scores.shape}; expected (N,), N > 0, all finite")
    return scores


@dataclass(frozen=True)
class Ranking:
    """Known and unknown rows sorted from the highest score down, ready to be counted again with other weights."""

    order: np.ndarray  # (N,) row numbers, the known rows before the unknown
    is_known: np.ndarray  # (N,) bool, in that order
    is_right: np.ndarray  # (N,) bool, likewise: known, and its class right
    last: np.ndarray  # (T,) the last row of each distinct score

    def counts(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Rows accepted at each distinct threshold, tied ones together, (3, T): knowns, right knowns, unknowns.

        `weights` (N,) counts each row, the known rows first.
        """
        weights = np.ones(len(self.order)) if weights is None else weights[self.order]
        kinds = np.stack([self.is_known, self.is_right, ~self.is_known])  # (3, N)
        return np.cumsum(kinds * weights, axis=1, dtype=float)[:, self.last]


def rank(known: np.ndarray, unknown: np.ndarray, correct: np.ndarray | None = None) -> Ranking:
    """Sort known scores (N_known,), with `correct` (N_known,) bool, and unknown scores (N_unknown,)."""
    known, unknown = checked(known, "known"), checked(unknown, "unknown")
    scores = np.concatenate([known, unknown])
    order = np.argsort(-scores, kind="stable")
    right = np.zeros(len(scores), dtype=bool)
    right[: len(known)] = True if correct is None else correct
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    return Ranking(order, order < len(known), right[order], last)


@dataclass(frozen=True)
class Measures:
    """How well a score tells known from unknown rows: areas AUROC, AUPR and OSCR, and the rate FPR95, all 0 to 1."""

    auroc: float
    aupr: float
    fpr95: float
    oscr: float


def measures(ranking: Ranking, weights: np.ndarray | None = None) -> Measures:
    """The measures of ranked rows, each row counted `weights` (N,) times."""
    known, right, unknown = ranking.counts(weights)
    accepted_known, accepted_unknown = np.append(0, known / known[-1]), np.append(0, unknown / unknown[-1])
    accepted = known + unknown
    precision = np.divide(known, accepted, out=np.ones_like(known), where=accepted > 0)
    enough = known >= known[-1] - int(0.05 * known[-1] + 1e-9)
    return Measures(
        auroc=float(np.trapezoid(accepted_known, accepted_unknown)),
        aupr=float(np.sum(np.diff(accepted_known) * precision)),
        fpr95=float(accepted_unknown[1:][enough][0]),
        oscr=float(np.trapezoid(np.append(0, right / known[-1]), accepted_unknown)),
    )


def with_intervals(
    ranking: Ranking,
    particles: tuple[np.ndarray, np.ndarray],
    resampling: Resampling,
    names: tuple[str, ...] = ("auroc", "aupr", "fpr95", "oscr"),
) -> dict[str, Figure]:
    """Some measures of ranked rows, each with its interval over particles, those of known and of unseen rows."""
    measured = measures(ranking)
    drawn = [measures(ranking, weights) for weights in known_unknown_weights(*particles, resampling)]
    return {name: Figure(getattr(measured, name), interval([getattr(draw, name) for draw in drawn])) for name in names}


def roc(known: np.ndarray, unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve from (0, 0) to (1, 1): share of unknowns accepted, share of knowns accepted."""
    accepted_known, _, accepted_unknown = rank(known, unknown).counts()
    return np.append(0, accepted_unknown / len(unknown)), np.append(0, accepted_known / len(known))


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """The chance that a known scores above an unknown; a tie counts one half."""
    return measures(rank(known, unknown)).auroc


def aupr(known: np.ndarray, unknown: np.ndarray) -> float:
    """Average precision with the knowns as positives. Its floor is the share of knowns, n_known / n."""
    return measures(rank(known, unknown)).aupr


def fpr95(known: np.ndarray, unknown: np.ndarray) -> float:
    """The share of unknowns accepted where at least 95 % of knowns are."""
    return measures(rank(known, unknown)).fpr95


def oscr(known: np.ndarray, correct: np.ndarray, unknown: np.ndarray) -> float:
    """Area under the correct-classification rate of knowns against the false-positive rate of unknowns.

    Args:
        known, unknown: scores (N_known,), (N_unknown,).
        correct: (N_known,) bool, whether the class given to the known row is right.

    Returns:
        The trapezoid area from (0, 0), both rates at the same inclusive threshold; at most the closed-set accuracy.
    """
    return measures(rank(known, unknown, correct)).oscr
