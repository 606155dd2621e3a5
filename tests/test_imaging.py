"""The physics of the simulated subtomograms, against what theory says."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from physics.filters import (
    crop_inverse,
    ctf,
    geometry,
    padded_side,
    radial_power,
    transfer,
    wavelength,
    wedge,
    white_spectrum,
)
from physics.grid import Grid
from physics.imaging import Imaging
from physics.pose import pose, posing_grid, random_rotations, rotation_matrices
from simulation.procedural import procedural_residues
from simulation.simulator import Simulator
from simulation.structures import density_from_points
from simulation.tilt_series import TiltSeries

SIDE, VOXEL, RESOLUTION = 16, 20.0, 40.0  # a small box of coarse voxels: the physics is the same
SMALL = Imaging(voxel_size=VOXEL, shift=1.0)
WEDGES = {"symmetric": (-60, 60, False), "one-sided": (-30, 65, False), "dual": (-60, 60, True)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def full_spectrum_outside(side: int, tilt_min: float, tilt_max: float, dual: bool) -> np.ndarray:
    """Which coefficients of `fftn` no view of the tilt series measures, by the projection theorem, one by one."""
    k = np.fft.fftfreq(side)
    kz, ky, kx = np.meshgrid(k, k, k, indexing="ij")

    def seen(across: np.ndarray) -> np.ndarray:
        turned = np.where(across < 0, -1, 1)
        angle = np.degrees(np.arctan2(kz * turned, across * turned))
        return ((angle > tilt_min - 1e-3) & (angle < tilt_max + 1e-3)) | ((kz == 0) & (across == 0))

    return ~(seen(kx) | (seen(ky) if dual else False))


# ---- pose ----


def test_rotations_are_uniform_on_the_rotation_group():
    matrices = rotation_matrices(random_rotations(4000, generator())).double()
    trace = matrices.diagonal(dim1=1, dim2=2).sum(1)
    angle = torch.arccos(((trace - 1) / 2).clamp(-1, 1)).numpy()
    assert kstest(angle, lambda t: (t - np.sin(t)) / np.pi).pvalue > 0.01
    for entry in matrices.reshape(-1, 9).T:  # every coordinate of every rotated axis is uniform in [-1, 1]
        assert kstest(entry.numpy(), "uniform", args=(-1, 2)).pvalue > 0.001


def test_rotation_matrices_are_those_of_scipy():
    quaternions = random_rotations(50, generator())
    expected = Rotation.from_quat(quaternions.numpy(), scalar_first=True).as_matrix()
    assert np.allclose(rotation_matrices(quaternions), expected, atol=1e-5)


def test_a_pose_turns_and_shifts_the_density_as_it_would_the_atoms_and_never_mirrors():
    atoms = procedural_residues(9, 0)
    weights = np.full(len(atoms), 133.0)
    side = 32
    grid = Grid(side, 10.0, 20.0)
    reference = torch.from_numpy(density_from_points(atoms, weights, grid, "complex"))
    quaternions, shifts = random_rotations(6, generator(1)), 4 * torch.rand(6, 3, generator=generator(2)) - 2
    posed = pose(posing_grid(reference[None]), torch.zeros(6, dtype=torch.long), quaternions, shifts, side)
    for volume, quaternion, shift in zip(posed.numpy(), quaternions.numpy(), shifts.numpy(), strict=True):
        turned = Rotation.from_quat(quaternion, scalar_first=True).apply(atoms)
        expected = density_from_points(turned, weights, grid, "complex")
        spectrum = np.fft.fftn(expected)
        for axis in range(3):  # shift is x, y, z; the axes are z, y, x
            k = np.fft.fftfreq(side).reshape([-1 if a == axis else 1 for a in range(3)])
            spectrum = spectrum * np.exp(-2j * np.pi * k * shift[2 - axis])
        expected = np.fft.ifftn(spectrum).real
        assert np.corrcoef(volume.ravel(), expected.ravel())[0, 1] > 0.995
        assert np.abs(volume - expected).max() < 0.12 * expected.max()
        assert np.corrcoef(volume[:, :, ::-1].ravel(), expected.ravel())[0, 1] < 0.9


def test_a_pose_keeps_mass_and_moves_its_centre_by_the_shift(densities):
    quaternions, shifts = random_rotations(9, generator(3)), 2 * torch.rand(9, 3, generator=generator(4)) - 1
    labels = torch.arange(9) % 3
    posed = pose(posing_grid(densities), labels, quaternions, shifts, SIDE)
    offset = torch.arange(SIDE) - (SIDE - 1) / 2
    mass = posed.sum((1, 2, 3))
    assert torch.allclose(mass, densities.sum((1, 2, 3))[labels], rtol=0.01)
    centre = torch.stack(
        [(posed.sum((1, 2)) * offset).sum(1), (posed.sum((1, 3)) * offset).sum(1), (posed.sum((2, 3)) * offset).sum(1)],
        dim=1,
    )
    assert torch.allclose(centre / mass[:, None], shifts, atol=0.05)


# ---- filters ----


@pytest.mark.parametrize("voltage, cs, defocus", [(300.0, 2.0, 5.0), (200.0, 2.7, 3.0)])
def test_ctf_is_zero_at_the_spatial_frequencies_of_theory(voltage, cs, defocus):
    imaging = Imaging(voltage=voltage, cs=cs, envelope=float("inf"))
    energy = voltage * 1e3 * 1.602176634e-19  # J
    rest = 9.1093837e-31 * 299792458.0**2
    length = 6.62607015e-34 * 299792458.0 / np.sqrt(energy * (energy + 2 * rest)) * 1e9  # nm
    assert wavelength(voltage) == pytest.approx(10 * length, rel=1e-5)

    def phase(k: float) -> float:  # k in 1/nm, defocus in nm, Cs in nm
        return np.pi * length * defocus * 1e3 * k**2 - np.pi / 2 * cs * 1e6 * length**3 * k**4 + np.arcsin(0.07)

    zeros = [brentq(lambda k, n=n: phase(k) - n * np.pi, 0.0, 1.0) for n in (1, 2, 3)]
    at = torch.tensor(zeros, dtype=torch.double) / 10  # 1/A
    assert ctf(at, torch.tensor([defocus]), imaging).abs().max() < 1e-5
    assert ctf(torch.zeros(1), torch.tensor([defocus]), imaging).item() == pytest.approx(0.07)
    between = ctf(at[:1] / 2, torch.tensor([defocus]), imaging)
    assert between.item() > 0  # underfocus: particles are bright


def test_the_envelope_is_1_over_e_where_it_says(densities):
    imaging = Imaging(envelope=0.4, amplitude_contrast=1.0, cs=0.0)
    k = torch.tensor([0.4 / 20.0])
    assert ctf(k, torch.tensor([0.0]), imaging).item() == pytest.approx(np.exp(-1), rel=1e-5)


@pytest.mark.parametrize("kind", WEDGES)
def test_nothing_is_left_in_the_missing_wedge_before_the_crop(densities, kind):
    low, high, dual = WEDGES[kind]
    imaging = Imaging(voxel_size=VOXEL, tilt_min=low, tilt_max=high, dual_axis=dual, defocus=(4.0, 6.0))
    side = padded_side(SIDE, imaging.padding)
    shared = geometry(side, imaging, torch.device("cpu"))
    target = transfer(torch.tensor([5.0]), shared, imaging)
    signal = crop_inverse(torch.fft.rfftn(densities, s=(side,) * 3, dim=(1, 2, 3)) * target, side)
    noise = crop_inverse(white_spectrum(3, side, generator(), "cpu") * shared.kept, side)
    outside = full_spectrum_outside(side, low, high, dual)
    assert 0.05 < outside.mean() < 0.5
    inside = ~outside
    inside[side // 2] = inside[:, side // 2] = inside[:, :, side // 2] = False
    for volume in (*signal.numpy(), *noise.numpy()):
        power = np.abs(np.fft.fftn(volume.astype(np.float64))) ** 2
        assert power[outside].sum() < 1e-6 * power.sum()
    assert power[inside].min() > 1e-6 * power.mean()  # of noise, everything else is there


def test_the_symmetric_wedge_is_the_rule_of_its_slope():
    k = np.fft.fftfreq(12, 1 / 12)
    kz, kx = k[:, None, None], np.arange(7)[None, None, :]
    expected = np.broadcast_to(np.abs(kz) <= np.abs(kx) * np.tan(np.pi / 3) + 1e-9, (12, 12, 7))
    assert (wedge(12, -60, 60).numpy() == expected).all()
    assert wedge(12, -90, 90).all()


def test_filters_do_not_wrap_around(densities):
    point = torch.zeros(1, SIDE, SIDE, SIDE)
    point[0, SIDE // 2, SIDE // 2, 0] = 1.0  # on one face
    full = Imaging(voxel_size=VOXEL, tilt_min=-90, tilt_max=90)
    faces = []
    for padding in (1.0, 1.5):
        simulator = Simulator(densities, Imaging(**{**vars(full), "padding": padding}))
        target, _ = simulator.filters(torch.tensor([5.0]))
        volume = simulator.signal(point, target)[0]
        faces.append((volume[..., -1].abs().max() / volume.abs().max()).item())
    assert faces[0] > 0.1  # without padding the opposite face lights up
    assert faces[1] < 0.01


# ---- noise ----


@pytest.mark.parametrize("convention, factor", [("variance", 1.0), ("lab", 2.0)])
def test_the_snr_of_1000_volumes_is_the_one_asked_for(densities, convention, factor):
    imaging = Imaging(voxel_size=VOXEL, shift=1.0, snr_convention=convention, defocus=(4.0, 6.0))
    simulator = Simulator(densities, imaging)
    labels = torch.arange(1000) % 3
    snr = torch.tensor([0.05, 0.5]).repeat(500)
    noisy = simulator(labels, snr, generator(1)).volumes
    clean = simulator(labels, snr * torch.inf, generator(1)).volumes  # the same poses
    measured = clean.var(dim=(1, 2, 3, 4)) / (noisy - clean).var(dim=(1, 2, 3, 4))
    for value in (0.05, 0.5):
        assert measured[snr == value].mean().item() == pytest.approx(value / factor, rel=0.05)


@pytest.mark.parametrize("convention, r", [("variance", lambda s: s / (1 + s)), ("lab", lambda s: s / (2 + s))])
def test_volumes_of_one_pose_correlate_as_the_convention_says(densities, convention, r):
    imaging = Imaging(voxel_size=VOXEL, snr_convention=convention)
    simulator = Simulator(densities, imaging)
    poses, _ = simulator.draw(torch.zeros(400, dtype=torch.long), generator(2))
    target, spectrum = simulator.filters(poses.defocus)
    signal = simulator.signal(simulator.pose(torch.arange(400) % 3, poses), target)
    for snr in (0.1, 1.0):
        pair = [
            signal + simulator.noise_level(signal, snr) * simulator.noise(white, spectrum)
            for white in (white_spectrum(400, simulator.padded, generator(seed), "cpu") for seed in (3, 4))
        ]
        a, b = (volume - volume.mean(dim=(1, 2, 3), keepdim=True) for volume in pair)
        correlation = (a * b).sum((1, 2, 3)) / (a.square().sum((1, 2, 3)) * b.square().sum((1, 2, 3))).sqrt()
        assert correlation.mean().item() == pytest.approx(r(snr), rel=0.05)


def test_half_of_the_noise_went_through_the_ctf(densities):
    simulator = Simulator(densities, SMALL)
    target, spectrum = simulator.filters(torch.tensor([5.0]))
    shared = simulator.shared
    first, second = ((part**2 * shared.weight).sum() for part in (target, shared.kept))
    expected = 0.5 * target**2 / first + 0.5 * shared.kept**2 / second
    assert torch.allclose(spectrum**2, expected, rtol=1e-4, atol=1e-9)
    assert (spectrum**2 * shared.weight).sum().item() == pytest.approx(1.0, rel=1e-4)
    volumes = simulator.noise(white_spectrum(300, simulator.padded, generator(), "cpu"), spectrum)
    assert volumes.var().item() == pytest.approx(1.0, rel=0.02)


def made_symmetric(spectrum: torch.Tensor) -> torch.Tensor:
    """A spectrum (N, P, P, P // 2 + 1) with S(k) = conj(S(-k)) in the planes that hold both, one by one."""
    side = spectrum.shape[1]
    result = spectrum.clone()
    for kx in {0, side // 2} if side % 2 == 0 else {0}:
        for kz in range(side):
            for ky in range(side):
                opposite = spectrum[:, -kz % side, -ky % side, kx]
                result[:, kz, ky, kx] = (spectrum[:, kz, ky, kx] + opposite.conj()) / 2
    return result


@pytest.mark.parametrize("side", [11, 12])
def test_the_inverse_keeps_the_symmetric_part_of_the_planes_that_hold_a_coefficient_and_its_conjugate(side):
    white = white_spectrum(3, side, generator(), "cpu").to(torch.complex128)
    symmetric = made_symmetric(white)
    assert (symmetric - white).abs().max() > 0.5  # there is something to drop
    full = torch.zeros(3, side, side, side, dtype=torch.complex128)  # of `fftn`, with nothing left to conventions
    full[..., : side // 2 + 1] = symmetric
    for kz in range(side):
        for ky in range(side):
            for kx in range(side // 2 + 1, side):
                full[:, kz, ky, kx] = symmetric[:, -kz % side, -ky % side, -kx % side].conj()
    expected = torch.fft.ifftn(full, dim=(1, 2, 3))
    assert expected.imag.abs().max() < 1e-12
    assert torch.allclose(crop_inverse(white, 8), expected.real[:, :8, :8, :8], atol=1e-12)
    assert torch.allclose(crop_inverse(white, side), crop_inverse(symmetric, side), atol=1e-12)


@pytest.mark.parametrize("side", [11, 12])
def test_the_last_transform_is_given_only_what_is_defined_on_every_device(side, monkeypatch):
    """A row of a real volume's spectrum begins, and of an even length ends, with a real number."""
    given = []
    inverse = torch.fft.irfft
    monkeypatch.setattr(
        torch.fft, "irfft", lambda rows, **options: given.append(rows.clone()) or inverse(rows, **options)
    )
    crop_inverse(white_spectrum(2, side, generator(), "cpu"), 8)
    (rows,) = given
    assert (rows[..., 0].imag == 0).all() and (rows[..., 0].real != 0).all()
    assert (rows[..., -1].imag == 0).all() == (side % 2 == 0)


def test_every_filter_treats_a_frequency_and_its_opposite_alike(densities):
    """So that filtered noise is that of a symmetric spectrum, whatever is dropped before or after."""
    for kind, (low, high, dual) in WEDGES.items():
        imaging = Imaging(voxel_size=VOXEL, tilt_min=low, tilt_max=high, dual_axis=dual, band_limit=0.8)
        simulator = Simulator(densities, imaging)
        for spectrum in simulator.filters(torch.tensor([5.0])):
            assert torch.equal(made_symmetric(spectrum.to(torch.complex64)).real, spectrum), kind


@pytest.mark.parametrize("detector", [23, 24])
def test_the_views_of_a_tilt_series_have_symmetric_spectra(densities, detector):
    series = TiltSeries((-50, 60, 10.0), 50.0, VOXEL, SIDE, detector, torch.device("cpu"))
    for spectra in (series.project(densities), series.white(2, generator(), "cpu")):
        spectra = (spectra * series.weights).flatten(0, 1)  # (views, P, P // 2 + 1)
        for kx in {0, detector // 2} if detector % 2 == 0 else {0}:
            column = spectra[:, :, kx]
            opposite = column[:, -torch.arange(detector)].conj()
            assert torch.allclose(column, opposite, atol=1e-4 * spectra.abs().max().item())


@pytest.mark.parametrize("side", [8, 9])
def test_the_power_of_a_shell_is_the_mean_over_its_coefficients(side):
    volumes = torch.randn(2, side, side, side, generator=generator())
    k = np.fft.fftfreq(side, 1 / side)
    shell = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2).round().astype(int)
    for volume, power in zip(volumes, radial_power(volumes), strict=True):
        coefficients = np.abs(np.fft.fftn(volume.numpy(), norm="ortho")) ** 2
        plain = [coefficients[shell == number].mean() for number in range(shell.max() + 1)]
        assert power.numpy() == pytest.approx(plain, rel=1e-4)


def test_white_spectra_are_those_of_white_fields():
    fields = crop_inverse(white_spectrum(200, 12, generator(), "cpu"), 12) * 12**1.5
    assert fields.var().item() == pytest.approx(1.0, rel=0.02)
    assert fields.var(dim=0).std() < 0.12  # the same everywhere
    neighbours = (fields[..., 1:] * fields[..., :-1]).mean().item()
    assert abs(neighbours) < 0.01


def test_a_common_noise_level_makes_small_particles_harder(densities):
    imaging = Imaging(voxel_size=VOXEL, common_noise=True)
    simulator = Simulator(densities, imaging)
    labels = torch.arange(60) % 3
    snr = torch.full((60,), 0.1)
    noisy, clean = (simulator(labels, value, generator(5)).volumes for value in (snr, snr * torch.inf))
    noise = (noisy - clean).var(dim=(1, 2, 3, 4))
    assert (noise / noise.mean() - 1).abs().max() < 0.2
    measured = clean.var(dim=(1, 2, 3, 4)) / noise
    assert measured[labels == 0].mean() < measured[labels == 1].mean()
    assert measured.mean().item() == pytest.approx(0.1, rel=0.1)


# ---- tilt series ----


@pytest.mark.parametrize("dose", [0.0, 100.0])
def test_a_tilt_series_shows_what_the_ideal_wedge_shows(densities, dose):
    real = Simulator(densities, Imaging(voxel_size=VOXEL, tilt_step=3.0, dose=dose))
    ideal = Simulator(densities, Imaging(voxel_size=VOXEL))
    labels = torch.arange(6) % 3
    poses, _ = real.draw(labels, generator(1))
    one, other = (s.signal(s.pose(labels, poses), s.filters(poses.defocus)[0]) for s in (real, ideal))
    for a, b in zip(one, other, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.95
    assert (one.std() / other.std()).item() == pytest.approx(0.9 if dose == 0 else 0.85, abs=0.1)


def test_a_tilt_series_leaves_the_wedge_all_but_empty(densities):
    simulator = Simulator(densities, Imaging(voxel_size=VOXEL, tilt_min=-30, tilt_max=60, tilt_step=2.0))
    target, _ = simulator.filters(torch.tensor([5.0]))
    power = torch.fft.fftn(simulator.signal(densities, target), dim=(1, 2, 3)).abs().square().sum(0).numpy()
    near, outside = (full_spectrum_outside(SIDE, *tilts, False) for tilts in ((-40, 70), (-30, 60)))
    mirrored = full_spectrum_outside(SIDE, -60, 30, False)
    assert power[near].sum() < 0.05 * power.sum()
    assert power[outside].sum() < 0.6 * power[mirrored].sum()


def test_the_noise_of_a_tilt_series_has_the_variance_asked_for(densities):
    imaging = Imaging(voxel_size=VOXEL, tilt_step=4.0, dose=80.0)
    simulator = Simulator(densities, imaging)
    labels, snr = torch.arange(120) % 3, torch.full((120,), 0.1)
    noisy, clean = (simulator(labels, value, generator(3)).volumes for value in (snr, snr * torch.inf))
    measured = clean.var(dim=(1, 2, 3, 4)) / (noisy - clean).var(dim=(1, 2, 3, 4))
    assert measured.mean().item() == pytest.approx(0.1, rel=0.06)
