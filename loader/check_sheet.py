"""A look at extracted boxes: slices of some particles and the mean of all, and what the mean says in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from common.files import atomic_path
from loader.volume import CENTRE, central_brightness, normalise, skewness

SHOWN = 6  # particles of a tomogram in the picture
MOST_ROWS = 8  # tomograms in the picture
BLOCK = 64  # volumes in memory at once
SURE = 5.0  # standard errors of white noise from which the middle of a mean says something
OFF = 0.15  # of the box: a strongest place further from the middle is not the middle's particle
PANEL = 1.3  # inches


@dataclass(frozen=True)
class Glimpse:
    """Some boxes of one tomogram, (k, D, D, D), and the mean of all `count`, (D, D, D)."""

    name: str
    boxes: np.ndarray
    mean: np.ndarray
    count: int


def glimpse(name: str, stack: Path) -> Glimpse:
    """Read a stack once, a block at a time."""
    with mrcfile.mmap(stack, permissive=False) as mrc:
        count = len(mrc.data)
        total = np.zeros(mrc.data.shape[1:])
        for start in range(0, count, BLOCK):
            total += mrc.data[start : start + BLOCK].sum(axis=0, dtype=np.float64)
        chosen = np.unique(np.linspace(0, count - 1, SHOWN).round().astype(int))
        return Glimpse(name, mrc.data[chosen].astype(np.float32), (total / count).astype(np.float32), count)


def mean_of(glimpses: Sequence[Glimpse]) -> tuple[np.ndarray, int]:
    """The mean of all boxes of all tomograms, (D, D, D), and how many they are."""
    counts = [seen.count for seen in glimpses]
    return np.average([seen.mean for seen in glimpses], axis=0, weights=counts).astype(np.float32), sum(counts)


def strongest(mean: np.ndarray) -> np.ndarray:
    """Where a mean (D, D, D), smoothed, differs most from its ground: (z, y, x) voxels from the middle."""
    smooth = np.abs(gaussian_filter(mean - np.median(mean), CENTRE * len(mean), mode="nearest"))
    return np.array(np.unravel_index(smooth.argmax(), smooth.shape)) - (len(mean) - 1) / 2


def verdict(mean: np.ndarray, count: int) -> tuple[str, bool]:
    """What the mean of `count` boxes says about centre and contrast, and whether that is a warning."""
    normal, place = normalise(mean, "the mean of all boxes"), strongest(mean)
    brightness = central_brightness(normal)
    middle, contrast = ("bright" if value > 0 else "dark" for value in (brightness, skewness(normal)))
    text = f"the mean of {count} boxes: its middle is {abs(brightness):.1f} standard errors {middle}er than the box"
    is_off, is_faint = np.abs(place).max() > OFF * len(mean), abs(brightness) < SURE
    is_hollow = middle != contrast and not is_faint
    if is_hollow:
        text += f", and what stands out is {contrast}"
    if not is_off and not is_faint and not is_hollow:
        return f"{text}: centred; the particles are {contrast}, in train.py and predict.py --contrast {contrast}", False
    if is_off:
        text += ", and it differs most at {:+.1f}, {:+.1f}, {:+.1f} voxels (z, y, x) from there".format(*place)
    cause = "not centred, or hollow or larger than the box:"
    if is_hollow:
        cause = (
            f"if the particles are hollow, they are {contrast}, --contrast {contrast}; if not, they are not centred:"
        )
    elif is_faint:
        cause = "wrong places, or few and noisy particles?"
    return f"{text}; {cause} look at check.png, and at units, pixel size, centre and the sign of the axes", True


def check_sheet(path: Path, glimpses: Sequence[Glimpse], box_text: str) -> None:
    """Draw and write the picture: for each tomogram central z slices of some boxes, three slices of the mean."""
    shown = glimpses[:MOST_ROWS]
    size = ((SHOWN + 3.4) * PANEL, (len(shown) + 0.7) * PANEL)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(shown), SHOWN + 3, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for row, seen in zip(axes, shown, strict=True):
        row[0].set_ylabel(f"{seen.name[:18]}\n{seen.count}", fontsize=8)
        middle = len(seen.mean) // 2
        for axis, volume in zip(row[:SHOWN], seen.boxes, strict=False):
            _show(axis, volume[middle])
        for axis in row[len(seen.boxes) : SHOWN]:
            axis.axis("off")
        slices = seen.mean[middle], seen.mean[:, middle], seen.mean[:, :, middle]
        for axis, picture in zip(row[SHOWN:], slices, strict=True):
            _show(axis, picture)
            for draw in (axis.axhline, axis.axvline):
                draw((len(seen.mean) - 1) / 2, color="tab:orange", lw=0.5)
    for axis, title in zip(axes[0, SHOWN:], ("mean, y x", "mean, z x", "mean, z y"), strict=True):
        axis.set_title(title, fontsize=8)
    axes[0, 0].set_title("boxes, y x", fontsize=8)
    more = f"; {len(shown)} of {len(glimpses)} tomograms" if len(shown) < len(glimpses) else ""
    figure.suptitle(f"{box_text}; slices through the middle, nothing inverted{more}", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})


def _show(axis: Axes, picture: np.ndarray) -> None:
    low, high = np.percentile(picture, (0.5, 99.5))
    axis.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-9), origin="lower")
