"""The filters of physics/filters.py for a box of any three sides, as large as a tomogram, one plane of kz at a time.

The spectrum is that of `torch.fft.rfftn`, (Z, Y, X // 2 + 1) of a box (Z, Y, X); what is not linear in memory there
stays small. On a cube these are the filters of `transfer` and `noise_filter`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from physics.filters import band, colour, ctf, measured, padded_side
from physics.imaging import Imaging


class Plane(NamedTuple):
    """The filters at one kz, (Y, X // 2 + 1) each."""

    signal: torch.Tensor  # B CTF W, and the B factor
    through: torch.Tensor  # of the noise before the contrast transfer, not scaled: B CTF W with the noise's colour
    white: torch.Tensor  # of the noise after it, not scaled: B W with the noise's colour


def planes(shape: tuple[int, int, int], imaging: Imaging, defocus: float) -> Iterator[Plane]:
    """The planes of a box (Z, Y, X), in the order of the spectrum; the defocus is in um."""
    kzs, kys = (torch.fft.fftfreq(side, dtype=torch.float64) for side in shape[:2])  # cycles a voxel
    ky, kx = kys[:, None], torch.fft.rfftfreq(shape[2], dtype=torch.float64)[None, :]
    underfocus = torch.tensor([defocus], dtype=torch.float64)
    edge = torch.zeros(shape[1], shape[2] // 2 + 1, dtype=torch.bool)  # as in `geometry`
    if shape[1] % 2 == 0:
        edge[shape[1] // 2] = True
    if shape[2] % 2 == 0:
        edge[:, -1] = True
    for number, kz in enumerate(kzs):
        radius = (kz**2 + ky**2 + kx**2).sqrt()
        k = radius / imaging.voxel_size
        kept = measured(kz[None, None], ky, kx, imaging.tilt_min, imaging.tilt_max, imaging.dual_axis)
        kept = kept.double().expand(radius.shape).masked_fill(edge, 0)
        if shape[0] % 2 == 0 and number == shape[0] // 2:
            kept = torch.zeros_like(kept)
        if imaging.band_limit < 1:
            cube = torch.maximum(torch.maximum(kz.abs(), ky.abs()), kx)
            kept = kept * band((cube if imaging.band_shape == "cube" else radius) * 2, imaging)
        target = kept * ctf(k.flatten(), underfocus, imaging).reshape(radius.shape)
        shade = colour(radius * 2, imaging) if imaging.noise_colour else torch.ones(())
        yield Plane(target * torch.exp(-imaging.b_factor / 4 * k**2), target * shade, kept * shade)


def noise_shares(shape: tuple[int, int, int], imaging: Imaging, defocus: float) -> tuple[float, float]:
    """What |through|^2 and |white|^2 are multiplied by, so that their sum filters white noise to variance 1."""
    weight = torch.full((shape[2] // 2 + 1,), 2.0, dtype=torch.float64)
    weight[0] = 1.0
    if shape[2] % 2 == 0:
        weight[-1] = 1.0
    powers = torch.zeros(2, dtype=torch.float64)
    for plane in planes(shape, imaging, defocus):
        powers += torch.stack([(part**2 * weight).sum() for part in (plane.through, plane.white)])
    through, white = (powers / torch.tensor(shape).prod()).tolist()
    share = imaging.noise_through_ctf
    return share / through, (1 - share) / white


def imaged(
    density: torch.Tensor,
    imaging: Imaging,
    defocus: float,
    margin: int,
    level: float = 0.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """A density (Z, Y, X) as a microscope shows it, with noise of standard deviation `level`.

    The box is widened by `margin` voxels or more along each axis, so that nothing wraps around. The spectra take most
    of the memory: 12 bytes per voxel of the wide box, half as much without noise.

    Args:
        density: free of detail beyond Nyquist, bright. imaging: without a tilt step. defocus: um.
        generator: of the noise.
    """
    shape = tuple(padded_side(side + margin, 1.0) for side in density.shape)
    spectrum = torch.fft.rfftn(density, s=shape)
    noise, shares = None, (0.0, 0.0)
    if level:
        noise = torch.fft.rfftn(torch.randn(shape, generator=generator))
        shares = noise_shares(shape, imaging, defocus)
    for number, plane in enumerate(planes(shape, imaging, defocus)):
        spectrum[number] *= plane.signal.float()
        if noise is not None:
            amplitude = (plane.through**2 * shares[0] + plane.white**2 * shares[1]).sqrt()
            spectrum[number] += noise[number] * (level * amplitude).float()
    del noise
    return torch.fft.irfftn(spectrum, s=shape)[tuple(map(slice, density.shape))]
