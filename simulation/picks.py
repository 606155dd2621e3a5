"""What is written beside simulated tomograms: picks and tomograms as RELION 5 has them, and the truth apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from loader.columns import LABEL, POSITION, SOURCE_ROW, TOMOGRAM
from loader.flavours import CENTRED
from physics.imaging import Imaging
from simulation.tomogram import JUNK, Scene

if TYPE_CHECKING:
    import pandas as pd

JUNK_NAME = "junk"  # the label of a pick of nothing
PICKS_FILE, TOMOGRAMS_FILE, TRUTH_FILE = "particles.star", "tomograms.star", "truth.csv"


def picks_table(name: str, places: torch.Tensor, size: tuple[int, int, int], voxel_size: float) -> pd.DataFrame:
    """Rows of data_particles for picks at places (P, 3) = (z, y, x) in voxels: A from the centre, size / 2."""
    import pandas as pd

    centred = (places.double() - torch.tensor(size) / 2) * voxel_size
    columns = {label: [f"{value:.4f}" for value in centred[:, 2 - axis]] for axis, label in enumerate(CENTRED)}
    return pd.DataFrame({"rlnTomoName": name, **columns}, dtype=str)


def tomograms_table(
    names: Sequence[str], files: Sequence[str], size: tuple[int, int, int], imaging: Imaging
) -> pd.DataFrame:
    """RELION's tomograms.star: the voxels count as those of the tilt series, not binned."""
    import pandas as pd

    voxel_size = f"{imaging.voxel_size:g}"
    same = {
        "rlnVoltage": f"{imaging.voltage:g}",
        "rlnSphericalAberration": f"{imaging.cs:g}",
        "rlnAmplitudeContrast": f"{imaging.amplitude_contrast:g}",
        "rlnTomoTiltSeriesPixelSize": voxel_size,
        "rlnTomoTomogramBinning": "1",
        **{f"rlnTomoSize{axis}": str(length) for axis, length in zip("XYZ", size[::-1], strict=True)},
    }
    return pd.DataFrame({"rlnTomoName": names, **same, "rlnTomoReconstructedTomogram": files}, dtype=str)


def truth_table(name: str, scene: Scene, first_row: int, classes: Sequence[str], voxel_size: float) -> pd.DataFrame:
    """What each pick is: one row per row of the STAR file, from `first_row` on.

    The class or `junk`; the place of the complex, not of the pick, in A from the centre of the first voxel; its
    rotation as simulate.py's particles.csv has it, empty for junk.
    """
    import pandas as pd

    labels = scene.labels[: scene.picks].tolist()
    turns = scene.quaternions[: scene.picks].tolist()
    places = (scene.places[: scene.picks].double() * voxel_size).numpy()
    text = ["" if label == JUNK else " ".join(f"{v:.6f}" for v in q) for label, q in zip(labels, turns, strict=True)]
    return pd.DataFrame(
        {
            TOMOGRAM: name,
            SOURCE_ROW: range(first_row, first_row + scene.picks),
            LABEL: [JUNK_NAME if label == JUNK else classes[label] for label in labels],
            **{column: places[:, axis].round(3) for axis, column in enumerate(POSITION)},
            "Quaternion": text,
        }
    )
