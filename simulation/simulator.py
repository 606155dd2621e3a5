"""From density to subtomogram: pose, neighbours, contrast transfer, missing wedge and noise; batched, on any device.

A volume is (z, y, x). Rotations act on (x, y, z) about the centre of the volume, (side - 1) / 2 in voxels; the tilt
axis is y and the beam of the untilted microscope z.
"""

from copy import copy
from math import ceil, floor
from typing import NamedTuple

import torch
import torch.nn.functional as F

from physics.filters import (
    crop_inverse,
    ctf,
    geometry,
    noise_filter,
    noise_variance,
    padded_side,
    sharpness,
    transfer,
    white_spectrum,
)
from physics.imaging import Imaging
from physics.pose import Poses, pose, posing_grid, random_rotations
from simulation.crowd import Crowd, draw_crowd, outline, scene
from simulation.tilt_series import TiltSeries

MASK_LEVEL = 0.3  # of the density of solid protein: inside from there on


class Imaged(NamedTuple):
    """What the microscope makes of particles, before any noise."""

    alone: torch.Tensor  # (N, D, H, W): the targets through the microscope, to which the SNR refers
    signal: torch.Tensor  # (N, D, H, W): with their neighbours
    noise_filter: torch.Tensor  # as `Simulator.noise` takes it


class Simulated(NamedTuple):
    """A batch of subtomograms."""

    volumes: torch.Tensor  # (N, 1, D, H, W) float32
    masks: torch.Tensor  # (N, 1, D, H, W) bool: where the target is
    poses: Poses


def draw_poses(n: int, imaging: Imaging, generator: torch.Generator | None, device: torch.device | str) -> Poses:
    """Uniform rotations, shifts uniform in a cube, defocus uniform in its range."""
    shifts = (2 * torch.rand(n, 3, generator=generator, device=device) - 1) * imaging.shift
    low, high = imaging.defocus
    defocus = low + (high - low) * torch.rand(n, generator=generator, device=device)
    return Poses(random_rotations(n, generator, device), shifts, defocus)


class Simulator:
    """Draws subtomograms of a set of densities (C, D, H, W); keeps what all batches share.

    `others` (K, D, H, W) are the complexes that neighbours are drawn from; without them it is the densities themselves.
    `common_variance` is that of the mean class, where the imaging has one noise level for all; by default the mean is
    over these densities. `side` is that of the volumes, where it is more than that of the densities by an even number.
    """

    def __init__(
        self,
        densities: torch.Tensor,
        imaging: Imaging,
        others: torch.Tensor | None = None,
        common_variance: torch.Tensor | None = None,
        side: int | None = None,
    ):
        imaging.check()
        self.imaging, self.side, self.device = imaging, side or densities.shape[-1], densities.device
        self.scale, self.voxel_size = 1.0, imaging.voxel_size  # how much larger than the densities', on which voxels
        self.padded = padded_side(self.side, imaging.padding)
        self.shared = geometry(self.padded, imaging, self.device)
        self.series = self._series()
        self.fine = posing_grid(densities)
        self.inner = [inner_side(density, imaging.shift, self.side) for density in densities]
        self.outlines = outline(densities, MASK_LEVEL)
        if imaging.neighbours:
            others = densities if others is None else others
            self.other_outlines = outline(others, MASK_LEVEL)
            self.other_fine = self.fine if others is densities else posing_grid(others)
            self.other_inner = max(inner_side(other, shift=0.5) for other in others)
        self.common_variance = common_variance
        if imaging.common_noise and common_variance is None:
            self.common_variance = self._mean_variance()

    def under(self, imaging: Imaging) -> "Simulator":
        """The same densities under other conditions; little is computed again but the filters, a common noise stays.

        For training in the loop, which may change them with every batch. On other voxels the targets are that much
        larger or smaller; their neighbours keep their size.

        Raises ValueError for neighbours where there were none.
        """
        imaging.check()
        if imaging.neighbours and not self.imaging.neighbours:
            raise ValueError("neighbours where there were none need a new Simulator")
        other = copy(self)
        other.imaging, other.scale = imaging, self.voxel_size / imaging.voxel_size
        grown = ceil(imaging.shift - self.imaging.shift) + ceil(self.side / 2 * max(0.0, other.scale - self.scale))
        other.padded = padded_side(self.side, imaging.padding)
        other.shared = geometry(other.padded, imaging, self.device)
        other.series = other._series()
        other.inner = [min(self.side, inner + 2 * grown) for inner in self.inner]
        if not imaging.common_noise:
            other.common_variance = None
        elif other.common_variance is None:
            other.common_variance = other._mean_variance()
        return other

    def draw(self, labels: torch.Tensor, generator: torch.Generator | None) -> tuple[Poses, Crowd | None]:
        """What is random about particles (N,), beside their noise; the generator lives on the labels' device."""
        poses = draw_poses(len(labels), self.imaging, generator, labels.device)
        if not self.imaging.neighbours:
            return poses, None
        outlines = self.outlines.to(labels.device), self.other_outlines.to(labels.device)
        target = outlines[0][labels]
        return poses, draw_crowd(
            target, poses.quaternions, poses.shifts, outlines[1], self.imaging.neighbours, generator
        )

    def pose(self, labels: torch.Tensor, poses: Poses, largest: int | None = None) -> torch.Tensor:
        """The densities (N, D, H, W) of particles in their poses; naming the largest among them may save time."""
        inner = max(self.inner) if largest is None else self.inner[largest]
        posed = pose(self.fine, labels, poses.quaternions, poses.shifts, inner, self.scale)
        return F.pad(posed, [(self.side - inner) // 2] * 6)

    def filters(self, defocus: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the signal and of noise of variance 1, N = 1 where all defocus are one.

        Each (N, P, P, P // 2 + 1), on the padded box or, with a tilt series, (N, T, P, P // 2 + 1) on its views.
        """
        low, high = self.imaging.defocus
        defocus = defocus[:1] if low == high else defocus
        if self.series:
            views = self.series.k
            contrast = ctf(views.flatten(), defocus, self.imaging).reshape(len(defocus), 1, *views.shape)
            return contrast * self.series.fading, self.series.noise_filter(
                contrast.expand(-1, len(self.series.angles), -1, -1)
            )
        target = transfer(defocus, self.shared, self.imaging)
        spectrum = noise_filter(target, self.shared, self.imaging)
        return target * sharpness(self.shared, self.imaging) if self.imaging.b_factor else target, spectrum

    def image(
        self, posed: torch.Tensor, defocus: torch.Tensor, crowd: Crowd | None, beside: torch.Tensor | None = None
    ) -> Imaged:
        """Particles as the microscope shows them without noise.

        Args:
            posed: (N, D, H, W), as `pose` gives them; defocus: (N,) um.
            crowd: the neighbours, if any.
            beside: (N, W, W, W), W = `wide_side`: densities of other things around.
        """
        target, spectrum = self.filters(defocus)
        alone = self.signal(posed, target)
        around = crowd and scene(self.other_fine, crowd, self.other_inner, self.wide_side)
        if beside is not None:
            around = beside if around is None else around + beside
        if around is None:
            return Imaged(alone, alone, spectrum)
        rows = around.flatten(1).any(dim=1).nonzero().squeeze(1)  # (R,): those that have anything around
        signal = alone.clone()
        if len(rows):
            signal[rows] += self.wide_signal(around[rows], target[rows] if len(target) > 1 else target)
        return Imaged(alone, signal, spectrum)

    def signal(self, posed: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """What the microscope makes of densities (N, D, H, W) without noise."""
        if self.series:
            return self.series.back_project(self.series.project(posed) * target)
        spectrum = torch.fft.rfftn(posed, s=(self.padded,) * 3, dim=(1, 2, 3))
        return crop_inverse(spectrum * target, self.side)

    @property
    def wide_side(self) -> int:
        """Side of a box about the volumes' from which things reach in, voxels."""
        return self.padded - (self.padded - self.side) % 2

    def wide_signal(self, around: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """What the microscope makes of densities (N, W, W, W), W = `wide_side`, within the volumes' box."""
        before = (around.shape[-1] - self.side) // 2
        if self.series:
            return self.signal(F.pad(around, [-before] * 6), target)
        around = F.pad(around, [0, self.padded - around.shape[-1]] * 3)
        return self.signal(around.roll((-before,) * 3, dims=(1, 2, 3)), target)

    def white(self, n: int, generator: torch.Generator | None) -> torch.Tensor:
        """The spectra of white noise that `noise` takes, n of them, on the generator's device."""
        device = generator.device if generator else self.device
        if self.series:
            return self.series.white(n, generator, device)
        return white_spectrum(n, self.padded, generator, device)

    def noise(self, white: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """Noise (N, D, H, W) of variance 1, from white spectra and the filter's amplitude."""
        if self.series:
            return self.series.back_project(white * spectrum)
        return crop_inverse(white * spectrum, self.side) * self.padded**1.5

    def noise_level(self, signal: torch.Tensor, snr: torch.Tensor | float) -> torch.Tensor:
        """The noise's standard deviation (N, 1, 1, 1) for the targets' signals (N, D, H, W)."""
        variance = self.common_variance
        if variance is None:
            variance = signal.var(dim=(1, 2, 3), correction=0)
        level = noise_variance(variance, snr, self.imaging.snr_convention).sqrt()
        return level.expand(len(signal))[:, None, None, None]

    def _series(self) -> TiltSeries | None:
        imaging = self.imaging
        if not imaging.tilt_step:
            return None
        tilts = imaging.tilt_min, imaging.tilt_max, imaging.tilt_step
        return TiltSeries(tilts, imaging.dose, imaging.voxel_size, self.side, self.padded, self.device)

    def _mean_variance(self) -> torch.Tensor:
        """The mean over classes of the signal's variance, each in the same few poses."""
        poses = draw_poses(8, self.imaging, torch.Generator().manual_seed(0), "cpu")
        poses = Poses(*(part.to(self.device) for part in poses))
        target, _ = self.filters(poses.defocus)
        labels = torch.arange(len(self.fine), device=self.device)
        variances = [self.signal(self.pose(label.expand(8), poses), target).var(dim=(1, 2, 3)) for label in labels]
        return torch.stack(variances).mean()

    def __call__(self, labels: torch.Tensor, snr: torch.Tensor, generator: torch.Generator | None) -> Simulated:
        """A batch: labels (N,), SNR (N,), inf for no noise; the generator lives on the densities' device."""
        poses, crowd = self.draw(labels, generator)
        posed = self.pose(labels, poses)
        image = self.image(posed, poses.defocus, crowd)
        white = self.white(len(labels), generator)
        volumes = image.signal + self.noise_level(image.alone, snr) * self.noise(white, image.noise_filter)
        return Simulated(volumes[:, None], (posed > MASK_LEVEL)[:, None], poses)


def simulate(
    densities: torch.Tensor,
    labels: torch.Tensor,
    snr: torch.Tensor,
    imaging: Imaging,
    generator: torch.Generator | None = None,
) -> Simulated:
    """Subtomograms of random pose, one a label; for many batches of the same densities keep a `Simulator`.

    Args:
        densities: (C, D, H, W), free of detail beyond Nyquist, as simulation.structures makes them.
        labels: (N,) long, which density; snr: (N,), inf for no noise.
        imaging: the physics.
        generator: on the densities' device.
    """
    return Simulator(densities, imaging)(labels, snr, generator)


def inner_side(density: torch.Tensor, shift: float, most: int | None = None) -> int:
    """Side of the cube that holds a density (D, H, W), but for faint ripples, however turned and shifted.

    At most `most`, D by default; even where D is even.
    """
    side = density.shape[-1]
    offset = torch.arange(side, device=density.device) - (side - 1) / 2
    distance = (offset[:, None, None] ** 2 + offset[:, None] ** 2 + offset**2).sqrt()
    faint = density.abs() <= 0.01 * density.max()
    radius = distance.masked_fill(faint, 0).max().item() + 1 + shift
    return side - 2 * max((side - (most or side)) // 2, floor((side - 1) / 2 - radius))
