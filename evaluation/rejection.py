"""Known or unknown: scores of a particle against the known classes, and how well a score tells the two apart.

Higher is more known, for every score. Thresholds are inclusive: a particle is accepted as known when its score is at
least the threshold.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf

DEFAULT_SCORE = "knn_cosine"  # chosen by benchmarks/select_score.py
FALSE_REJECTION_RATE = 0.05
CALIBRATED = {  # scores that a checkpoint can name, and what of its calibration they compare with
    "max_cosine": ("prototypes",),
    "knn_cosine": ("reference",),
    "mahalanobis": ("reference", "reference_labels"),
}
NEIGHBOURS = 10  # the k of the k-nearest-neighbour score
CHUNK = 1024  # rows compared with all reference rows at once


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


@dataclass(frozen=True)
class SharedGaussian:
    """Class means (C, E) and the precision (E, E) of the covariance that all classes share."""

    means: np.ndarray
    precision: np.ndarray


def fit_gaussian(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> SharedGaussian:
    """Class means and the pooled within-class covariance, shrunk by the rule of Ledoit and Wolf to be invertible."""
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
    distances = []
    for mean in gaussian.means:
        offset = embeddings - mean
        distances.append(np.einsum("ne,ne->n", offset @ gaussian.precision, offset))  # (N, E) -> (N,)
    return -np.min(distances, axis=0)


def max_logit(logits: np.ndarray) -> np.ndarray:
    """The largest logit of the softmax head, (N, C) -> (N,)."""
    return np.max(logits, axis=1)


def energy(logits: np.ndarray) -> np.ndarray:
    """Minus the free energy, log sum exp of the logits (Liu et al. 2020, arXiv 2010.03759), (N, C) -> (N,)."""
    return logsumexp(logits, axis=1)


def calibrate(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """What the scores compare with, from training embeddings (N, E) and labels (N,) of known classes."""
    embeddings = unit(embeddings)
    compared = {"reference": embeddings, "reference_labels": labels}
    return {"prototypes": prototypes(embeddings, labels, num_classes), **compared}


def all_scores(embeddings: np.ndarray, calibration: dict, logits: np.ndarray | None) -> dict[str, np.ndarray]:
    """Every score by name, each (N,), all of them compared with the same training embeddings, those of a calibration.

    The two that need the softmax head are left out when `logits` (N, C) is None.
    """
    scores = {name: calibrated_score(embeddings, {**calibration, "score": name}) for name in CALIBRATED}
    if logits is not None:
        scores |= {"max_logit": max_logit(logits), "energy": energy(logits)}
    return scores


def calibrated_score(embeddings: np.ndarray, calibration: dict) -> np.ndarray:
    """The score that a checkpoint's calibration names, of embeddings (N, E): (N,).

    Args:
        calibration: `score`, and what that score compares with, arrays or tensors on the CPU: `prototypes` (C, E) for
            max_cosine; `reference` (M, E), training embeddings, for knn_cosine; these and their `reference_labels` (M,)
            for mahalanobis.

    Raises ValueError for another score, or where what it compares with is missing.
    """
    name = calibration["score"]
    if name not in CALIBRATED:
        raise ValueError(f"score {name!r} of the calibration: expected one of {', '.join(CALIBRATED)}")
    missing = [key for key in CALIBRATED[name] if key not in calibration]
    if missing:
        raise ValueError(f"score {name!r}: the calibration has no {', '.join(missing)}, which it compares with")
    compared = [np.asarray(calibration[key]) for key in CALIBRATED[name]]
    if name == "max_cosine":
        return classify(embeddings, *compared)[1]
    if name == "knn_cosine":
        return knn_cosine(embeddings, *compared, min(NEIGHBOURS, len(compared[0])))
    reference, labels = compared
    return mahalanobis(unit(embeddings), fit_gaussian(unit(reference), labels, int(labels.max()) + 1))


def fit_threshold(known_scores: np.ndarray, false_rejection_rate: float = FALSE_REJECTION_RATE) -> float:
    """The highest threshold that rejects at most this share of the known scores (N,)."""
    if not 0 <= false_rejection_rate < 1:
        raise ValueError(f"false-rejection rate {false_rejection_rate}; expected 0 <= rate < 1")
    known_scores = _checked(known_scores, "known")
    rejected = int(false_rejection_rate * len(known_scores) + 1e-9)
    return float(np.sort(known_scores)[rejected])


def _checked(scores: np.ndarray, name: str) -> np.ndarray:
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
    known, unknown = _checked(known, "known"), _checked(unknown, "unknown")
    scores = np.concatenate([known, unknown])
    order = np.argsort(-scores, kind="stable")
    right = np.zeros(len(scores), dtype=bool)
    right[: len(known)] = True if correct is None else correct
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    return Ranking(order, order < len(known), right[order], last)


def measures(ranking: Ranking, weights: np.ndarray | None = None) -> dict[str, float]:
    """auroc, aupr, fpr95 and oscr of ranked rows, each row counted `weights` (N,) times."""
    known, right, unknown = ranking.counts(weights)
    accepted_known, accepted_unknown = np.append(0, known / known[-1]), np.append(0, unknown / unknown[-1])
    accepted = known + unknown
    precision = np.divide(known, accepted, out=np.ones_like(known), where=accepted > 0)
    enough = known >= known[-1] - int(0.05 * known[-1] + 1e-9)
    return {
        "auroc": float(np.trapezoid(accepted_known, accepted_unknown)),
        "aupr": float(np.sum(np.diff(accepted_known) * precision)),
        "fpr95": float(accepted_unknown[1:][enough][0]),
        "oscr": float(np.trapezoid(np.append(0, right / known[-1]), accepted_unknown)),
    }


def roc(known: np.ndarray, unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve from (0, 0) to (1, 1): share of unknowns accepted, share of knowns accepted."""
    accepted_known, _, accepted_unknown = rank(known, unknown).counts()
    return np.append(0, accepted_unknown / len(unknown)), np.append(0, accepted_known / len(known))


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """The chance that a known scores above an unknown; a tie counts one half."""
    return measures(rank(known, unknown))["auroc"]


def aupr(known: np.ndarray, unknown: np.ndarray) -> float:
    """Average precision with the knowns as positives. Its floor is the share of knowns, n_known / n."""
    return measures(rank(known, unknown))["aupr"]


def fpr95(known: np.ndarray, unknown: np.ndarray) -> float:
    """The share of unknowns accepted where at least 95 % of knowns are."""
    return measures(rank(known, unknown))["fpr95"]


def oscr(known: np.ndarray, correct: np.ndarray, unknown: np.ndarray) -> float:
    """Area under the correct-classification rate of knowns against the false-positive rate of unknowns.

    Args:
        known, unknown: scores (N_known,), (N_unknown,).
        correct: (N_known,) bool, whether the class given to the known row is right.

    Returns:
        The trapezoid area from (0, 0), both rates at the same inclusive threshold; at most the closed-set accuracy.
    """
    return measures(rank(known, unknown, correct))["oscr"]
