"""The known classes alone, and known against unseen: two parts of an open-set report."""

from dataclasses import dataclass

import numpy as np

from evaluation import rejection
from evaluation.bootstrap import Resampling, mean_figure
from evaluation.embedded import Embedded, Scored, class_means
from evaluation.figures import NO_FIGURE, BySnr, Figure
from evaluation.ranking import rank, with_intervals
from evaluation.verification import SCALE, PairPlan, Pairs, pairs_at_scale


@dataclass(frozen=True)
class Rates:
    """Of some rows of known classes: how many there are, of how many particles, and the shares of rows, 0 to 1, that
    are named right by the nearest prototype and that are called unknown."""

    n: int
    n_particles: int
    prototype_accuracy: Figure
    false_rejection_rate: Figure


@dataclass(frozen=True)
class KnownRows(Rates):
    """The same, and verification of their pairs."""

    seen_seen: Pairs


@dataclass(frozen=True)
class KnownClass(Rates):
    """The same of one class, and the share of its validation volumes that is called unknown; None if not known."""

    valid_false_rejection_rate: float | None


@dataclass(frozen=True)
class Known(BySnr[KnownRows]):
    """What the known classes say alone; of each class without pairs."""

    per_class: dict[str, KnownClass]


@dataclass(frozen=True)
class KnownAgainstUnseen:
    """How well a score tells known rows from unseen ones. Of no rows of a kind there are no figures, but a `reason`."""

    n_known: int
    n_unseen: int
    auroc: Figure = NO_FIGURE
    aupr: Figure = NO_FIGURE
    fpr95: Figure = NO_FIGURE
    oscr: Figure = NO_FIGURE
    reason: str = ""


@dataclass(frozen=True)
class Score(BySnr[KnownAgainstUnseen]):
    """One score; of each unseen class all known rows are the others."""

    per_class: dict[str, KnownAgainstUnseen]


@dataclass(frozen=True)
class Called:
    """The shares of known and of unseen rows, 0 to 1, that the threshold calls unknown; no figure of no rows."""

    false_rejection_rate: Figure
    unknown_detection_rate: Figure


@dataclass(frozen=True)
class UnseenClass:
    """One unseen class.

    most_like: the known class of the nearest mean direction.
    taken_for: the known class that most of the rows that are called known are nearest to, None where none is;
        taken_for_rate: the share of all rows of the class that it has, 0 to 1.
    unknown_detection_rate: the share that is called unknown.
    """

    most_like: str
    taken_for: str | None
    taken_for_rate: float
    unknown_detection_rate: Figure


@dataclass(frozen=True)
class Rejection(BySnr[Called]):
    """Known or unknown: by the score and threshold of the checkpoint, and how well each score ranks.

    scores: by name; default_score: the checkpoint's, which `threshold` is of.
    closed_set_accuracy: share of known rows whose nearest prototype is right, 0 to 1.
    wished_false_rejection_rate: that the threshold was fitted at, on n_calibration validation volumes.
    """

    scores: dict[str, Score]
    default_score: str
    closed_set_accuracy: float
    threshold: float
    wished_false_rejection_rate: float
    n_calibration: int
    per_class: dict[str, UnseenClass]

    @property
    def default(self) -> Score:
        """How well the checkpoint's score ranks."""
        return self.scores[self.default_score]


def pairs_of(rows: Embedded, plan: PairPlan, resampling: Resampling, sides: np.ndarray | None = None) -> Pairs:
    """Verification of some rows, as `pairs_at_scale` does it."""
    return pairs_at_scale(rows.embeddings, rows.classes, rows.particles, plan, resampling, sides)


def valid_rates(calibration: rejection.Calibration, classes: list[str]) -> dict[str, float]:
    """Share of each known class's validation volumes that the threshold calls unknown, where that is known."""
    rates = calibration.class_false_rejection
    named = {} if rates is None else dict(zip(classes, map(float, rates), strict=True))
    return {name: rate for name, rate in named.items() if np.isfinite(rate)}


def known_only(
    known: Embedded, correct: np.ndarray, rejected: np.ndarray, valid_rates: dict[str, float], resampling: Resampling
) -> Known:
    """What the known classes say alone: accuracy by nearest prototype, how often they are called unknown, and seen-seen
    pairs; overall, per SNR and (without pairs) per class.

    Args:
        correct, rejected: (N,) bool, whether a row's nearest prototype is its class's, and whether it is called
            unknown.
        valid_rates: share of each class's validation volumes that is called unknown; a class may be missing.
    """

    def rates(chosen: np.ndarray) -> tuple[int, int, Figure, Figure]:
        particles = known.particles[chosen]
        shares = [mean_figure(values[chosen], particles, resampling) for values in (correct, rejected)]
        return len(particles), len(np.unique(particles)), *shares

    def figures(chosen: np.ndarray) -> KnownRows:
        return KnownRows(*rates(chosen), pairs_of(known.keep(chosen), SCALE, resampling))

    return Known(
        figures(np.full(len(known), True)),
        {level: figures(known.snr == level) for level in known.levels()},
        {
            str(name): KnownClass(*rates(known.classes == name), valid_rates.get(str(name)))
            for name in np.unique(known.classes)
        },
    )


def reject(
    known: Scored,
    unseen: Scored,
    correct: np.ndarray,
    calibration: rejection.Calibration,
    names: list[str],
    resampling: Resampling,
) -> Rejection:
    """Known against unseen by every score, overall, per SNR and per unseen class; and the default at its threshold.

    Args:
        correct: (N_known,) bool, whether the nearest prototype of a known row is its class's.
        calibration: of the checkpoint; names: of its classes.
    """
    name, threshold = calibration.score, calibration.threshold
    everywhere = np.full(len(known.rows), True), np.full(len(unseen.rows), True)
    levels = {level: (known.rows.snr == level, unseen.rows.snr == level) for level in unseen.rows.levels()}
    of_unseen = unseen.rows.classes
    classes = {str(label): (everywhere[0], of_unseen == label) for label in np.unique(of_unseen)}

    def figures(score: str, in_known: np.ndarray, in_unseen: np.ndarray) -> KnownAgainstUnseen:
        a, b = known.scores[score][in_known], unseen.scores[score][in_unseen]
        if not len(a) or not len(b):
            return KnownAgainstUnseen(len(a), len(b), reason=f"{len(a)} known and {len(b)} unseen rows")
        particles = known.rows.particles[in_known], unseen.rows.particles[in_unseen]
        return KnownAgainstUnseen(
            len(a), len(b), **with_intervals(rank(a, b, correct[in_known]), particles, resampling)
        )

    def of_score(score: str) -> Score:
        return Score(
            overall=figures(score, *everywhere),
            per_snr={level: figures(score, *rows) for level, rows in levels.items()},
            per_class={label: figures(score, *rows) for label, rows in classes.items()},
        )

    def rate(side: Scored, chosen: np.ndarray) -> Figure:
        return mean_figure(side.scores[name][chosen] < threshold, side.rows.particles[chosen], resampling)

    def called(in_known: np.ndarray, in_unseen: np.ndarray) -> Called:
        return Called(rate(known, in_known), rate(unseen, in_unseen))

    def of_class(label: str) -> UnseenClass:
        chosen = of_unseen == label
        rows, accepted = unseen.rows.keep(chosen), unseen.scores[name][chosen] >= threshold
        nearest = rejection.classify(rows.embeddings, calibration.prototypes)[0]
        counts = np.bincount(nearest[accepted], minlength=len(names))
        most = int(counts.argmax())
        return UnseenClass(
            most_like=_most_like(known.rows, rows),
            taken_for=names[most] if counts[most] else None,
            taken_for_rate=float(counts[most] / len(rows)),
            unknown_detection_rate=rate(unseen, chosen),
        )

    return Rejection(
        overall=called(*everywhere),
        per_snr={level: called(*rows) for level, rows in levels.items()},
        scores={score: of_score(score) for score in known.scores},
        default_score=name,
        closed_set_accuracy=float(correct.mean()),
        threshold=threshold,
        wished_false_rejection_rate=calibration.false_rejection_rate,
        n_calibration=calibration.n,
        per_class={label: of_class(label) for label in classes},
    )


def _most_like(known: Embedded, unseen_class: Embedded) -> str:
    """The known class whose mean direction is nearest to that of this unseen class."""
    names, means = class_means(known)
    return names[int(np.argmax(means @ unseen_class.embeddings.mean(axis=0)))]
