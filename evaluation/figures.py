"""Pictures of an evaluation: each function draws one file and leaves nothing behind in matplotlib."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.files import atomic_path

DPI = 150
KNOWN_COLOUR, UNSEEN_COLOURS = "#4477aa", ("#ee6677", "#ccaa33", "#228833")


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


def _figure(width: float, height: float) -> tuple[Figure, object]:
    """A figure of its own, in inches, that pyplot does not know of, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Figure, path: Path | str) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")
