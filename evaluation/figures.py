"""Pictures of an evaluation: each function draws one file and leaves nothing behind in matplotlib."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.files import atomic_path

DPI = 150
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777")  # told apart by all eyes


def confusion_matrix(path: Path | str, matrix: np.ndarray | list[list[int]], classes: list[str]) -> None:
    """Draw a confusion matrix (C, C), rows true: coloured by the share of the true class, labelled with counts."""
    matrix = np.asarray(matrix)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.48 * len(classes)
    figure, axes = _figure(side + 0.8, side)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, classes)
    if len(classes) <= 30:
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, matrix[row, column], ha="center", va="center", color=colour, fontsize=8)
    accuracy = np.trace(matrix) / max(matrix.sum(), 1)
    axes.set(xlabel="predicted", ylabel="true", title=f"accuracy {accuracy:.3f}, n = {matrix.sum()}")
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046, pad=0.03)
    _save(figure, path)


def roc_curves(path: Path | str, curves: dict[str, tuple[list[float], list[float]]], title: str) -> None:
    """Draw ROC curves, legend text -> (false-accept rates, validation rates): as they are, and near 0 in logarithm."""
    figure = _blank(10.5, 5.4)
    left, right = figure.subplots(1, 2)
    for number, (name, (far, val)) in enumerate(curves.items()):
        style = {"color": COLOURS[number % len(COLOURS)], "ls": "-" if number < len(COLOURS) else "--", "lw": 1.8}
        left.plot(far, val, label=name, **style)
        shown = np.asarray(far) > 0
        right.plot(np.asarray(far)[shown], np.asarray(val)[shown], **style)
    chance = np.geomspace(1e-4, 1, 100)
    for axes in (left, right):
        axes.plot(chance, chance, color="#bbbbbb", ls=":", label="chance")
        axes.set(ylim=(0, 1.005), xlabel="false-accept rate (different pairs taken as same)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.set(xlim=(0, 1), ylabel="validation rate (same pairs accepted)")
    right.set(xscale="log", xlim=(1e-4, 1))
    figure.suptitle(title)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    _save(figure, path)


def score_histograms(
    path: Path | str, scores: dict[str, np.ndarray], threshold: float | None, label: str, title: str
) -> None:
    """Draw the distribution of a score for several sets, name -> (N,), with the threshold below which is unknown."""
    figure, axes = _figure(7.5, 4.2)
    everything = np.concatenate(list(scores.values()))
    low, high = np.percentile(everything, [0.2, 100])
    bins = np.linspace(low, high if high > low else low + 1, 60)
    for number, (name, values) in enumerate(scores.items()):
        colour = COLOURS[number % len(COLOURS)]
        weights = np.full(len(values), 1 / len(values))
        options = {"bins": bins, "weights": weights, "color": colour}
        axes.hist(np.maximum(values, low), histtype="stepfilled", alpha=0.18, **options)
        axes.hist(np.maximum(values, low), histtype="step", lw=1.6, label=f"{name}, n = {len(values)}", **options)
    if threshold is not None:
        axes.axvline(threshold, color="black", ls="--", lw=1.2, label=f"threshold {threshold:.3f}")
    axes.set(xlabel=label, ylabel="share of particles", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    _save(figure, path)


def similarity_matrix(path: Path | str, cosines: np.ndarray, names: list[str], known: int) -> None:
    """Draw the cosines (K, K) between class means; the first `known` names are known classes, the others unseen."""
    side = 2.4 + 0.4 * len(names)
    figure, axes = _figure(side + 0.8, side)
    image = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for tick in (*axes.get_xticklabels()[known:], *axes.get_yticklabels()[known:]):
        tick.set_color("#bb2233")
    if len(names) <= 30:
        for row, column in np.ndindex(*cosines.shape):
            colour = "white" if abs(cosines[row, column]) > 0.6 else "black"
            axes.text(column, row, f"{cosines[row, column]:.1f}", ha="center", va="center", color=colour, fontsize=6.5)
    for line in (axes.axhline, axes.axvline):
        line(known - 0.5, color="black", lw=1.2)
    axes.set_title("cosine of class means: known, and unseen (red)")
    figure.colorbar(image, ax=axes, label="cosine", fraction=0.046, pad=0.03)
    _save(figure, path)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of its own and its axes; sizes in inches."""
    figure = _blank(width, height)
    return figure, figure.add_subplot()


def _blank(width: float, height: float) -> Figure:
    """A figure that pyplot does not know of."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path | str) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png", bbox_inches="tight")
