"""Named sets of simulate.py's options, `--set NAME`: the kinds of imaging that every network is evaluated under.

Where a set is silent, simulate.py's defaults hold. `series` and `other` are for evaluation: what is trained on, or
chosen by, must not resemble them.
"""

import math
from typing import Any

from physics.imaging import Imaging

SETS: dict[str, dict[str, Any]] = {
    "benchmark": {"imaging": Imaging(envelope=math.inf)},
    "lab": {"imaging": Imaging(envelope=0.4, snr_convention="lab")},
    # Boxes that hold more than their particle, badly centred, at an unknown defocus; some complexes leave the box.
    "hard": {"imaging": Imaging(envelope=math.inf, neighbours=4, shift=4.0, defocus=(3.0, 7.0)), "crop": True},
    # A real tilt series, every view with its own dose, back-projected, under a smaller defocus.
    "series": {"imaging": Imaging(envelope=math.inf, tilt_step=3.0, dose=100.0, defocus=(2.5, 4.0))},
    # Another density, rotation, contrast transfer and noise, all of simulation/other.py's own.
    "other": {
        "imaging": Imaging(envelope=math.inf, defocus=(4.0, 4.0), cs=2.7, amplitude_contrast=0.1),
        "independent": True,
    },
}
