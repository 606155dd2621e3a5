"""Turning and shifting densities: uniform rotations, and reading a volume at rotated points without aliasing.

A volume is (z, y, x). Rotations act on (x, y, z) about the centre of the volume, (side - 1) / 2 in voxels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

FINENESS = 2  # samples a voxel of the grid that rotations read from
CHUNK = 32  # densities refined at once: the complex spectra take 16 times the room of the result's input


class Poses(NamedTuple):
    """What is drawn for each particle, beside the noise."""

    quaternions: torch.Tensor  # (N, 4) as w, x, y, z: turns the reference density into the particle
    shifts: torch.Tensor  # (N, 3) as x, y, z in voxels, after the rotation
    defocus: torch.Tensor  # (N,), um


def random_rotations(
    n: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Quaternions (N, 4) as w, x, y, z, uniform on the rotation group."""
    return F.normalize(torch.randn(n, 4, generator=generator, device=device), dim=1)


def rotation_matrices(quaternions: torch.Tensor) -> torch.Tensor:
    """Unit quaternions (N, 4) as w, x, y, z -> matrices (N, 3, 3) that turn column vectors (x, y, z)."""
    w, x, y, z = quaternions.unbind(1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def posing_grid(densities: torch.Tensor) -> torch.Tensor:
    """Densities on a grid FINENESS times as fine, by zero padding in Fourier space: (C, D, H, W) -> (C, 2D, 2H, 2W).

    `pose` reads it by trilinear interpolation, whose fall-off sinc(f)^2 is divided out here. The densities end below
    Nyquist, so that neither the reading nor the return to whole voxels aliases.
    """
    return torch.cat([_posing_grid(part) for part in densities.split(CHUNK)])


def _posing_grid(densities: torch.Tensor) -> torch.Tensor:
    side = densities.shape[-1]
    fine = FINENESS * side
    spectrum = torch.fft.fftn(densities, dim=(1, 2, 3))
    frequency = torch.fft.fftfreq(side, device=densities.device)
    for dim in (1, 2, 3):
        shape = [1, 1, 1, 1]
        shape[dim] = side
        spectrum = spectrum / (torch.sinc(frequency / FINENESS) ** 2).reshape(shape)
    wide = spectrum.new_zeros(len(densities), fine, fine, fine)
    at = torch.fft.fftfreq(side, 1 / side, device=densities.device).long() % fine
    wide[:, at[:, None, None], at[None, :, None], at] = spectrum
    return torch.fft.ifftn(wide, dim=(1, 2, 3)).real.contiguous() * FINENESS**3


def pose(
    fine: torch.Tensor,
    labels: torch.Tensor,
    quaternions: torch.Tensor,
    shifts: torch.Tensor,
    side: int,
    scale: float = 1.0,
) -> torch.Tensor:
    """Densities turned and shifted.

    Args:
        fine: (C, 2D, 2H, 2W), of `posing_grid`.
        labels: (N,), which density each particle has.
        quaternions, shifts: as `Poses`.
        side: of the box to fill, voxels; larger than D where the surroundings matter.
        scale: how many times as large the densities become, about their centres.

    Returns:
        (N, side, side, side).
    """
    last = fine.shape[-1] - 1
    turn = rotation_matrices(quaternions)
    offset = (torch.arange(side, device=fine.device) - (side - 1) / 2) * FINENESS * 2 / last  # grid_sample's unit
    moved = torch.einsum("ni,nij->nj", shifts, turn) * FINENESS * 2 / last
    origin = (last + 1 - FINENESS) / last - 1 - moved / scale  # (N, 3)
    offset = offset / scale
    # Of each point (x, y, z) the inverse rotation, R^T p = x R[0] + y R[1] + z R[2].
    along_x, along_y, along_z = (offset[:, None] * turn[:, None, row] for row in range(3))  # (N, side, 3)
    plane = (along_z + origin[:, None])[:, :, None] + along_y[:, None]  # (N, side, side, 3)
    points = plane[:, :, :, None] + along_x[:, None, None]  # (N, side, side, side, 3)
    return F.grid_sample(fine[labels][:, None], points, align_corners=True)[:, 0]
