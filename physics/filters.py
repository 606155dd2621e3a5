"""The microscope's filters in Fourier space: contrast transfer, missing wedge, and noise of a stated variance.

A spectrum is that of `torch.fft.rfftn`, (P, P, P // 2 + 1) of a padded box of P voxels, its axes z, y, x. The tilt axis
is y and the beam of the untilted microscope z. Filters act on a padded box, so that nothing wraps around, and are exact
before the crop.
"""

from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np
import torch

from physics.imaging import Imaging

LEAST_SHARE = 0.01  # of a shell: where less is left of it, it gets no more noise for that
COLOUR_FLOOR = 0.1  # of Nyquist: below it coloured noise rises little more


def wavelength(voltage: float) -> float:
    """The electrons' wavelength in A, for a voltage in kV."""
    volts = voltage * 1e3
    return 12.2642596 / np.sqrt(volts * (1 + 0.978475598e-6 * volts))


def ctf(k: torch.Tensor, defocus: torch.Tensor, imaging: Imaging) -> torch.Tensor:
    """Contrast transfer at spatial frequencies k (K,) in 1/A for defocus (N,) in um: (N, K), positive at small k.

    sqrt(1 - A^2) sin(g) + A cos(g), g = pi L dz k^2 - pi/2 Cs L^3 k^4 (L the wavelength, dz underfocus), under the
    envelope exp(-(k / (envelope k_Nyquist))^2). Particles are bright.
    """
    length = wavelength(imaging.voltage)
    phase = torch.pi * length * 1e4 * defocus[:, None] * k**2 - torch.pi / 2 * imaging.cs * 1e7 * length**3 * k**4
    amplitude = imaging.amplitude_contrast
    contrast = (1 - amplitude**2) ** 0.5 * torch.sin(phase) + amplitude * torch.cos(phase)
    return contrast * torch.exp(-((k * 2 * imaging.voxel_size / imaging.envelope) ** 2))


def wedge(side: int, tilt_min: float, tilt_max: float, dual_axis: bool = False) -> torch.Tensor:
    """Which frequencies a tilt series about y measures: bool, (side, side, side // 2 + 1) as the spectrum of `rfftn`.

    The view at tilt t measures the plane through y and (cos t, sin t) in (x, z); kept are the planes of all tilts
    from tilt_min to tilt_max, in degrees; for -60 and 60, |kz| <= |kx| tan 60. `dual_axis` adds the same about x.
    """
    return measured(*frequencies(side), tilt_min, tilt_max, dual_axis).expand(side, side, side // 2 + 1)


def measured(
    kz: torch.Tensor, ky: torch.Tensor, kx: torch.Tensor, tilt_min: float, tilt_max: float, dual_axis: bool
) -> torch.Tensor:
    """As `wedge`, at frequencies of one unit that broadcast; without `dual_axis` ky is left out of the result."""
    kept = _between(kz, kx, tilt_min, tilt_max)
    if dual_axis:
        kept = kept | _between(kz, ky, tilt_min, tilt_max)
    return kept


def _between(kz: torch.Tensor, across: torch.Tensor, tilt_min: float, tilt_max: float) -> torch.Tensor:
    """Where the angle of the line through (across, kz) lies in the range; the zero line is in every view."""
    turned = torch.where(across < 0, -1.0, 1.0)  # a line has two ends: take that of the right half plane
    angle = torch.rad2deg(torch.atan2(kz * turned, across * turned))
    inside = (angle >= tilt_min - 1e-4) & (angle <= tilt_max + 1e-4)
    upright = (across == 0) & (max(abs(tilt_min), abs(tilt_max)) >= 90)
    return inside | upright | ((across == 0) & (kz == 0))


def frequencies(side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """kz (side, 1, 1), ky (1, side, 1), kx (1, 1, side // 2 + 1) of `rfftn`, in whole cycles a box."""
    k = torch.fft.fftfreq(side, 1 / side).round()
    return k[:, None, None], k[None, :, None], torch.arange(side // 2 + 1).float()[None, None, :]


class Geometry(NamedTuple):
    """What the filters of one padded box share."""

    shell: torch.Tensor  # (P, P, P // 2 + 1) long: |k|^2 in (cycles a box)^2
    kept: torch.Tensor  # (P, P, P // 2 + 1): band limit times missing wedge
    weight: torch.Tensor  # (P // 2 + 1,): how many coefficients of the full spectrum each stands for, over P^3
    k: torch.Tensor  # (shells,): frequency of each shell, 1/A


@lru_cache(maxsize=8)
def geometry(side: int, imaging: Imaging, device: torch.device) -> Geometry:
    """The shared parts of the filters on a padded box of `side` voxels."""
    kz, ky, kx = frequencies(side)
    shell = (kz**2 + ky**2 + kx**2).round().long()
    fraction = shell.double().sqrt() / (side / 2)  # of Nyquist
    kept = wedge(side, imaging.tilt_min, imaging.tilt_max, imaging.dual_axis).double()
    if imaging.band_limit < 1:
        if imaging.band_shape == "cube":
            fraction = torch.maximum(torch.maximum(kz.abs(), ky.abs()), kx).double() / (side / 2)
        kept *= band(fraction, imaging)
    if side % 2 == 0:  # the Nyquist planes stand for both signs of k at once, which a wedge may tell apart
        kept[side // 2], kept[:, side // 2], kept[..., side // 2] = 0, 0, 0
    weight = torch.full((side // 2 + 1,), 2.0)
    weight[0] = 1.0
    if side % 2 == 0:
        weight[-1] = 1.0
    k = torch.arange(int(shell.max()) + 1).double().sqrt() / (side * imaging.voxel_size)
    parts = (shell, kept.float(), weight / side**3, k)
    return Geometry(*(part.to(device) for part in parts))


def band(fraction: torch.Tensor, imaging: Imaging) -> torch.Tensor:
    """What the band limit leaves of the amplitude at a fraction of Nyquist: 1, and 0 from the limit on."""
    start = (1 - imaging.band_edge) * imaging.band_limit
    return 0.5 + 0.5 * torch.cos(torch.pi * ((fraction - start) / (imaging.band_limit - start)).clamp(0, 1))


def colour(fraction: torch.Tensor, imaging: Imaging) -> torch.Tensor:
    """How the noise's amplitude goes with the fraction of Nyquist, before it is scaled."""
    return (fraction + COLOUR_FLOOR) ** -imaging.noise_colour


def transfer(defocus: torch.Tensor, shared: Geometry, imaging: Imaging) -> torch.Tensor:
    """B CTF W for each defocus (N,) in um: (N, P, P, P // 2 + 1)."""
    table = ctf(shared.k, defocus.double(), imaging).float()  # (N, shells)
    return table[:, shared.shell] * shared.kept


def white_spectrum(n: int, side: int, generator: torch.Generator | None, device: torch.device | str) -> torch.Tensor:
    """Spectra of n fields of white noise of variance 1, (N, P, P, P // 2 + 1) complex, as `rfftn(norm="ortho")`.

    The planes kx = 0 and Nyquist of a real field hold each coefficient and its conjugate. Here they are drawn without
    that symmetry and at twice the power: `crop_inverse` keeps the symmetric part alone, which has half of it.
    """
    pairs = torch.randn(n, side, side, side // 2 + 1, 2, generator=generator, device=device)
    pairs[..., 1 : (side + 1) // 2, :] *= 0.5**0.5
    return torch.view_as_complex(pairs)


def sharpness(shared: Geometry, imaging: Imaging) -> torch.Tensor:
    """What the B factor leaves of the density's amplitude, exp(-B k^2 / 4): (P, P, P // 2 + 1)."""
    return torch.exp(-imaging.b_factor / 4 * shared.k**2).float()[shared.shell]


def noise_filter(target: torch.Tensor, shared: Geometry, imaging: Imaging) -> torch.Tensor:
    """The amplitude spectrum of the noise, of variance 1 in the mean over realisations: (N, P, P, P // 2 + 1).

    The noise is a B CTF W e1 + b B W e2, e1 and e2 white and independent: a Gaussian field of power spectrum
    a^2 (B CTF W)^2 + b^2 (B W)^2, and one white field under its root has the same law. a and b follow from the
    filters' powers, so that the first term has the share `noise_through_ctf` of the variance; a half by default.
    `target` is B CTF W. A colour shapes both terms.
    """
    share, kept = imaging.noise_through_ctf, shared.kept
    if imaging.noise_colour:
        shape = colour(shared.k * 2 * imaging.voxel_size, imaging).float()[shared.shell]
        target, kept = target * shape, kept * shape
    power = (target**2 * shared.weight).sum(dim=(1, 2, 3), keepdim=True)
    white_power = (kept**2 * shared.weight).sum()
    return (target**2 * (share / power) + kept**2 * ((1 - share) / white_power)).sqrt()


def radial_power(volumes: torch.Tensor) -> torch.Tensor:
    """The mean power of each volume in shells of |k| that are one cycle a box wide, (N, D, D, D) -> (N, shells).

    Shell s holds |k| from s - 1/2 to s + 1/2, up to the corners of the spectrum.
    """
    side = volumes.shape[-1]
    kz, ky, kx = frequencies(side)
    shell = (kz**2 + ky**2 + kx**2).sqrt().round().long().flatten().to(volumes.device)
    count = int(shell.max()) + 1
    weight = torch.full((side // 2 + 1,), 2.0, device=volumes.device)  # coefficients of the full spectrum
    weight[0] = 1.0
    if side % 2 == 0:
        weight[-1] = 1.0
    weight = weight.expand(side, side, -1).flatten()
    power = torch.fft.rfftn(volumes, dim=(1, 2, 3), norm="ortho").abs().square().flatten(1) * weight
    sums = torch.zeros(len(volumes), count, device=volumes.device).index_add_(1, shell, power)
    return sums / torch.zeros(count, device=volumes.device).index_add_(0, shell, weight)


def measured_noise_filter(power: tuple[float, ...], shared: Geometry, side: int, box: int) -> torch.Tensor:
    """As `noise_filter`, for noise whose power was measured in boxes of `box` voxels by `radial_power`.

    It lies where the wedge and the band limit leave anything, on a box of `side` voxels, so that each shell has in the
    mean what was measured: (1, P, P, P // 2 + 1).
    """
    at = shared.shell.double().sqrt() * (box / side)  # in cycles of a box that was measured
    values = torch.tensor(power, dtype=torch.double, device=at.device)
    low = at.long().clamp(max=len(power) - 2)
    part = (at - low).clamp(0, 1)
    wanted = (1 - part) * values[low] + part * values[low + 1]
    shell, weight = at.round().long().flatten(), shared.weight.double().expand_as(at).flatten()
    kept, everything = torch.zeros(2, int(shell.max()) + 1, dtype=torch.double, device=at.device)
    kept.index_add_(0, shell, (shared.kept**2).double().flatten() * weight)
    everything.index_add_(0, shell, weight)
    share = (kept / everything).clamp(min=LEAST_SHARE)[shell].view_as(at)  # of each shell, that is not empty
    found = wanted * shared.kept**2 / share
    return (found / (found * shared.weight).sum()).sqrt().float()[None]


def noise_variance(signal_variance: torch.Tensor, snr: torch.Tensor | float, convention: str) -> torch.Tensor:
    """The noise's variance for a signal's: S / SNR, or twice that in the lab's convention; 0 where the SNR is inf."""
    return signal_variance / snr * (2.0 if convention == "lab" else 1.0)


def crop_inverse(spectrum: torch.Tensor, side: int) -> torch.Tensor:
    """`irfftn` of spectra (N, P, P, P // 2 + 1), of which the first `side` voxels along each axis are wanted.

    Of the planes kx = 0 and Nyquist it takes the part that a real volume can have, S(k) = conj(S(-k)): there every row
    along x begins and ends with a real number. What a transform to real numbers makes of anything else is undefined.
    """
    padded = spectrum.shape[1]
    rows = torch.fft.ifft(spectrum, dim=1)[:, :side]  # (N, side, P, P // 2 + 1)
    rows = torch.fft.ifft(rows, dim=2)[:, :, :side]
    imaginary = torch.view_as_real(rows)[..., 1]
    imaginary[..., 0] = 0
    if padded % 2 == 0:
        imaginary[..., -1] = 0
    return torch.fft.irfft(rows, n=padded, dim=3)[..., :side]


def padded_side(side: int, padding: float) -> int:
    """The smallest even number of 2, 3 and 5 alone (fast transforms) from side * padding on."""
    padded = ceil(side * padding)
    while padded % 2 or not _smooth(padded):
        padded += 1
    return padded


def _smooth(number: int) -> bool:
    for factor in (2, 3, 5):
        while number % factor == 0:
            number //= factor
    return number == 1
