"""Imaging drawn at random: the ranges that the microscopes and scenes of the world lie in."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from physics.imaging import Imaging

Range = tuple[float, float]


class Condition(NamedTuple):
    """What a few particles of one tomogram share."""

    imaging: Imaging
    one_level: bool = False  # one noise level for all of them, whatever their size; else each has its own SNR
    membranes: float = 0.0  # share of the particles with a piece of membrane beside them
    beads: float = 0.0  # share with a gold bead beside them


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
    voxel_size: float = 0.05  # share by which the voxel size may be off to either side
    one_level: float = 0.5  # share of groups with one noise level for all their particles
    membranes: float = 0.1  # share of the particles with a piece of membrane beside them
    beads: float = 0.05  # share of the particles with a gold bead beside them

    def draw(self, base: Imaging, generator: torch.Generator) -> Condition:
        """A condition; what has no range is as in `base`. The generator is on the CPU."""

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * torch.rand((), generator=generator).item()

        def happens(share: float) -> bool:
            return uniform(0, 1) < share

        right, left = uniform(*self.tilt), uniform(*self.tilt)
        low, high = self.envelope
        envelope = low * (high / low) ** uniform(0, 1)
        defocus, size = uniform(*self.defocus), base.voxel_size * (1 + uniform(-self.voxel_size, self.voxel_size))
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
        return Condition(imaging, happens(self.one_level), self.membranes, self.beads)
