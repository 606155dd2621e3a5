"""Augmentation of batches (N, 1, D, H, W) on their own device."""

import torch

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
    """Turn each volume of (N, 1, D, H, W) about the centre of its box as `choice` (N,) says; a new tensor."""
    turned = volumes.clone()
    for number, axis in enumerate(turns, start=1):
        chosen = (choice == number).nonzero().squeeze(1)
        turned[chosen] = volumes[chosen].flip(HALF_TURNS[axis])
    return turned
