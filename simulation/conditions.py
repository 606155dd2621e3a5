"""Imaging drawn at random: the ranges that the microscopes and scenes of the world lie in, and what lies outside."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import NamedTuple

import torch

from physics.imaging import Imaging

Range = tuple[float, float]
TILT_SLACK = 2.0  # degrees by which a tilt range may lie outside before it is said


class Condition(NamedTuple):
    """What a few particles of one tomogram share."""

    imaging: Imaging
    one_level: bool = False  # one noise level for all of them, whatever their size; else each has its own SNR
    membranes: float = 0.0  # share of the particles with a piece of membrane beside them
    beads: float = 0.0  # share with a gold bead beside them
    noise_power: tuple[float, ...] = ()  # of the noise, as `physics.filters.radial_power`; empty: the imaging's


@dataclass(frozen=True)
class ImagingRanges:
    """The ranges that imaging is drawn from, uniformly where nothing else is said. Shares are 0 to 1."""

    defocus: Range = (2.0, 8.0)  # um of underfocus
    tilt: Range = (40.0, 68.0)  # degrees, the largest tilt to either side
    lopsided: float = 0.3  # share with another largest tilt on the other side
    no_envelope: float = 0.3  # share without an envelope
    envelope: Range = (0.25, 1.5)  # of Nyquist, where there is one; log-uniform
    no_band_limit: float = 0.4  # share without a band limit
    band_limit: Range = (0.5, 0.99)  # of Nyquist, where there is one; as often in the sphere as in the cube
    band_edge: Range = (0.05, 0.3)  # share of the band limit
    amplitude_contrast: Range = (0.0, 0.14)
    noise_through_ctf: Range = (0.0, 1.0)  # share of the noise's variance
    white: float = 0.5  # share whose noise has no colour
    noise_colour: Range = (0.0, 1.0)  # where it has
    b_factor: Range = (-1000.0, 2000.0)  # A^2, for voxels of 10 A; it goes with the square of the voxel size
    neighbours: int = 4  # at most
    shift: float = 4.0  # voxels, largest along each axis
    voxel_size_error: float = 0.05  # share by which the voxel size may be off to either side
    one_level: float = 0.5  # share of groups with one noise level for all their particles
    membranes: float = 0.1  # share of the particles with a piece of membrane beside them
    beads: float = 0.05  # share of the particles with a gold bead beside them
    tilt_series: float = 0.0  # share imaged as a tilt series: single views, dose, back-projection
    tilt_step: Range = (2.0, 4.0)  # degrees between the views of such a series
    dose: Range = (60.0, 160.0)  # e/A^2 in total of such a series

    def draw(self, base: Imaging, generator: torch.Generator) -> Condition:
        """A condition; what has no range is as in `base`. The generator is on the CPU."""

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * torch.rand((), generator=generator).item()

        def happens(share: float) -> bool:
            return uniform(0, 1) < share

        right, left = uniform(*self.tilt), uniform(*self.tilt)
        low, high = self.envelope
        envelope = low * (high / low) ** uniform(0, 1)
        defocus, size = (
            uniform(*self.defocus),
            base.voxel_size * (1 + uniform(-self.voxel_size_error, self.voxel_size_error)),
        )
        imaging = replace(
            base,
            voxel_size=size,
            tilt_max=right,
            tilt_min=-left if happens(self.lopsided) else -right,
            defocus=(defocus, defocus),
            envelope=float("inf") if happens(self.no_envelope) else envelope,
            band_limit=1.0 if happens(self.no_band_limit) else uniform(*self.band_limit),
            band_shape="cube" if happens(0.5) else "sphere",
            band_edge=uniform(*self.band_edge),
            amplitude_contrast=uniform(*self.amplitude_contrast),
            noise_through_ctf=uniform(*self.noise_through_ctf),
            noise_colour=0.0 if happens(self.white) else uniform(*self.noise_colour),
            b_factor=uniform(*self.b_factor) * (base.voxel_size / 10) ** 2,
            neighbours=int(uniform(0, self.neighbours + 1)),
            shift=self.shift,
        )
        one_level = happens(self.one_level)
        if self.tilt_series and happens(self.tilt_series):
            imaging = replace(imaging, tilt_step=uniform(*self.tilt_step), dose=uniform(*self.dose))
        return Condition(imaging, one_level, self.membranes, self.beads)

    @classmethod
    def around(cls, imaging: Imaging, tilt: tuple[float, ...] = ()) -> "ImagingRanges":
        """The ranges that hold one imaging alone; `tilt`, if any, is that of the largest tilt to both sides."""
        tilts = tilt or sorted((abs(imaging.tilt_min), abs(imaging.tilt_max)))
        same = {
            name: (getattr(imaging, name),) * 2
            for name in ("envelope", "band_limit", "band_edge", "amplitude_contrast", "noise_through_ctf")
        }
        return cls(
            **same,
            defocus=imaging.defocus,
            tilt=(tilts[0], tilts[1]),
            lopsided=float(not tilt and tilts[0] != tilts[1]),
            no_envelope=float(math.isinf(imaging.envelope)),
            no_band_limit=float(imaging.band_limit == 1),
            white=float(imaging.noise_colour == 0),
            noise_colour=(imaging.noise_colour,) * 2,
            b_factor=(imaging.b_factor,) * 2,
            neighbours=imaging.neighbours,
            shift=imaging.shift,
            voxel_size_error=0.0,
            one_level=float(imaging.common_noise),
            membranes=0.0,
            beads=0.0,
        )

    @classmethod
    def read(cls, content: dict) -> "ImagingRanges":
        """From a checkpoint's record; what else it holds is left."""
        known = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in known.items()})

    def content(self) -> dict:
        """For a checkpoint: plain types alone."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def imaging_warning(
    ranges: ImagingRanges, trained_on: float, voxel_size: float | None, tilt_range: tuple[float, float] | None
) -> str:
    """What of some data lies outside of the imaging that a network has seen; empty where nothing is known to.

    Args:
        trained_on: voxel size of the training volumes, A, to which data are resampled.
        voxel_size: of the data as they came, A; None where unknown. Coarser voxels are as a lower band limit.
        tilt_range: of the data, degrees; None where unknown.
    """
    found = []
    lowest = 1.0 if ranges.no_band_limit == 1 else ranges.band_limit[0]
    coarsest = trained_on * (1 + ranges.voxel_size_error) / lowest
    if voxel_size and voxel_size > coarsest * 1.01:
        found.append(f"voxels of {voxel_size:g} A: training had detail as of {coarsest:g} A at the coarsest")
    if tilt_range:
        low, high = ranges.tilt
        left, right = abs(tilt_range[0]), abs(tilt_range[1])
        given = f"tilts of {tilt_range[0]:g} to {tilt_range[1]:g} degrees"
        if min(left, right) < low - TILT_SLACK or max(left, right) > high + TILT_SLACK:
            wanted = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            found.append(f"{given}: training had largest tilts of {wanted}")
        elif abs(left - right) > TILT_SLACK and not ranges.lopsided:
            found.append(f"{given}: training had none that differ from side to side")
    return "; ".join(found)


def outside_training(config: dict, voxel_size: float | None, tilt_ranges: Iterable[tuple[float, float]] = ()) -> str:
    """The same for a checkpoint's configuration and all tilt ranges of some data, as a warning.

    Empty for a checkpoint that does not say the imaging of its training.
    """
    record = config.get("imaging")
    if not record:
        return ""
    ranges, trained_on = ImagingRanges.read(record), record["voxel_size"]
    found = [imaging_warning(ranges, trained_on, voxel_size, None)]
    found += [imaging_warning(ranges, trained_on, None, tilt_range) for tilt_range in tilt_ranges]
    found = [text for text in found if text]
    return f"imaging that training did not have, so thresholds may not hold: {'; '.join(found)}" if found else ""
