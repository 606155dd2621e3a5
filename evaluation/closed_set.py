"""Closed set: a linear classifier on frozen embeddings, and the report of any predictions on known classes."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from evaluation.bootstrap import CONFIDENCE, interval, particle_weights
from loader.columns import snr_order, snr_text

REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of scikit-learn, strongest first
MAX_STEPS = 5000


def linear_probe(
    train_emb: np.ndarray,
    train_labels: np.ndarray,
    valid_emb: np.ndarray,
    valid_labels: np.ndarray,
    test_emb: np.ndarray,
    seed: int,
) -> tuple[np.ndarray, float]:
    """Fit a linear classifier to convergence on the training embeddings and predict the test embeddings.

    The regularisation is the strongest of those with the best accuracy on the validation embeddings. Embeddings are
    centred and scaled by one number, both from the training set, so that their geometry stays.

    Args:
        train_emb, valid_emb, test_emb: (N, E) each.
        train_labels, valid_labels: (N,) class indices.
        seed: given to the solver (the default solver is deterministic).

    Returns:
        The predictions (N_test,) and the chosen regularisation C.

    Raises:
        ValueError: fewer than two classes, an empty set, or non-finite embeddings.
        RuntimeError: the fit did not converge.
    """
    for name, embeddings in (("training", train_emb), ("validation", valid_emb), ("test", test_emb)):
        if len(embeddings) == 0 or not np.isfinite(embeddings).all():
            raise ValueError(f"linear probe: the {name} embeddings are empty or not finite")
    if len(np.unique(train_labels)) < 2:
        raise ValueError("linear probe: the training set has fewer than two classes")
    train, valid, test = (np.asarray(embeddings, dtype=np.float64) for embeddings in (train_emb, valid_emb, test_emb))
    center = train.mean(axis=0)
    scale = (train - center).std() or 1.0
    train, valid, test = ((embeddings - center) / scale for embeddings in (train, valid, test))

    best_accuracy, best, chosen = -1.0, None, None
    for regularisation in tqdm(REGULARISATIONS, desc="fitting the classifier", unit="fit", leave=False):
        classifier = _fit(train, train_labels, regularisation, seed)
        accuracy = np.mean(classifier.predict(valid) == valid_labels)
        if accuracy > best_accuracy:
            best_accuracy, best, chosen = accuracy, classifier, regularisation
    return best.predict(test), chosen


def _fit(train: np.ndarray, labels: np.ndarray, regularisation: float, seed: int) -> LogisticRegression:
    classifier = LogisticRegression(C=regularisation, max_iter=MAX_STEPS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return classifier.fit(train, labels)
        except ConvergenceWarning as warning:
            raise RuntimeError(
                f"linear probe: no convergence in {MAX_STEPS} steps at C = {regularisation:g}"
            ) from warning


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """How many rows of class i (row) were predicted as class j (column), (C, C).

    Raises ValueError for a label or prediction outside 0 .. num_classes - 1.
    """
    for name, values in (("label", labels), ("prediction", predictions)):
        if len(values) and (values.min() < 0 or values.max() >= num_classes):
            raise ValueError(f"a {name} is {values.min()} or {values.max()}; expected 0 to {num_classes - 1}")
    return np.bincount(labels * num_classes + predictions, minlength=num_classes**2).reshape(num_classes, num_classes)


def closed_set_report(
    labels: np.ndarray,
    predictions: np.ndarray,
    classes: list[str],
    snr_levels: np.ndarray,
    particles: np.ndarray,
    seed: int = 0,
    n_boot: int = 1000,
) -> dict:
    """Every closed-set figure of one set of predictions, with 95 % bootstrap intervals over particles.

    Args:
        labels, predictions: (N,) class indices.
        classes: the C class names by index.
        snr_levels: (N,) text; `mean_over_snrs` gives each level the same weight.
        particles: (N,) an identity that all copies of one particle share.

    Returns:
        A dict ready for JSON; a figure that is not defined (precision of a class never predicted) is None.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if len(labels) == 0:
        raise ValueError("closed-set report: no rows")
    snr_levels, particles = np.asarray(snr_levels).astype(str), np.asarray(particles).astype(str)
    levels = sorted(np.unique(snr_levels), key=snr_order)
    matrix = confusion_matrix(labels, predictions, len(classes))

    figures = _figures(labels, predictions, snr_levels, levels, len(classes), np.ones(len(labels)))
    resampled = [
        _figures(labels, predictions, snr_levels, levels, len(classes), weights)
        for weights in tqdm(particle_weights(particles, n_boot, seed), "intervals", n_boot, leave=False)
    ]
    low_high = {name: [interval(draws) for draws in _columns(resampled, name)] for name in figures}

    per_class = [
        {
            "class": name,
            **{key: _or_none(figures[key][index]) for key in ("precision", "recall", "f1")},
            **{f"{key}_interval": low_high[key][index] for key in ("precision", "recall", "f1")},
            "support": int(matrix[index].sum()),
        }
        for index, name in enumerate(classes)
    ]
    per_snr = [
        {
            "snr": level,
            "accuracy": float(figures["per_snr"][index]),
            "accuracy_interval": low_high["per_snr"][index],
            "n": int(np.sum(snr_levels == level)),
        }
        for index, level in enumerate(levels)
    ]
    overall = {}
    for name in ("accuracy", "mean_over_snrs", "macro_f1"):
        overall[name] = _or_none(figures[name])
        overall[f"{name}_interval"] = low_high[name][0]
    return {
        "n": len(labels),
        "n_particles": len(np.unique(particles)),
        **overall,
        "floor": float(matrix.sum(axis=1).max() / len(labels)),
        "per_snr": per_snr,
        "per_class": per_class,
        "classes": list(classes),
        "confusion_matrix": matrix.tolist(),
        "confidence": CONFIDENCE,
        "bootstrap": n_boot,
        "seed": seed,
    }


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


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def format_report(report: dict) -> str:
    """The report as text: accuracies, one line a class, and the confusion matrix (rows true, columns predicted)."""
    width = max(10, *(len(name) for name in report["classes"]))

    def figure(value: float | None, low_high: list[float] | None = None) -> str:
        text = "     -" if value is None else f"{value:6.3f}"
        return text if low_high is None else f"{text} [{low_high[0]:.3f}, {low_high[1]:.3f}]"

    def line(name: str, key: str, entry: dict, n: int) -> str:
        return f"{name:<{width + 14}} {figure(entry[key], entry[f'{key}_interval'])}  n = {n}"

    lines = [line("accuracy", "accuracy", report, report["n"])]
    lines += [line(f"  {snr_text(entry['snr'])}", "accuracy", entry, entry["n"]) for entry in report["per_snr"]]
    lines += [
        line("mean over SNRs", "mean_over_snrs", report, report["n"]),
        line("mean F1 of the classes", "macro_f1", report, report["n"]),
        f"{'largest class alone':<{width + 14}} {figure(report['floor'])}",
        f"[95 % intervals over {report['n_particles']} particles]",
        "",
        f"{'class':<{width}} {'precision':>9} {'recall':>9} {'F1':>9} {'n':>7}",
    ]
    for entry in report["per_class"]:
        numbers = "".join(f"    {figure(entry[key])}" for key in ("precision", "recall", "f1"))
        lines.append(f"{entry['class']:<{width}}{numbers} {entry['support']:>7}")
    cell = max(6, *(len(name) + 1 for name in report["classes"]))
    lines += ["", "confusion matrix (row: true class, column: predicted)"]
    lines.append(" " * width + "".join(f"{name:>{cell}}" for name in report["classes"]))
    for name, row in zip(report["classes"], report["confusion_matrix"], strict=True):
        lines.append(f"{name:<{width}}" + "".join(f"{count:>{cell}}" for count in row))
    return "\n".join(lines)
