"""One picture of a simulated data set: for each class the clean density and one particle at every SNR."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.files import atomic_path
from loader.columns import snr_code, snr_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 48  # rows that still make a picture
MOST_ROWS = 12  # classes below each other; more go beside them, in columns of one length
PANEL = 1.15  # inches


@dataclass(frozen=True)
class Shown:
    """What the sheet shows of C classes at S SNRs."""

    names: Sequence[str]  # of the classes
    densities: np.ndarray  # (C, D, H, W), clean
    volumes: np.ndarray  # (C, S, D, H, W), one particle of each class at each SNR
    masks: np.ndarray  # (C, D, H, W), of that particle; its outline is drawn on the last SNR's slice
    snr: Sequence[float]  # the S values


def contact_sheet(path: Path, sheet: Shown, voxel_size: float) -> None:
    """Draw the sheet and write it as a PNG; the voxel size, in A, is for its title."""
    from matplotlib.figure import Figure  # slow to import, and needed here alone

    names, densities, volumes, masks, snr = sheet.names, sheet.densities, sheet.volumes, sheet.masks, sheet.snr
    shown = min(len(names), MOST_CLASSES)
    blocks = -(-shown // MOST_ROWS)
    rows = -(-shown // blocks)
    columns = 2 + len(snr)
    size = (blocks * (columns + 0.7) * PANEL, (rows + 0.75) * PANEL)
    figure = Figure(figsize=size, layout="constrained")
    side = densities.shape[-1]
    grids = np.atleast_1d(figure.subfigures(1, blocks))
    for block, part in enumerate(grids):
        axes = part.subplots(rows, columns, squeeze=False)
        titles = ["density,\nprojected", "density,\nslice", *(snr_text(snr_code(value)) for value in snr)]
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title, fontsize=9)
        for row in range(rows):
            label = block * rows + row
            for axis in axes[row]:
                axis.set_xticks([])
                axis.set_yticks([])
            if label >= shown:
                for axis in axes[row]:
                    axis.axis("off")
                continue
            axes[row, 0].set_ylabel(names[label], fontsize=9)
            at = _fullest(masks[label])
            density = densities[label]
            _show(axes[row, 0], density.sum(axis=0), 0, density.sum(axis=0).max())
            _show(axes[row, 1], density[_fullest(density > density.max() / 2)], 0, density.max())
            for axis, picture in zip(axes[row, 2:], volumes[label][:, at], strict=True):
                _show(axis, picture, *np.percentile(picture, (0.5, 99.8)))
            if masks[label][at].any():
                axes[row, -1].contour(masks[label][at], levels=[0.5], colors="tab:orange", linewidths=0.8)
    note = f"{shown} of {len(names)} classes; " if shown < len(names) else ""
    figure.suptitle(f"{note}{side}³ voxels of {voxel_size:g} Å; slices across z, through the particle", fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})


def _show(axis: "Axes", picture: np.ndarray, low: float, high: float) -> None:
    axis.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-9), origin="lower")


def _fullest(mask: np.ndarray) -> int:
    """The z of the slice (y, x) that has most of the particle."""
    return int(mask.sum(axis=(1, 2)).argmax())
