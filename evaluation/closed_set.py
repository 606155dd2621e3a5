"""Closed set: a linear classifier on frozen embeddings, and the figures of any predictions on known classes."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.progress import progress
from evaluation.bootstrap import CONFIDENCE, Resampling, interval, particle_weights, rows_per_class
from evaluation.figures import Figure
from loader.columns import snr_order

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of scikit-learn, strongest first
MAX_STEPS = 1000  # of the solver at each of them
MOST_ROWS = 50_000  # training embeddings that the classifier is fitted to
MOST_PER_CLASS = 1000  # of one class, where these are fewer


@dataclass(frozen=True)
class Probe:
    """What a linear classifier says.

    predictions: (N_test,) class indices.
    regularisation: the C that was chosen.
    fitted, given: training embeddings that it was fitted to, and those there were.
    unfinished: the C at which the solver stopped before it converged; the best until then was taken.
    """

    predictions: np.ndarray
    regularisation: float
    fitted: int
    given: int
    unfinished: tuple[float, ...]


def linear_probe(
    train_emb: np.ndarray,
    train_labels: np.ndarray,
    valid_emb: np.ndarray,
    valid_labels: np.ndarray,
    test_emb: np.ndarray,
    seed: int,
) -> Probe:
    """Fit a linear classifier to convergence on the training embeddings and predict the test embeddings.

    The regularisation is the strongest of those with the best accuracy on the validation embeddings. Embeddings are
    centred and scaled by one number, both from the training set, so that their geometry stays. Each fit starts from
    the one before, of a stronger regularisation. Of each class at most MOST_PER_CLASS rows are fitted to, and fewer
    where the classes are so many that this would be more than MOST_ROWS.

    Args:
        train_emb, valid_emb, test_emb: (N, E) each.
        train_labels, valid_labels: (N,) class indices.
        seed: of the choice of rows.

    Raises:
        ValueError: fewer than two classes, an empty set, or non-finite embeddings.
    """
    for name, embeddings in (("training", train_emb), ("validation", valid_emb), ("test", test_emb)):
        if len(embeddings) == 0 or not np.isfinite(embeddings).all():
            raise ValueError(f"linear probe: the {name} embeddings are empty or not finite")
    classes = len(np.unique(train_labels))
    if classes < 2:
        raise ValueError("linear probe: the training set has fewer than two classes")
    rows = rows_per_class(train_labels, max(1, min(MOST_PER_CLASS, MOST_ROWS // classes)), seed)
    train = np.asarray(train_emb[rows], dtype=np.float64)
    center = train.mean(axis=0)
    scale = (train - center).std() or 1.0
    valid, test = ((np.asarray(embeddings, dtype=np.float64) - center) / scale for embeddings in (valid_emb, test_emb))
    train = (train - center) / scale

    best_accuracy, predictions, chosen = -1.0, None, None
    unfinished = []
    fits = _fits(train, np.asarray(train_labels)[rows])
    for regularisation, classifier, converged in progress(
        "fitting the classifier", fits, total=len(REGULARISATIONS), unit="fit"
    ):
        accuracy = np.mean(classifier.predict(valid) == valid_labels)
        if accuracy > best_accuracy:
            best_accuracy, predictions, chosen = accuracy, classifier.predict(test), regularisation
        if not converged:
            unfinished.append(regularisation)
    return Probe(predictions, chosen, len(rows), len(train_labels), tuple(unfinished))


def _fits(train: np.ndarray, labels: np.ndarray) -> Iterator[tuple[float, "LogisticRegression", bool]]:
    """For each regularisation the classifier, the same object all along, and whether the solver converged."""
    from sklearn.exceptions import ConvergenceWarning  # here: test.py --help does without scikit-learn
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(max_iter=MAX_STEPS, warm_start=True)
    for regularisation in REGULARISATIONS:
        classifier.set_params(C=regularisation)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            classifier.fit(train, labels)
        yield regularisation, classifier, not any(issubclass(one.category, ConvergenceWarning) for one in caught)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """How many rows of class i (row) were predicted as class j (column), (C, C).

    Raises ValueError for a label or prediction outside 0 .. num_classes - 1.
    """
    for name, values in (("label", labels), ("prediction", predictions)):
        if len(values) and (values.min() < 0 or values.max() >= num_classes):
            raise ValueError(f"a {name} is {values.min()} or {values.max()}; expected 0 to {num_classes - 1}")
    return np.bincount(labels * num_classes + predictions, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class OfLevel:
    """The accuracy on n rows of an SNR level, 0 to 1."""

    accuracy: Figure
    n: int


@dataclass(frozen=True)
class OfClass:
    """Precision, recall and F1 of a class, 0 to 1; support: its rows. Of a class without rows, or never predicted, what
    is not defined is None."""

    precision: Figure
    recall: Figure
    f1: Figure
    support: int


@dataclass(frozen=True)
class ClosedSet:
    """The figures of predictions on n rows, 0 to 1.

    mean_over_snrs: the mean accuracy of the SNR levels; macro_f1: the mean of the classes that have rows.
    floor: the accuracy of always naming the largest class.
    confusion_matrix: (C, C) counts, rows true; classes: the names of both.
    confidence, bootstrap, seed: of the intervals.
    """

    n: int
    n_particles: int
    accuracy: Figure
    mean_over_snrs: Figure
    macro_f1: Figure
    floor: float
    per_snr: dict[str, OfLevel]
    per_class: dict[str, OfClass]
    classes: list[str]
    confusion_matrix: list[list[int]]
    confidence: float
    bootstrap: int
    seed: int


def closed_set_report(
    labels: np.ndarray,
    predictions: np.ndarray,
    classes: list[str],
    snr_levels: np.ndarray,
    particles: np.ndarray,
    resampling: Resampling,
) -> ClosedSet:
    """Every closed-set figure of one set of predictions, with 95 % bootstrap intervals over particles.

    Args:
        labels, predictions: (N,) class indices.
        classes: the C class names by index.
        snr_levels: (N,) text; `mean_over_snrs` gives each level the same weight.
        particles: (N,) an identity that all copies of one particle share.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if len(labels) == 0:
        raise ValueError("closed-set report: no rows")
    snr_levels = np.asarray(snr_levels).astype(str)
    levels = sorted(np.unique(snr_levels), key=snr_order)
    matrix = confusion_matrix(labels, predictions, len(classes))

    figures = _figures(labels, predictions, snr_levels, levels, len(classes), np.ones(len(labels)))
    resampled = [
        _figures(labels, predictions, snr_levels, levels, len(classes), weights)
        for weights in progress(
            "intervals", particle_weights(particles, resampling), total=resampling.n_boot, unit="resample"
        )
    ]
    low_high = {name: [interval(draws) for draws in _columns(resampled, name)] for name in figures}

    def figure(name: str, index: int = 0) -> Figure:
        value = float(np.atleast_1d(figures[name])[index])
        return Figure(value if np.isfinite(value) else None, low_high[name][index])

    return ClosedSet(
        n=len(labels),
        n_particles=len(np.unique(particles)),
        **{name: figure(name) for name in ("accuracy", "mean_over_snrs", "macro_f1")},
        floor=float(matrix.sum(axis=1).max() / len(labels)),
        per_snr={
            level: OfLevel(figure("per_snr", index), int(np.sum(snr_levels == level)))
            for index, level in enumerate(levels)
        },
        per_class={
            name: OfClass(*(figure(key, index) for key in ("precision", "recall", "f1")), int(matrix[index].sum()))
            for index, name in enumerate(classes)
        },
        classes=list(classes),
        confusion_matrix=matrix.tolist(),
        confidence=CONFIDENCE,
        bootstrap=resampling.n_boot,
        seed=resampling.seed,
    )


def _figures(
    labels: np.ndarray,
    predictions: np.ndarray,
    snr_levels: np.ndarray,
    levels: list[str],
    num_classes: int,
    weights: np.ndarray,
) -> dict:
    """All figures, each row counted `weights` times; undefined ones are NaN."""
    hits = weights * (labels == predictions)
    right = np.bincount(labels, hits, num_classes)
    support = np.bincount(labels, weights, num_classes)
    predicted = np.bincount(predictions, weights, num_classes)
    with np.errstate(invalid="ignore"):
        precision, recall, f1 = right / predicted, right / support, 2 * right / (support + predicted)
        per_snr = np.array([hits[snr_levels == level].sum() / weights[snr_levels == level].sum() for level in levels])
        macro_f1 = f1[support > 0].mean() if (support > 0).any() else np.nan
    return {
        "accuracy": hits.sum() / weights.sum(),
        "mean_over_snrs": per_snr.mean(),
        "macro_f1": macro_f1,
        "per_snr": per_snr,
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


def _columns(resampled: list[dict], name: str) -> np.ndarray:
    """One row of resampled values for each component of a figure, (components, n_boot)."""
    return np.array([draw[name] for draw in resampled]).reshape(len(resampled), -1).T
