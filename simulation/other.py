"""Subtomograms by an imaging of its own, for evaluation alone: how does a network fare where its simulator ends?

It shares numbers (a voxel size, a tilt range, a defocus), conventions and files with the rest of simulation/, and no
code of physics/ or simulation/simulator.py. It differs in every choice that is one:

    density      atoms and residues are hard balls on voxels half as wide; voxels are the mean of eight of those
    rotation     cubic splines, on the half voxels
    filters      on the box itself: what leaves it on one side comes back on the other
    band limit   the sphere of Nyquist, with a hard edge
    noise        a fifth of its variance went through the contrast transfer; white in the sphere otherwise
    SNR          the noise has exactly the variance S / SNR in each box, S being that of the target in this box; so
                 two volumes of one pose correlate at SNR / (1 + SNR) in the variance convention
    shift        evenly in a ball
    envelope     none, unless it is asked for

Nothing may be trained on it, or chosen by it.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from common.cli import InputError
from loader.columns import snr_code
from loader.volume import MRC_SUFFIXES, read_volume
from physics.grid import Grid
from physics.imaging import Imaging
from simulation.particles import ParticleFiles, Pose
from simulation.procedural import procedural_residues
from simulation.structures import find_structures, fitting_side, mass_radius, procedural_index, read_atoms

FINENESS = 2  # half voxels along a voxel
BALL = 0.6  # voxels, radius of the ball that an atom or residue becomes
THROUGH_CTF = 0.2  # share of the noise's variance
MASK_SHARE = 0.25  # of the largest density: the particle is where there is more
IN_USE = {  # fields of Imaging that are followed; the others must have their defaults
    *("voxel_size", "tilt_min", "tilt_max", "defocus", "cs", "voltage", "amplitude_contrast", "envelope"),
    *("shift", "snr_convention"),
}


class OtherFiles(ParticleFiles):
    """The files of such a data set.

    Args:
        folder, names, seed, snr: as `ParticleFiles`.
        fine: (C, 2D, 2H, 2W), of `fine_densities`.
        imaging: the numbers.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], fine: np.ndarray, imaging: Imaging, seed: int, snr: Sequence[float]
    ):
        super().__init__(folder, names, imaging, fine.shape[-1] // FINENESS, seed, snr)
        self.splines = [ndimage.spline_filter(density, order=3, output=np.float32) for density in fine]
        self.radius, self.seen = frequencies(fine.shape[-1] // FINENESS, imaging)

    def image(self, label: int, numbers: range) -> tuple[np.ndarray, list[np.ndarray]]:
        masks, volumes = [], [[] for _ in self.snr]
        for number in numbers:
            pose = self.pose(label, number)
            posed = coarse(turned(self.splines[label], pose.quaternion, pose.shift))
            masks.append(posed > MASK_SHARE * posed.max())
            contrast = contrast_transfer(self.radius / self.imaging.voxel_size, pose.defocus, self.imaging) * self.seen
            signal = filtered(posed, contrast)
            for at_snr, snr in zip(volumes, self.snr, strict=True):
                noise = 0.0
                if not math.isinf(snr):
                    noise = self.noise(contrast, self._random(label, number, f"noise {snr_code(snr)}"))
                    noise *= np.sqrt(signal.var() / snr * (2 if self.imaging.snr_convention == "lab" else 1))
                at_snr.append(signal + noise)
        return np.array(masks, np.int8), [np.array(at_snr, np.float32) for at_snr in volumes]

    def pose(self, label: int, number: int) -> Pose:
        random = self._random(label, number, "pose")
        quaternion = Rotation.random(rng=random).as_quat(scalar_first=True)
        way = random.standard_normal(3)
        shift = way / np.linalg.norm(way) * self.imaging.shift * np.cbrt(random.random())
        return Pose(quaternion, shift, random.uniform(*self.imaging.defocus))

    def noise(self, contrast: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Noise (D, H, W) of variance 1 in this box: a part that went through `contrast`, and a white one."""
        parts = 0.0
        for share, amplitude in ((THROUGH_CTF, contrast), (1 - THROUGH_CTF, self.seen)):
            part = filtered(random.standard_normal(contrast.shape), amplitude)
            parts = parts + np.sqrt(share) * part / part.std()
        return parts / parts.std()

    def _random(self, label: int, number: int, what: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed}/{self.names[label]}/{number}/{what}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def check_imaging(imaging: Imaging) -> None:
    """Raises InputError where something is asked for that this imaging does not have."""
    default = Imaging()
    for field in fields(Imaging):
        if field.name not in IN_USE and getattr(imaging, field.name) != getattr(default, field.name):
            option = field.name.replace("_", "-")
            raise InputError(f"--{option}: the independent imaging has no such thing; leave it at its default")


def fine_densities(
    names: Sequence[str], folder: Path | str, grid: Grid, seed: int, assembly: bool, level: float
) -> np.ndarray:
    """The densities of a list of classes on half voxels, centred by mass: (C, 2D, 2H, 2W) float32.

    Arguments and errors as `load_densities`; the grid's resolution is not used.
    """
    files = find_structures(folder, tuple(names)) if folder else {}
    densities = []
    for name in names:
        if not folder:
            residues = procedural_residues(procedural_index(name), seed)
            density = balls(residues, np.ones(len(residues)), grid, name)
        elif files[name].name.lower().endswith(MRC_SUFFIXES):
            density = of_map(files[name], grid, level)
        else:
            density = balls(*read_atoms(files[name], assembly), grid, files[name])
        densities.append(density)
    return np.stack(densities)


def balls(positions: np.ndarray, weights: np.ndarray, grid: Grid, name: Path | str) -> np.ndarray:
    """Points (P, 3) as x, y, z in A of the given weights (P,), each spread evenly over the half voxels near to it."""
    width, side = grid.voxel_size / FINENESS, grid.box * FINENESS
    positions = positions - np.average(positions, axis=0, weights=weights)
    radius = mass_radius(np.linalg.norm(positions, axis=1), weights)
    fitting_side(radius + grid.voxel_size, grid, name)
    place = positions[:, ::-1] / width + (side - 1) / 2  # (P, 3) as z, y, x
    nearest = np.rint(place).astype(int)
    steps = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    near = [np.linalg.norm(nearest + step - place, axis=1) <= BALL * FINENESS for step in steps]
    share = weights / np.sum(near, axis=0)
    density = np.zeros((side,) * 3)
    for step, chosen in zip(steps, near, strict=True):
        at = nearest[chosen] + step
        inside = ((at >= 0) & (at < side)).all(axis=1)
        np.add.at(density, tuple(at[inside].T), share[chosen][inside])
    return density.astype(np.float32)


def of_map(path: Path, grid: Grid, level: float) -> np.ndarray:
    """An MRC map, emptied under `level` of its maximum, read linearly at the half voxels."""
    volume, own = read_volume(path)
    if own is None or volume.max() <= 0:
        raise InputError(f"{path}: voxel size {own}, maximum {volume.max():g}; expected a voxel size and a bright map")
    volume = np.where(volume >= level * volume.max(), volume, 0)
    inside = np.argwhere(volume > 0)
    weights = volume[volume > 0].astype(np.float64)
    centre = np.average(inside, axis=0, weights=weights)
    radius = mass_radius(np.linalg.norm(inside - centre, axis=1), weights) * own
    fitting_side(radius + grid.voxel_size, grid, path)
    step, side = grid.voxel_size / FINENESS / own, grid.box * FINENESS
    if step > 1:
        volume = ndimage.uniform_filter(volume, round(step))
    return ndimage.affine_transform(volume, np.full(3, step), centre - step * (side - 1) / 2, (side,) * 3, order=1)


def coarse(fine: np.ndarray) -> np.ndarray:
    """The mean of the half voxels of each voxel: (2D, 2H, 2W) -> (D, H, W)."""
    side = fine.shape[0] // FINENESS
    return fine.reshape(side, FINENESS, side, FINENESS, side, FINENESS).mean(axis=(1, 3, 5))


def turned(spline: np.ndarray, quaternion: Sequence[float], shift: Sequence[float]) -> np.ndarray:
    """A density on half voxels, as its spline coefficients, turned about its centre and then shifted (x, y, z)."""
    forth = Rotation.from_quat(quaternion, scalar_first=True).as_matrix()[::-1, ::-1]  # on (z, y, x)
    back = forth.T
    centre = (spline.shape[0] - 1) / 2
    offset = centre - back @ (centre + FINENESS * np.asarray(shift)[::-1])
    return ndimage.affine_transform(spline, back, offset, order=3, prefilter=False)


def frequencies(side: int, imaging: Imaging) -> tuple[np.ndarray, np.ndarray]:
    """|k| in cycles a voxel, and 1 where a tilt series about y measures within the sphere of Nyquist, else 0."""
    k = np.fft.fftfreq(side)
    kz, ky, kx = np.meshgrid(k, k, k, indexing="ij")
    radius = np.sqrt(kx**2 + ky**2 + kz**2)
    tilt = np.degrees(np.arctan2(kz, kx))
    tilt = np.where(tilt > 90, tilt - 180, np.where(tilt <= -90, tilt + 180, tilt))  # a line has two ends
    seen = (tilt >= imaging.tilt_min - 1e-6) & (tilt <= imaging.tilt_max + 1e-6)
    if imaging.tilt_min <= -90:
        seen |= tilt == 90
    seen |= (kx == 0) & (kz == 0)
    return radius, (seen & (radius < 0.5)).astype(float)


def contrast_transfer(k: np.ndarray, defocus: float, imaging: Imaging) -> np.ndarray:
    """The contrast transfer at frequencies k in 1/A for a defocus in um; bright particles."""
    mass, charge, light, planck = 9.1093837e-31, 1.602176634e-19, 2.99792458e8, 6.62607015e-34
    energy = charge * imaging.voltage * 1e3
    length = planck * light / math.sqrt(energy * (energy + 2 * mass * light**2)) * 1e10  # A
    defocus, cs = defocus * 1e4, imaging.cs * 1e7  # A
    aberration = 2 * math.pi / length * (defocus * (length * k) ** 2 / 2 - cs * (length * k) ** 4 / 4)
    contrast = np.sin(aberration + math.asin(imaging.amplitude_contrast))
    return contrast * np.exp(-((2 * k * imaging.voxel_size / imaging.envelope) ** 2))


def filtered(volume: np.ndarray, amplitude: np.ndarray) -> np.ndarray:
    """A volume (D, H, W) under an amplitude on the frequencies of its own box."""
    return np.fft.ifftn(np.fft.fftn(volume) * amplitude).real
