"""A look at extracted boxes: slices of some particles and the mean of all, and what the mean says in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mrcfile
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from common.files import atomic_path
from loader.volume import central_brightness, normalise, skewness

SHOWN = 6  # particles of a tomogram in the picture
MOST_ROWS = 8  # tomograms in the picture
BLOCK = 64  # volumes in memory at once
SURE = 5.0  # standard errors from which the middle of a mean says something
SKEWED = 3.0  # standard errors of a mean's skewness from which that tells the contrast of hollow particles
OFF = 2 / 32  # of the box: how far from its middle a mean may be centred
SMOOTH = 1 / 16  # of the box: standard deviation of the Gaussian that takes noise off a mean
COMMON = 0.3  # correlation of the means of two halves below which they are of noise
COARSE = 32  # voxels along a mean's side at which its centre is found
FEWEST = 5  # boxes of a tomogram that is compared with others
ALIKE = 0.5  # of the others' contrast: a tomogram with less differs from them
PANEL = 1.3  # inches
ADVICE = "look at check.png, and at units, pixel size, centre and the sign of the axes"


@dataclass(frozen=True)
class Mean:
    """The mean of boxes.

    halves: (2, D, D, D), of the boxes of odd and of even numbers; zeros where there are none. counts: (2,) of these.
    brightness: mean of `central_brightness` over the boxes. spread: its standard deviation over them, 1 or more, as it
    is for white noise.
    """

    halves: np.ndarray
    counts: np.ndarray
    brightness: float
    spread: float

    @property
    def count(self) -> int:
        """Of the boxes."""
        return int(self.counts.sum())

    @property
    def whole(self) -> np.ndarray:
        """Of all boxes, (D, D, D)."""
        return np.average(self.halves, axis=0, weights=self.counts).astype(np.float32)

    @property
    def error(self) -> float:
        """The standard error of the brightness."""
        return self.spread / np.sqrt(self.count)

    @cached_property
    def offset(self) -> np.ndarray:
        """From the box's middle to the mean's centre, (z, y, x) voxels."""
        return centre_of(self.whole)

    @cached_property
    def offset_error(self) -> float:
        """Half of how far the centres of the two halves are apart along the axis where it is most, voxels.

        Infinite where the halves have nothing in common.
        """
        if not self.counts.all() or np.corrcoef(*(smooth(half).ravel() for half in self.halves))[0, 1] < COMMON:
            return np.inf
        return float(np.abs(np.subtract(*map(centre_of, self.halves))).max() / 2)

    @property
    def is_clear(self) -> bool:
        """Whether it is clear enough to say where its centre is."""
        return self.offset_error <= OFF * self.halves.shape[-1] / 2

    @property
    def is_off(self) -> bool:
        """Whether it is clear enough to say that its centre is not the box's."""
        limit = OFF * self.halves.shape[-1]
        return self.is_clear and np.abs(self.offset).max() > limit + self.offset_error

    def offset_text(self) -> str:
        """The offset in words, with its error."""
        exact = f" +- {self.offset_error:.1f}" if np.isfinite(self.offset_error) else " (not clear)"
        return "{:+.1f}, {:+.1f}, {:+.1f}{} voxels (z, y, x)".format(*self.offset, exact)


@dataclass(frozen=True)
class Glimpse:
    """Some boxes of one tomogram, (k, D, D, D), and the mean of all."""

    name: str
    boxes: np.ndarray
    mean: Mean


def glimpse(name: str, stack: Path) -> Glimpse:
    """Read a stack once, a block at a time."""
    with mrcfile.mmap(stack, permissive=False) as mrc:
        count, shape = len(mrc.data), mrc.data.shape[1:]
        totals, brightness = np.zeros((2, *shape)), []
        for start in range(0, count, BLOCK):
            block = mrc.data[start : start + BLOCK].astype(np.float32)
            totals += [block[half::2].sum(axis=0, dtype=np.float64) for half in (0, 1)]
            brightness += [central_brightness(box) for box in block]
        chosen = np.unique(np.linspace(0, count - 1, SHOWN).round().astype(int))
        counts = np.array([(count + 1) // 2, count // 2])
        halves = totals / np.maximum(counts, 1)[:, None, None, None]
        mean = Mean(halves, counts, float(np.mean(brightness)), max(1.0, float(np.std(brightness))))
        return Glimpse(name, mrc.data[chosen].astype(np.float32), mean)


def mean_of(glimpses: Sequence[Glimpse]) -> Mean:
    """The mean of all boxes of all tomograms."""
    means = [seen.mean for seen in glimpses]
    counts = np.array([mean.counts for mean in means])
    weights = counts.sum(axis=1)
    halves = np.einsum("th,thzyx->hzyx", counts, np.stack([mean.halves for mean in means]))
    halves /= np.maximum(counts.sum(axis=0), 1)[:, None, None, None]
    brightness = np.average([mean.brightness for mean in means], weights=weights)
    squares = np.average([mean.spread**2 for mean in means], weights=weights)
    return Mean(halves, counts.sum(axis=0), float(brightness), float(np.sqrt(squares)))


def smooth(mean: np.ndarray) -> np.ndarray:
    """A mean (D, D, D), about its ground, with less noise."""
    return gaussian_filter(mean - np.median(mean), SMOOTH * len(mean), mode="nearest")


def centre_of(mean: np.ndarray) -> np.ndarray:
    """The centre of symmetry of a mean (D, D, D), (z, y, x) voxels from the middle: turned about it, it fits itself
    best. The mean of many orientations is symmetric, be it solid or hollow, bright or dark.
    """
    side = len(mean)
    step = max(1, side // COARSE)
    used = side // step * step
    coarse = smooth(mean)[:used, :used, :used].reshape((used // step, step) * 3).mean(axis=(1, 3, 5))
    fit = fftconvolve(coarse, coarse)  # over twice the centre, (2 n - 1,) along each axis
    peak = np.unravel_index(fit.argmax(), fit.shape)
    place = np.array([at + _vertex(np.moveaxis(fit, axis, 0), peak, axis) for axis, at in enumerate(peak)]) / 2
    return place * step + (step - 1) / 2 - (side - 1) / 2


def _vertex(fit: np.ndarray, peak: tuple[int, ...], axis: int) -> float:
    """Where the parabola through a peak and its neighbours along one axis, which is the first of `fit`, is highest."""
    at, others = peak[axis], tuple(place for other, place in enumerate(peak) if other != axis)
    if not 0 < at < len(fit) - 1:
        return 0.0
    before, top, after = (fit[(near, *others)] for near in (at - 1, at, at + 1))
    bend = before - 2 * top + after
    return float((before - after) / (2 * bend)) if bend < 0 else 0.0


@dataclass(frozen=True)
class Verdict:
    """What the means say in words, and whether that is a warning; contrast: empty where it is not clear.

    odd: tomograms that look wrong -> why.
    """

    text: str
    is_doubtful: bool
    contrast: str
    odd: dict[str, str]


def verdict(glimpses: Sequence[Glimpse]) -> Verdict:
    """What the mean of all boxes says about centre and contrast, and which tomograms differ."""
    mean = mean_of(glimpses)
    strength, contrast = abs(mean.brightness) / mean.error, "bright" if mean.brightness > 0 else "dark"
    boxes = "1 box" if mean.count == 1 else f"{mean.count} boxes"
    text = (
        f"the mean of {boxes}: its middle is {strength:.1f} standard errors {contrast}er than the box, its centre at "
        f"{mean.offset_text()} from there"
    )
    if mean.is_off:
        return Verdict(f"{text}; not centred: {ADVICE}", True, "", odd_ones(glimpses))
    if strength < SURE:
        cause = "wrong places, or few and noisy particles?"
        return Verdict(f"{text}; {cause} {ADVICE}", True, "", odd_ones(glimpses))
    skew = skewness(normalise(mean.whole, "the mean of all boxes"))
    stands_out = "bright" if skew > 0 else "dark"
    if stands_out != contrast and abs(skew) > SKEWED:
        cause = (
            f"if the particles are hollow, they are {stands_out}, --contrast {stands_out}; if not, they are not centred"
        )
        said = f"{text}, and what stands out is {stands_out}; {cause}: {ADVICE}"
        return Verdict(said, True, stands_out, odd_ones(glimpses))
    where = "centred" if mean.is_clear else "too few and noisy to say whether they are centred"
    said = f"{text}; {where}; the particles are {contrast}, in train.py and predict.py --contrast {contrast}"
    return Verdict(said, False, contrast, odd_ones(glimpses))


def odd_ones(glimpses: Sequence[Glimpse]) -> dict[str, str]:
    """The tomograms whose mean is not centred, or has another contrast than the others' -> why, the worst first.

    Those of less than ALIKE of the median contrast differ, where that is more than SURE standard errors.
    """
    usual = float(np.median([seen.mean.brightness for seen in glimpses]))
    found = []
    for seen in glimpses:
        mean, reasons = seen.mean, []
        share = mean.brightness / usual if usual else 1.0
        lacks = (ALIKE - share) * abs(usual) > SURE * mean.error
        if mean.is_off:
            reasons.append(f"centre at {mean.offset_text()}")
        if len(glimpses) > 1 and mean.count >= FEWEST and lacks:
            reasons.append(f"its middle has {share:.0%} of the others' contrast")
        if reasons:
            found.append((float(np.abs(mean.offset).max()) if mean.is_off else 0.0, seen.name, " and ".join(reasons)))
    return {name: reason for _, name, reason in sorted(found, key=lambda one: -one[0])}


def check_sheet(path: Path, glimpses: Sequence[Glimpse], box_text: str, first: Sequence[str]) -> None:
    """Draw and write the picture: for each tomogram central z slices of some boxes, three slices of the mean.

    first: names of tomograms to be shown before the others.
    """
    order = {name: place for place, name in enumerate(first)}
    shown = sorted(glimpses, key=lambda seen: order.get(seen.name, len(order)))[:MOST_ROWS]
    size = ((SHOWN + 3.4) * PANEL, (len(shown) + 0.7) * PANEL)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(shown), SHOWN + 3, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for row, seen in zip(axes, shown, strict=True):
        mark, mean = "! " if seen.name in order else "", seen.mean.whole
        row[0].set_ylabel(f"{mark}{seen.name[:18]}\n{seen.mean.count}", fontsize=8)
        middle = len(mean) // 2
        for axis, volume in zip(row[:SHOWN], seen.boxes, strict=False):
            _show(axis, volume[middle])
        for axis in row[len(seen.boxes) : SHOWN]:
            axis.axis("off")
        slices = mean[middle], mean[:, middle], mean[:, :, middle]
        for axis, picture in zip(row[SHOWN:], slices, strict=True):
            _show(axis, picture)
            for draw in (axis.axhline, axis.axvline):
                draw((len(mean) - 1) / 2, color="tab:orange", lw=0.5)
    for axis, title in zip(axes[0, SHOWN:], ("mean, y x", "mean, z x", "mean, z y"), strict=True):
        axis.set_title(title, fontsize=8)
    axes[0, 0].set_title("boxes, y x", fontsize=8)
    more = f"; {len(shown)} of {len(glimpses)} tomograms, odd ones first" if len(shown) < len(glimpses) else ""
    figure.suptitle(f"{box_text}; slices through the middle, nothing inverted{more}", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})


def _show(axis: Axes, picture: np.ndarray) -> None:
    low, high = np.percentile(picture, (0.5, 99.5))
    axis.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-9), origin="lower")
