"""One picture of simulated tomograms: a slab of each through its middle, and the picks in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.files import atomic_path

MOST_SLABS = 4  # tomograms in the picture
SLAB = 3  # voxels above and below the middle that are averaged
INCHES = 7  # width of a slab's panel


@dataclass(frozen=True)
class Slab:
    """Of one tomogram."""

    name: str
    picture: np.ndarray  # (Y, X), the mean over z
    picks: np.ndarray  # (P, 2) = (y, x) in voxels
    is_junk: np.ndarray  # (P,), picks of nothing


def tomogram_sheet(path: Path, slabs: Sequence[Slab], box: int, voxel_size: float) -> None:
    """Draw the slabs and write them as a PNG; the picks are circles a half of `box`, in voxels, across."""
    from matplotlib.collections import EllipseCollection  # slow to import, and needed here alone
    from matplotlib.figure import Figure

    height, width = slabs[0].picture.shape
    size = len(slabs) * INCHES, INCHES * height / width + 0.5
    figure = Figure(figsize=size, layout="constrained")
    for axis, slab in zip(figure.subplots(1, len(slabs), squeeze=False)[0], slabs, strict=True):
        low, high = np.percentile(slab.picture, (0.5, 99.5))
        axis.imshow(slab.picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-9), origin="lower")
        for chosen, colour in ((~slab.is_junk, "tab:orange"), (slab.is_junk, "tab:cyan")):
            around = {"widths": box / 2, "heights": box / 2, "angles": 0, "units": "xy", "facecolors": "none"}
            offsets = {"offsets": slab.picks[chosen][:, ::-1], "offset_transform": axis.transData}
            axis.add_collection(EllipseCollection(**around, **offsets, edgecolors=colour))
        axis.set_title(f"{slab.name}: {2 * SLAB + 1} slices in the middle, picks of complexes and of nothing (blue)")
        axis.set_xlabel(f"x, voxels of {voxel_size:g} Å")
        axis.set_ylabel("y")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png", metadata={"Software": None})
