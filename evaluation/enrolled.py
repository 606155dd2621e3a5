"""Classes beside the known ones, from examples alone: prototype, reference embeddings, and a threshold of each.

A class's threshold comes from its own spread, each example scored against the others with its particle left out, and
from a cohort of other shapes. It lies halfway between what the stated share of the cohort would reach and what the
stated share of its own would miss; where these overlap, the cohort decides, and it is told how many are missed.
"""

from dataclasses import dataclass, replace

import numpy as np

from evaluation.junk import JunkCalibration
from evaluation.rejection import (
    LESS_COHORT,
    NEIGHBOUR_SHARE,
    NEIGHBOURS,
    Calibration,
    class_neighbours,
    class_scores,
    classify,
    fit_gaussian,
    fit_threshold,
    prototypes,
    unit,
)

FALSE_ACCEPTANCE_RATE = 0.1  # share of the cohort that may be accepted


@dataclass(frozen=True)
class NewClass:
    """Examples of a class to be enrolled, embedded.

    name: of the class; source: what the examples are, in words.
    embeddings: (n, E); particles: (n,) names or numbers; copies of one particle share one, and are left out together.
    cohort: (m, E) of other shapes, m = 0 for none; cohort_source: which these are, in words.
    """

    name: str
    source: str
    embeddings: np.ndarray
    particles: np.ndarray
    cohort: np.ndarray
    cohort_source: str = ""


@dataclass(frozen=True)
class EnrolledClass:
    """How sure an enrolled class is. What cannot be said is None.

    n: examples; threshold: of its score.
    accuracy: share of its examples that would be named right among all classes, each with its particle left out.
    refused: share of them that the threshold would call unknown, likewise.
    rival: the other class of the nearest prototype, and the cosine of both prototypes.
    cohort: what other shapes it was compared with, and how many volumes of them; false_acceptance: the share of these
        that reaches the threshold.
    junk: share of its examples that are called junk.
    """

    name: str
    source: str
    n: int
    threshold: float
    accuracy: float | None
    refused: float | None
    rival: str | None
    rival_cosine: float | None
    cohort: str
    cohort_n: int
    false_acceptance: float | None
    junk: float | None = None


@dataclass(frozen=True)
class Enlarged:
    """Known and enrolled classes as one.

    classes, calibration: as a checkpoint has them; enrolled: the new ones, which come last.
    known_before, known_after: share of the known classes' reference embeddings that are named right without and with
        the enrolled ones; None where there are none.
    """

    classes: list[str]
    calibration: Calibration
    enrolled: list[EnrolledClass]
    known_before: float | None = None
    known_after: float | None = None


def enrol(
    calibration: Calibration,
    classes: list[str],
    new: list[NewClass],
    keep_known: bool = True,
    false_acceptance_rate: float = FALSE_ACCEPTANCE_RATE,
) -> Enlarged:
    """Add classes to those of a calibration, or put them in their place.

    Raises ValueError for a class of one particle that has no cohort: nothing says where its threshold lies.
    """
    known = calibration if keep_known else None
    names = (list(classes) if keep_known else []) + [one.name for one in new]
    joined = _joined(calibration, new, known)
    first = len(names) - len(new)
    own = [_own_scores(one, joined) for one in new]
    cohorts = [class_scores(one.cohort, joined)[:, first + number] for number, one in enumerate(new)]
    pairs = zip(own, cohorts, strict=True)
    thresholds = np.array([threshold_between(*pair, false_acceptance_rate) for pair in pairs])
    refused = [None if one is None else float(np.mean(one < low)) for one, low in zip(own, thresholds, strict=True)]
    enrolled = [
        EnrolledClass(
            name=one.name,
            source=one.source,
            n=len(one.embeddings),
            threshold=float(thresholds[number]),
            accuracy=_own_accuracy(one, np.delete(joined.prototypes, first + number, axis=0)),
            refused=refused[number],
            **_rival(joined.prototypes, first + number, names),
            cohort=one.cohort_source,
            cohort_n=len(one.cohort),
            false_acceptance=float(np.mean(cohorts[number] >= thresholds[number])) if len(one.cohort) else None,
        )
        for number, one in enumerate(new)
    ]
    return Enlarged(
        names,
        _with_thresholds(joined, known, thresholds, refused),
        enrolled,
        *(_known_accuracy(one, known) for one in (calibration.prototypes, joined.prototypes)),
    )


def spread(embeddings: np.ndarray, particles: np.ndarray) -> np.ndarray:
    """The k-nearest-neighbour score of each example of a class against the others, its particle left out: (n,).

    k is a tenth of the others, as `class_neighbours` has it; -inf for one that is alone.
    """
    cosines = unit(embeddings) @ unit(embeddings).T
    same = particles[:, None] == particles
    others = (~same).sum(axis=1)
    ordered = -np.sort(-np.where(same, -np.inf, cosines), axis=1)
    k = np.ceil(NEIGHBOUR_SHARE * others - 1e-9).astype(int)
    return ordered[np.arange(len(ordered)), np.maximum(k, 1) - 1]


def left_out_means(embeddings: np.ndarray, particles: np.ndarray) -> np.ndarray:
    """For each example the mean of the others' unit embeddings, its particle left out: (n, E), not normalised."""
    embeddings = unit(embeddings)
    numbers = np.unique(particles, return_inverse=True)[1]
    sums = np.zeros((numbers.max() + 1, embeddings.shape[1]))
    np.add.at(sums, numbers, embeddings)
    counts = len(embeddings) - np.bincount(numbers)
    return (embeddings.sum(axis=0) - sums[numbers]) / counts[numbers, None]


def threshold_between(
    own: np.ndarray | None, others: np.ndarray, false_acceptance_rate: float, false_rejection_rate: float = 0.05
) -> float:
    """A threshold from own scores (n,), None where there are none, and those of other shapes (m,), m = 0 for none.

    It holds the false-acceptance rate. Raises ValueError where there are neither own scores nor others.
    """
    least = None
    if len(others):
        falling = -np.sort(-others)
        least = float(np.nextafter(falling[int(false_acceptance_rate * len(others) + 1e-9)], np.inf))
    if own is None:
        if least is None:
            raise ValueError("one particle, and no other shapes to compare it with")
        return least
    most = fit_threshold(own, false_rejection_rate)
    return most if least is None else max(least, (least + most) / 2)


def with_prototypes(junk: JunkCalibration | None, found: Enlarged, new: list[NewClass]) -> tuple:
    """A junk calibration that knows the enrolled classes as particles, and the enrolled classes with their `junk`."""
    if junk is None:
        return None, found
    particles = np.concatenate([junk.particles, found.calibration.prototypes[-len(new) :]])
    wider = replace(junk, particles=particles)
    enrolled = [
        replace(one, junk=float(wider.is_junk(given.embeddings).mean()))
        for one, given in zip(found.enrolled, new, strict=True)
    ]
    return wider, replace(found, enrolled=enrolled)


def _joined(calibration: Calibration, new: list[NewClass], known: Calibration | None) -> Calibration:
    """The known classes and the new ones, with what every score compares with."""
    labels = np.repeat(np.arange(len(new)), [len(one.embeddings) for one in new])
    embeddings = unit(np.concatenate([one.embeddings for one in new])).astype(np.float32)
    directions = prototypes(embeddings, labels, len(new))
    neighbours = class_neighbours(labels)
    if known is not None:
        first = len(known.prototypes)
        directions = np.concatenate([known.prototypes, directions])
        if known.reference is not None:
            old = known.neighbours
            if old is None:  # of a checkpoint of before: k among the rows of all classes
                old = np.minimum(NEIGHBOURS, np.bincount(known.reference_labels, minlength=first))
            embeddings = np.concatenate([known.reference, embeddings])
            labels = np.concatenate([known.reference_labels, first + labels])
            neighbours = np.concatenate([old, neighbours])
        else:
            embeddings = labels = neighbours = None
    count = len(new) + (known.enrolled if known is not None else 0)
    return replace(
        calibration,
        prototypes=directions,
        reference=embeddings,
        reference_labels=labels,
        neighbours=neighbours,
        enrolled=count,
    )


def _own_scores(one: NewClass, joined: Calibration) -> np.ndarray | None:
    """The score of each example against the others, its particle left out; None for a class of one particle."""
    if len(np.unique(one.particles)) < 2:
        return None
    if joined.score in ("knn_cosine", LESS_COHORT):
        return spread(one.embeddings, one.particles)
    means = left_out_means(one.embeddings, one.particles)
    if joined.score == "max_cosine":
        return np.einsum("ne,ne->n", unit(one.embeddings), unit(means))
    gaussian = fit_gaussian(unit(joined.reference), joined.reference_labels, len(joined.prototypes))
    offset = unit(one.embeddings) - means
    return -np.einsum("ne,ne->n", offset @ gaussian.precision, offset)


def _own_accuracy(one: NewClass, rivals: np.ndarray) -> float | None:
    """The share of a class's examples that are nearer to the mean of the others than to any of the rivals (R, E)."""
    if len(np.unique(one.particles)) < 2 or not len(rivals):
        return None
    own = np.einsum("ne,ne->n", unit(one.embeddings), unit(left_out_means(one.embeddings, one.particles)))
    return float(np.mean(own > classify(one.embeddings, rivals)[1]))


def _rival(directions: np.ndarray, number: int, names: list[str]) -> dict:
    cosines = unit(directions) @ unit(directions[number : number + 1])[0]
    cosines[number] = -np.inf
    nearest = int(np.argmax(cosines))
    if nearest == number:
        return {"rival": None, "rival_cosine": None}
    return {"rival": names[nearest], "rival_cosine": float(cosines[nearest])}


def _known_accuracy(directions: np.ndarray, known: Calibration | None) -> float | None:
    if known is None or known.reference is None:
        return None
    return float(np.mean(classify(known.reference, directions)[0] == known.reference_labels))


def _with_thresholds(
    joined: Calibration, known: Calibration | None, thresholds: np.ndarray, refused: list[float | None]
) -> Calibration:
    """The threshold of each class, and its refused share where it can be said."""
    rates = np.array([np.nan if rate is None else rate for rate in refused])
    if known is None:
        return replace(
            joined, threshold=float(np.median(thresholds)), class_thresholds=thresholds, class_false_rejection=rates
        )
    before = len(joined.prototypes) - len(thresholds)
    old = known.class_thresholds
    old = np.full(before, known.threshold) if old is None else old
    old_rates = known.class_false_rejection
    old_rates = np.full(before, np.nan) if old_rates is None else old_rates
    return replace(
        joined,
        class_thresholds=np.concatenate([old, thresholds]),
        class_false_rejection=np.concatenate([old_rates, rates]),
    )
