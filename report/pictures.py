"""Pictures of an evaluation: each function draws one file and leaves nothing behind in matplotlib.

A picture grows with its classes, so at most MOST_CLASSES are drawn, and it says which. Scripts import this module where
they draw: matplotlib takes a second.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.patheffects import Normal, Stroke

from common.cli import plural
from common.files import atomic_path

DPI = 150
MOST_CLASSES = 60
MOST_NUMBERS = 30  # classes whose matrix holds numbers
NARROW = 0.2  # inches of a class in a matrix without numbers
FEWEST_BINS, MOST_BINS = 5, 40  # of a histogram; between, the square root of the number of volumes
FEWEST_BARS = 4  # that a picture of predictions has room for
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777")  # told apart by all eyes


def confusion_matrix(path: Path | str, matrix: np.ndarray | list[list[int]], classes: list[str]) -> None:
    """Draw a confusion matrix (C, C), rows true: coloured by the share of the true class, labelled with counts.

    Of more than MOST_CLASSES, those with the most mistakes are drawn.
    """
    matrix = np.asarray(matrix)
    accuracy, count = np.trace(matrix) / max(matrix.sum(), 1), matrix.sum()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    shown = highest(mistakes, MOST_CLASSES)
    some = f"\n{shown_text(len(shown), len(classes), 'with the most mistakes')}" if len(shown) < len(classes) else ""
    matrix, share, classes = matrix[np.ix_(shown, shown)], share[np.ix_(shown, shown)], [classes[i] for i in shown]
    side = 2.2 + (0.48 if len(classes) <= MOST_NUMBERS else NARROW) * len(classes)
    figure, axes = _figure(side + 0.8, side)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, classes)
    if len(classes) <= MOST_NUMBERS:
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, matrix[row, column], ha="center", va="center", color=colour, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true", title=f"accuracy {accuracy:.3f}, n = {count}{some}")
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046, pad=0.03)
    _save(figure, path)


def highest(values: np.ndarray, most: int) -> np.ndarray:
    """The places of the `most` highest values (N,), in order."""
    return np.sort(np.argsort(-np.asarray(values), kind="stable")[:most])


def shown_text(shown: int, there: int, which: str) -> str:
    """Says which of the classes a picture shows."""
    return f"the {shown} of {there} classes {which}"


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
    _histograms(axes, scores, threshold)
    axes.set(xlabel=label, title=title)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    _save(figure, path)


def _histograms(axes: Axes, scores: dict[str, np.ndarray], threshold: float | None) -> None:
    everything = np.concatenate(list(scores.values()))
    low, high = everything.min(), everything.max()
    count = round(np.sqrt(np.mean([len(values) for values in scores.values()])))
    bins = np.linspace(low, high if high > low else low + 1, min(max(count, FEWEST_BINS), MOST_BINS) + 1)
    for number, (name, values) in enumerate(scores.items()):
        colour = COLOURS[number % len(COLOURS)]
        weights = np.full(len(values), 1 / len(values))
        options = {"bins": bins, "weights": weights, "color": colour}
        axes.hist(values, histtype="stepfilled", alpha=0.18, **options)
        axes.hist(values, histtype="step", lw=1.6, label=f"{name}, n = {len(values)}", **options)
    if threshold is not None:
        axes.axvline(threshold, color="black", ls="--", lw=1.2, label=f"threshold {threshold:.3f}")
    axes.set(ylabel="share of volumes")
    axes.spines[["top", "right"]].set_visible(False)


def similarity_matrix(path: Path | str, cosines: np.ndarray, names: list[str], known: int) -> None:
    """Draw the cosines (K, K) between class means; the first `known` names are known classes, the others unseen.

    Of more than MOST_CLASSES, those that are most alike to another are drawn.
    """
    shown = highest(np.max(cosines - 2 * np.eye(len(cosines)), axis=1), MOST_CLASSES)
    some = (
        f"\n{shown_text(len(shown), len(names), 'that are most alike to another')}" if len(shown) < len(names) else ""
    )
    cosines, names, known = cosines[np.ix_(shown, shown)], [names[i] for i in shown], int(np.sum(shown < known))
    side = 2.4 + (0.4 if len(names) <= MOST_NUMBERS else NARROW) * len(names)
    figure, axes = _figure(side + 0.8, side)
    image = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for tick in (*axes.get_xticklabels()[known:], *axes.get_yticklabels()[known:]):
        tick.set_color("#bb2233")
    if len(names) <= MOST_NUMBERS:
        for row, column in np.ndindex(*cosines.shape):
            colour = "white" if abs(cosines[row, column]) > 0.6 else "black"
            axes.text(column, row, f"{cosines[row, column]:.2f}", ha="center", va="center", color=colour, fontsize=6)
    for line in (axes.axhline, axes.axvline):
        line(known - 0.5, color="black", lw=1.2)
    axes.set_title(f"cosine of class means: known, and unseen (red){some}")
    figure.colorbar(image, ax=axes, label="cosine", fraction=0.046, pad=0.03)
    _save(figure, path)


def embedding_map(path: Path | str, points: np.ndarray, classes: np.ndarray, known: np.ndarray) -> None:
    """Draw points (N, 2) of embedded particles, coloured by class name (N,): known (bool, (N,)) as dots, unseen as
    triangles; each class is named where its particles are, of more than MOST_CLASSES those with the most points."""
    names, counts = np.unique(classes, return_counts=True)
    named = set(names[highest(counts, MOST_CLASSES)])
    figure, axes = _figure(9.5, 7.2)
    kinds = ((known, "o", "pale", 10, 0.6), (~known, "^", "strong", 16, 0.85))
    for chosen, marker, strength, size, alpha in kinds:
        of_kind = np.unique(classes[chosen])
        for number, name in enumerate(of_kind):
            mine = chosen & (classes == name)
            hue = number / len(of_kind)
            colour = hsv_to_rgb((hue, 0.45, 0.85) if strength == "pale" else (hue, 0.95, 0.7))
            label = name if name in named else None
            axes.scatter(*points[mine].T, s=size, marker=marker, color=colour, alpha=alpha, lw=0, label=label)
            if name in named:
                _name_class(axes, name, _densest(points[mine]), "normal" if strength == "pale" else "bold")
    axes.set(
        xticks=[], yticks=[], title="UMAP of the embeddings: known classes (dots), unseen classes (triangles, bold)"
    )
    axes.set_aspect("equal", adjustable="datalim")
    columns = 1 if len(named) <= MOST_NUMBERS else 2
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, markerscale=1.6, ncols=columns)
    _save(figure, path)


def _name_class(axes: Axes, name: str, point: np.ndarray, weight: str) -> None:
    """Write a name above a point (2,)."""
    place = {"xytext": (0, 10), "textcoords": "offset points", "ha": "center", "va": "center"}
    text = axes.annotate(name, point, fontsize=9, **place)
    text.set(fontweight=weight, path_effects=[Stroke(linewidth=2.5, foreground="white"), Normal()])


def _densest(points: np.ndarray) -> np.ndarray:
    """The point (2,) with the nearest tenth neighbour: where a class that lies in several places is named."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)  # (N, 2) -> (N, N)
    return points[np.sort(distances, axis=1)[:, min(10, len(points) - 1)].argmin()]


def umap_points(embeddings: np.ndarray, seed: int) -> np.ndarray:
    """Embeddings (N, E) in the plane, (N, 2): 30 principal components, then UMAP; the same for the same seed."""
    from scipy.spatial.distance import cdist

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # it says that its optional TensorFlow is not there
        from umap import UMAP  # slow to import, and only needed here
    centered = embeddings - embeddings.mean(axis=0)
    left, spread, _ = np.linalg.svd(centered, full_matrices=False)
    neighbours = min(15, len(embeddings) - 1)
    init = "spectral" if len(embeddings) > 50 else "random"
    components = (left * spread)[:, :30]
    distances = cdist(components, components)  # UMAP itself would take them one by one
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "using precomputed metric")  # no inverse transform is wanted
        settings = {"metric": "precomputed", "random_state": seed, "n_jobs": 1}
        return UMAP(n_neighbors=neighbours, init=init, **settings).fit_transform(distances)


def contact_sheet(path: Path | str, volumes: np.ndarray, titles: list[str], title: str = "") -> None:
    """Draw volumes (N, D, H, W), each a column: the mean of the middle third along z, along y and along x."""
    volumes = np.asarray(volumes, dtype=np.float32)
    count = len(volumes)
    figure = _blank(max(3.5, 1.45 * count), 5.0)
    grid = figure.subplots(3, count, squeeze=False)
    for column, (volume, heading) in enumerate(zip(volumes, titles, strict=True)):
        for row, name in enumerate(("xy", "xz", "yz")):
            _show_slab(grid[row, column], volume, axis=row)
            if column == 0:
                grid[row, column].set_ylabel(name)
        grid[0, column].set_title(heading, fontsize=8)
    if title:
        figure.suptitle("\n".join(wrap(title, max(30, 20 * count))), fontsize=10)
    _save(figure, path)


@dataclass(frozen=True)
class PredictionPage:
    """What the picture of predictions shows.

    counts: of each prediction, most frequent first.
    scores: (N,), of all volumes; label: the score's name; threshold: below which a volume is unknown.
    examples: one row of slices each: its name, its volumes (D, H, W), a title for each.
    unknown: the prediction that stands for no class.
    warning: stands above everything; empty for none.
    inverted: whether the volumes are shown with another contrast than their files have.
    """

    counts: dict[str, int]
    scores: np.ndarray
    threshold: float
    label: str
    examples: list[tuple[str, list[np.ndarray], list[str]]]
    unknown: str = "unknown"
    warning: str = ""
    inverted: bool = False


def prediction_page(path: Path | str, page: PredictionPage) -> None:
    """Draw what was predicted: how many volumes of each class, their scores, and slices of some.

    Of more than MOST_CLASSES predictions, the most frequent have bars; `unknown` always has.
    """
    names = list(page.counts)[:MOST_CLASSES]
    if page.unknown in page.counts and page.unknown not in names:
        names[-1] = page.unknown
    height = max(5.5, 1.35 * len(page.examples) + 0.8, 2.8 + 0.26 * len(names))
    figure = _blank(11.5, height)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.1))
    bars, histogram = left.subplots(2, 1, height_ratios=(max(2.2, 0.26 * len(names)), 2.2))
    colours = [COLOURS[-1] if name == page.unknown else COLOURS[0] for name in names]
    drawn = bars.barh(names, [page.counts[name] for name in names], color=colours)
    bars.bar_label(drawn, padding=3, fontsize=8)
    bars.set_ylim(max(len(names), FEWEST_BARS) - 0.4, -0.6)  # from above; few bars are no thicker for it
    bars.margins(x=0.15)
    hidden = len(page.counts) - len(names)
    more = f"\nand {hidden} more {plural('class', hidden)}, without a bar" if hidden else ""
    bars.set(title=f"Predictions, n = {len(page.scores)}{more}", xlabel="volumes")
    bars.xaxis.get_major_locator().set_params(integer=True)
    bars.spines[["top", "right"]].set_visible(False)
    _histograms(histogram, {"these volumes": page.scores}, page.threshold)
    histogram.set(title="Left of the dashed line: unknown", xlabel=f"{page.label} (higher is more known)")
    histogram.legend(frameon=False, fontsize=8)
    _examples(right, page)
    if page.warning:
        figure.suptitle("\n".join(wrap(f"Warning: {page.warning}", 110)), color="#bb2233", fontsize=10)
    _save(figure, path)


def _examples(figure: SubFigure, page: PredictionPage) -> None:
    """The rows of slices."""
    columns = max(len(volumes) for _, volumes, _ in page.examples)
    grid = figure.subplots(len(page.examples), columns, squeeze=False)
    hidden = len(page.counts) - len(page.examples)
    more = f"\nand {hidden} more {plural('class', hidden)}, without slices" if hidden else ""
    inverted = "\ninverted: the particles are dark in their files, and bright here" if page.inverted else ""
    text = f"The surest of each (of unknown: the lowest scores): the middle third along z{inverted}{more}"
    figure.suptitle(text, fontsize=10)
    for axes, (name, volumes, titles) in zip(grid, page.examples, strict=True):
        for axis in axes[len(volumes) :]:
            axis.axis("off")
        for axis, volume, title in zip(axes, volumes, titles, strict=False):
            _show_slab(axis, volume)
            axis.set_title(title, fontsize=8)
        axes[0].set_ylabel(name, fontsize=9)


def _show_slab(axes: Axes, volume: np.ndarray, axis: int = 0) -> None:
    """The mean of the middle third of a volume (D, H, W) along an axis, in grey."""
    depth = volume.shape[axis]
    slab = volume.take(range(depth // 3, depth - depth // 3), axis=axis).mean(axis=axis)  # (D, H, W) -> two axes
    low, high = np.percentile(slab, [1, 99.5])
    axes.imshow(slab, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


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
