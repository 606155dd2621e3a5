"""Known or unknown: scores of a particle against the known classes, and how well a score tells the two apart.

Higher is more known, for every score. Thresholds are inclusive: a particle is accepted as known when its score is at
least the threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from evaluation.ranking import checked

DEFAULT_SCORE = "knn_cosine"  # chosen by benchmarks/select_score.py
FALSE_REJECTION_RATE = 0.05
LESS_COHORT = "knn_less_cohort"  # knn_cosine less the same score of shapes that are none of the classes
CALIBRATED = {  # scores that a checkpoint can name, and what of its calibration they compare with
    "max_cosine": ("prototypes",),
    "knn_cosine": ("reference",),
    "mahalanobis": ("reference", "reference_labels"),
    LESS_COHORT: ("reference", "reference_labels", "neighbours", "cohort", "cohort_labels"),
}
NEIGHBOUR_SHARE = 0.1  # of a class's reference rows: those at least as near as the k-th
NEIGHBOURS = 10  # k of the checkpoints that state none, over the rows of all classes
CHUNK = 1024  # rows compared with reference rows at once
MOSTLY = 0.5  # share of its validation volumes above which a known class is said to be mostly refused


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings (N, E) with length 1; one of length 0, of a network that answers nothing, stays as it is.

    Raises ValueError for one that is not finite.
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise ValueError("an embedding is not finite")
    return embeddings / np.where(lengths == 0, 1, lengths)


def prototypes(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The mean direction of each class: embeddings (N, E), labels (N,) in 0 .. num_classes - 1 -> (C, E), length 1.

    Raises ValueError for a class without a row.
    """
    counts = np.bincount(labels, minlength=num_classes)
    if len(counts) > num_classes or (counts == 0).any():
        raise ValueError(
            f"prototypes: rows per class are {counts.tolist()}; expected {num_classes} classes, none empty"
        )
    sums = np.zeros((num_classes, embeddings.shape[1]))
    np.add.at(sums, labels, unit(embeddings))
    return unit(sums).astype(np.float32)


def classify(embeddings: np.ndarray, class_prototypes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest class (N,) by cosine to the prototypes (C, E), and that cosine (N,)."""
    cosines = unit(embeddings) @ unit(class_prototypes).T  # (N, E) -> (N, C)
    return cosines.argmax(axis=1), cosines.max(axis=1)


def knn_cosine(embeddings: np.ndarray, reference: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """The cosine to the k-th nearest reference embedding (Sun et al. 2022, arXiv 2204.06507), (N,)."""
    if not 1 <= neighbours <= len(reference):
        raise ValueError(f"k-nearest neighbour: k = {neighbours} with {len(reference)} reference rows")
    embeddings, reference = unit(embeddings), unit(reference)
    scores = np.empty(len(embeddings))
    for start in range(0, len(embeddings), CHUNK):
        cosines = embeddings[start : start + CHUNK] @ reference.T  # (chunk, E) -> (chunk, N_reference)
        scores[start : start + CHUNK] = np.partition(cosines, -neighbours, axis=1)[:, -neighbours]
    return scores


def class_neighbours(labels: np.ndarray) -> np.ndarray:
    """The k of each class for `class_knn_cosine`, a tenth of its rows, rounded up: labels (N,) -> (C,) int64.

    In proportion to the class's rows, the score has one meaning for large and for small classes, and does not change
    where every row is there twice, as copies of a particle at several SNR nearly are. A fixed k lets a class of fewer
    rows be near to nothing.
    """
    counts = np.bincount(labels)
    return np.ceil(NEIGHBOUR_SHARE * counts - 1e-9).astype(np.int64)


def class_knn_cosine(
    embeddings: np.ndarray, reference: np.ndarray, labels: np.ndarray, neighbours: np.ndarray
) -> np.ndarray:
    """The cosine to the k-th nearest reference embedding of a class, of the class where it is highest, (N,).

    Args:
        embeddings: (N, E).
        reference, labels: (M, E) and (M,), in 0 .. C - 1.
        neighbours: (C,), the k of each class; a class of 0 has no row.
    """
    return class_knn_cosines(embeddings, reference, labels, neighbours).max(axis=1)


def class_knn_cosines(
    embeddings: np.ndarray, reference: np.ndarray, labels: np.ndarray, neighbours: np.ndarray
) -> np.ndarray:
    """The same of every class, (N, C); -inf for a class without a row."""
    embeddings = unit(embeddings)
    scores = np.full((len(embeddings), len(neighbours)), -np.inf)
    for label in np.flatnonzero(neighbours):
        scores[:, label] = knn_cosine(embeddings, reference[labels == label], int(neighbours[label]))
    return scores


@dataclass(frozen=True)
class SharedGaussian:
    """Class means (C, E) and the precision (E, E) of the covariance that all classes share."""

    means: np.ndarray
    precision: np.ndarray


def fit_gaussian(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> SharedGaussian:
    """Class means and the pooled within-class covariance, shrunk by the rule of Ledoit and Wolf to be invertible."""
    from sklearn.covariance import ledoit_wolf  # here, as it takes a second that most scripts need not spend

    counts = np.bincount(labels, minlength=num_classes)
    if len(counts) > num_classes or (counts == 0).any():
        raise ValueError(
            f"Mahalanobis: rows per class are {counts.tolist()}; expected {num_classes} classes, none empty"
        )
    means = np.zeros((num_classes, embeddings.shape[1]))
    np.add.at(means, labels, embeddings)
    means /= counts[:, None]
    covariance, _ = ledoit_wolf(embeddings - means[labels], assume_centered=True)
    return SharedGaussian(means, np.linalg.pinv(covariance, hermitian=True))


def mahalanobis(embeddings: np.ndarray, gaussian: SharedGaussian) -> np.ndarray:
    """Minus the squared Mahalanobis distance to the nearest class mean (Lee et al. 2018, arXiv 1807.03888), (N,)."""
    return class_mahalanobis(embeddings, gaussian).max(axis=1)


def class_mahalanobis(embeddings: np.ndarray, gaussian: SharedGaussian) -> np.ndarray:
    """Minus the squared Mahalanobis distance to each class mean, (N, C)."""
    distances = []
    for mean in gaussian.means:
        offset = embeddings - mean
        distances.append(np.einsum("ne,ne->n", offset @ gaussian.precision, offset))  # (N, E) -> (N,)
    return -np.stack(distances, axis=1)


def head_logits(embeddings: np.ndarray, weights: Mapping[str, Any], known: int) -> np.ndarray | None:
    """The logits of the known classes, the first of a loss's affine softmax head, (N, E) -> (N, C); None without both.

    Args:
        weights: of the loss, by name, tensors; those of auxiliary classes, that only training had, come after.
    """
    if "head.weight" not in weights or not known:
        return None
    weight, bias = (weights[f"head.{key}"][:known].numpy() for key in ("weight", "bias"))
    return embeddings @ weight.T + bias


def max_logit(logits: np.ndarray) -> np.ndarray:
    """The largest logit of the softmax head, (N, C) -> (N,)."""
    return np.max(logits, axis=1)


def energy(logits: np.ndarray) -> np.ndarray:
    """Minus the free energy, log sum exp of the logits (Liu et al. 2020, arXiv 2010.03759), (N, C) -> (N,)."""
    highest = logits.max(axis=1)
    return highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))


@dataclass(frozen=True)
class Calibration:
    """The score that tells known from unknown, its threshold, and what it compares with; a checkpoint keeps it, as a
    dictionary. What checkpoints of before lack is None.

    score: a name in CALIBRATED.
    threshold: a particle of a lower score is unknown.
    false_rejection_rate: share of the validation volumes, at most, that the threshold was to call unknown.
    n: validation volumes that it was fitted on.
    prototypes: (C, E) float32, the mean direction of each known class in training.
    reference: (M, E) float32, training embeddings of known classes, length 1.
    reference_labels: (M,) int64, their classes.
    neighbours: (C,) int64, k of the k-nearest-neighbour score in each class; None: NEIGHBOURS among all rows.
    class_false_rejection: (C,) float64, share of each class's validation volumes that the threshold calls unknown.
    class_thresholds: (C,) float64, a threshold of each class, where classes were enrolled; None: the one of all.
    cohort: (M, E) float32, embeddings of shapes that are none of the classes, length 1; cohort_labels: (M,) int64.
    enrolled: how many classes, the last ones, were enrolled; a cohort is not taken from these, whose thresholds are
        found between their own examples and shapes of their own size.
    """

    score: str
    threshold: float
    false_rejection_rate: float
    n: int
    prototypes: np.ndarray
    reference: np.ndarray | None = None
    reference_labels: np.ndarray | None = None
    neighbours: np.ndarray | None = None
    class_false_rejection: np.ndarray | None = None
    class_thresholds: np.ndarray | None = None
    cohort: np.ndarray | None = None
    cohort_labels: np.ndarray | None = None
    enrolled: int = 0

    def __post_init__(self):
        if self.score not in CALIBRATED:
            raise ValueError(f"score {self.score!r} of the calibration: expected one of {', '.join(CALIBRATED)}")
        missing = [name for name in CALIBRATED[self.score] if getattr(self, name) is None]
        if missing:
            raise ValueError(
                f"score {self.score!r}: the calibration has no {', '.join(missing)}, which it compares with"
            )

    @classmethod
    def read(cls, content: dict[str, Any]) -> "Calibration":
        """From a checkpoint's dictionary, of numbers and tensors. Raises ValueError where something is missing."""
        required = [field.name for field in fields(cls)[:5] if field.name not in content]
        if required:
            raise ValueError(f"the calibration has no {', '.join(required)}")
        known = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        return cls(**{name: value.numpy() if hasattr(value, "numpy") else value for name, value in known.items()})

    def content(self) -> dict[str, Any]:
        """For a checkpoint: plain types and tensors alone, and nothing that is None."""
        import torch

        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in values.items()
            if value is not None
        }


def calibrate(
    training: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    false_rejection_rate: float = FALSE_REJECTION_RATE,
    score: str = DEFAULT_SCORE,
    cohort: tuple[np.ndarray, np.ndarray] | None = None,
) -> Calibration:
    """A score compared with training embeddings of known classes, its threshold fitted on validation ones.

    Args:
        training, validation: embeddings (N, E) and labels (N,) in 0 .. num_classes - 1.
        cohort: embeddings and labels of shapes that are none of the classes, for a score that takes them.
    """
    embeddings, labels = unit(training[0]), training[1]
    others = {} if cohort is None else {"cohort": unit(cohort[0]), "cohort_labels": cohort[1]}
    found = Calibration(
        score=score,
        threshold=-np.inf,
        false_rejection_rate=false_rejection_rate,
        n=len(validation[1]),
        prototypes=prototypes(embeddings, labels, num_classes),
        reference=embeddings,
        reference_labels=labels,
        neighbours=class_neighbours(labels),
        **others,
    )
    scores = calibrated_score(validation[0], found)
    threshold = fit_threshold(scores, false_rejection_rate)
    of_class = class_rates(scores < threshold, validation[1], num_classes)
    return replace(found, threshold=threshold, class_false_rejection=of_class)


def class_rates(rejected: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The share of each class's rows that is rejected: (N,) bool and labels (N,) -> (C,); NaN for a class of no row."""
    counts = np.bincount(labels, minlength=num_classes)
    found = np.bincount(labels, weights=rejected, minlength=num_classes)
    return np.divide(found, counts, out=np.full(num_classes, np.nan), where=counts > 0)


def all_scores(embeddings: np.ndarray, calibration: Calibration, logits: np.ndarray | None) -> dict[str, np.ndarray]:
    """Every score by name, each (N,), all of them compared with the same training embeddings, those of a calibration.

    The two that need the softmax head are left out when `logits` (N, C) is None.
    """
    plain = replace(calibration, class_thresholds=None)  # of other scores they would mean nothing
    there = [name for name, needs in CALIBRATED.items() if all(getattr(plain, need) is not None for need in needs)]
    scores = {name: calibrated_score(embeddings, replace(plain, score=name)) for name in there}
    scores[calibration.score] = calibrated_score(embeddings, calibration)
    if logits is not None:
        scores |= {"max_logit": max_logit(logits), "energy": energy(logits)}
    return scores


def calibrated_score(embeddings: np.ndarray, calibration: Calibration) -> np.ndarray:
    """The score that a checkpoint's calibration names, of embeddings (N, E): (N,).

    Where classes have thresholds of their own it is the score of the class of the nearest prototype, moved so that the
    calibration's one threshold holds.
    """
    if calibration.class_thresholds is not None:
        named = classify(embeddings, calibration.prototypes)[0]
        own = class_scores(embeddings, calibration)[np.arange(len(embeddings)), named]
        return own - calibration.class_thresholds[named] + calibration.threshold
    if calibration.score == "knn_cosine" and calibration.neighbours is None:
        return knn_cosine(embeddings, calibration.reference, min(NEIGHBOURS, len(calibration.reference)))
    return class_scores(embeddings, calibration).max(axis=1)


def class_scores(embeddings: np.ndarray, calibration: Calibration) -> np.ndarray:
    """The score that a calibration names with regard to each class, (N, E) -> (N, C)."""
    reference, labels = calibration.reference, calibration.reference_labels
    if calibration.score == "max_cosine":
        return unit(embeddings) @ unit(calibration.prototypes).T
    if calibration.score == "mahalanobis":
        return class_mahalanobis(unit(embeddings), fit_gaussian(unit(reference), labels, int(labels.max()) + 1))
    scores = class_knn_cosines(embeddings, reference, labels, calibration.neighbours)
    first = len(calibration.neighbours) - calibration.enrolled
    if calibration.score == LESS_COHORT and first:
        scores[:, :first] -= cohort_score(embeddings, calibration)[:, None]
    return scores


def cohort_score(embeddings: np.ndarray, calibration: Calibration) -> np.ndarray:
    """How near embeddings (N, E) are to a calibration's cohort, as `class_knn_cosine` to the nearest of its shapes."""
    labels = calibration.cohort_labels
    return class_knn_cosine(embeddings, calibration.cohort, labels, class_neighbours(labels))


def fit_threshold(known_scores: np.ndarray, false_rejection_rate: float = FALSE_REJECTION_RATE) -> float:
    """The highest threshold that rejects at most this share of the known scores (N,)."""
    if not 0 <= false_rejection_rate < 1:
        raise ValueError(f"false-rejection rate {false_rejection_rate}; expected 0 <= rate < 1")
    known_scores = checked(known_scores, "known")
    rejected = int(false_rejection_rate * len(known_scores) + 1e-9)
    return float(np.sort(known_scores)[rejected])
