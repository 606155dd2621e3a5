"""Augmentation of batches (N, 1, D, H, W) on their own device.

What is random is drawn beforehand for all samples of an epoch, on the CPU, and applied to whatever batch holds them: it
depends on the seed, the epoch and the sample alone.
"""

import torch
import torch.nn.functional as F

from physics.filters import crop_inverse, padded_side, wedge
from physics.pose import random_rotations, rotation_matrices

WEDGE_PADDING = 1.5  # side of the padded box in which the missing wedge is cut out, over the box's

# 180 degrees about z, y and x: each reverses the two other axes of (N, C, z, y, x). They keep a wedge that is symmetric
# about its tilt axis and, unlike a mirror, the handedness of a protein.
HALF_TURNS = {"z": (3, 4), "y": (2, 4), "x": (2, 3)}


def safe_half_turns(tilt_min: float | None, tilt_max: float | None, tilt_axis: str = "y") -> tuple[str, ...]:
    """The half turns that keep the missing wedge of a tilt range (degrees) in place.

    All three for a symmetric range; the one about the tilt axis for an asymmetric one; none where it is unknown.
    """
    if tilt_min is None or tilt_max is None:
        return ()
    return tuple(HALF_TURNS) if abs(tilt_min + tilt_max) < 1e-6 else (tilt_axis,)


def draw_shifts(count: int, largest: int, generator: torch.Generator) -> torch.Tensor:
    """Shifts of `count` samples along (z, y, x), whole voxels, uniform in -largest ... largest: (count, 3) int64."""
    return torch.randint(-largest, largest + 1, (count, 3), generator=generator)


def apply_shifts(volumes: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Shift each volume of (N, 1, D, H, W) by `shifts` (N, 3), (z, y, x) in voxels; what leaves comes in opposite.

    A shift changes phases only, so the missing wedge and the noise's spectrum stay as they are.
    """
    places = [torch.arange(size, device=volumes.device) for size in volumes.shape[2:]]
    z, y, x = ((place - shift[:, None]) % len(place) for place, shift in zip(places, shifts.T, strict=True))  # (N, D)
    sample = torch.arange(len(volumes), device=volumes.device)[:, None, None, None]
    shifted = volumes[:, 0][sample, z[:, :, None, None], y[:, None, :, None], x[:, None, None, :]]
    return shifted[:, None]


def draw_half_turns(count: int, turns: tuple[str, ...], generator: torch.Generator) -> torch.Tensor:
    """For each of `count` samples 0 (as it is) or 1 + the index of a turn in `turns`, uniformly: (count,) int64."""
    return torch.randint(len(turns) + 1, (count,), generator=generator)


def apply_half_turns(volumes: torch.Tensor, choice: torch.Tensor, turns: tuple[str, ...]) -> torch.Tensor:
    """Turn each volume of (N, 1, D, H, W) about the centre of its box as `choice` (N,) says; a new tensor.

    `choice` is on the CPU, wherever the volumes are: to look for a number in it waits for no device.
    """
    turned = volumes.clone()
    for number, axis in enumerate(turns, start=1):
        chosen = (choice == number).nonzero().squeeze(1).to(volumes.device, non_blocking=True)
        turned[chosen] = volumes[chosen].flip(HALF_TURNS[axis])
    return turned


def draw_noise(count: int, generator: torch.Generator) -> torch.Tensor:
    """For each of `count` samples the seed of its noise: (count,) int64."""
    return torch.randint(2**31, (count,), generator=generator)


def apply_noise(volumes: torch.Tensor, seeds: torch.Tensor, largest: float) -> torch.Tensor:
    """Add white noise, its standard deviation uniform in 0 ... `largest`, to each volume of (N, 1, D, H, W).

    The seeds (N,) say which. Volumes of variance 1 keep it: they are divided by the root of 1 + variance of the noise.
    """
    noise, level = torch.empty_like(volumes), torch.empty(len(volumes), device=volumes.device)
    generator = torch.Generator(volumes.device)
    for row, seed in enumerate(seeds.tolist()):
        generator.manual_seed(seed)
        level[row] = largest * torch.rand((), generator=generator, device=volumes.device)
        noise[row].normal_(generator=generator)
    level = level[:, None, None, None, None]
    return (volumes + level * noise) / (1 + level**2).sqrt()


def draw_rotations(count: int, generator: torch.Generator) -> torch.Tensor:
    """Quaternions (count, 4) as w, x, y, z, uniform on the rotation group."""
    return random_rotations(count, generator)


def apply_rotations(volumes: torch.Tensor, quaternions: torch.Tensor, tilt_range: tuple[float, float]) -> torch.Tensor:
    """Turn each volume of (N, 1, D, H, W) about the centre of its box, and cut the missing wedge out again.

    The wedge that the volume came with turns along, so that the result lacks both: information is lost, and its noise
    is no longer that of a tomogram. What turns in from outside of the box is 0, the mean.

    Args:
        quaternions: (N, 4) as w, x, y, z, acting on (x, y, z).
        tilt_range: of the data, degrees, about y.
    """
    side = volumes.shape[-1]
    inverse = rotation_matrices(quaternions.to(volumes)).transpose(1, 2)  # (N, 3, 3)
    grid = F.affine_grid(F.pad(inverse, (0, 1)), list(volumes.shape), align_corners=True)  # points (x, y, z)
    turned = F.grid_sample(volumes, grid, align_corners=True)[:, 0]
    padded = padded_side(side, WEDGE_PADDING)
    spectrum = torch.fft.rfftn(turned, s=(padded,) * 3, dim=(1, 2, 3)) * wedge(padded, *tilt_range).to(volumes.device)
    cut = crop_inverse(spectrum, side)[:, None]
    mean, std = cut.mean(dim=(2, 3, 4), keepdim=True), cut.std(dim=(2, 3, 4), correction=0, keepdim=True)
    return (cut - mean) / std.clamp_min(1e-6)
