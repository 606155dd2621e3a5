"""The independent imaging: its own choices under the conventions of all, and files as the simulator's."""

import ast
import dataclasses
import math
import os

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

import csv_split
import simulate
from common.cli import REPOSITORY, InputError
from loader.rows import read_split
from loader.volume import read_volume, write_volume
from physics.filters import ctf, wedge
from physics.grid import Grid
from physics.imaging import Imaging
from physics.pose import Poses
from simulation.other import (
    OtherFiles,
    check_imaging,
    coarse,
    contrast_transfer,
    fine_densities,
    frequencies,
    of_map,
    turned,
)
from simulation.particles import Pose
from simulation.sets import SETS
from simulation.simulator import Simulator
from simulation.structures import load_densities, procedural_complex
from tests.test_structures import SHARED, needs_structures

GRID, SMALL = Grid(32, 10.0, 20.0), Grid(16, 20.0, 40.0)
NAMES = ("complex00", "complex07", "complex09")
IMAGING = SETS["other"]["imaging"]
COARSE = dataclasses.replace(IMAGING, voxel_size=SMALL.voxel_size)
SNR = (0.1, 1.0, math.inf)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


@pytest.fixture(scope="module")
def fine() -> np.ndarray:
    return fine_densities(NAMES, "", GRID, 0, True, 0.1)


@pytest.fixture(scope="module")
def small() -> np.ndarray:
    return fine_densities(NAMES, "", SMALL, 0, True, 0.1)


@pytest.fixture
def files(small, tmp_path) -> OtherFiles:
    return OtherFiles(tmp_path, NAMES, small, COARSE, 9, SNR)


def test_it_imports_nothing_of_what_it_is_independent_of():
    tree = ast.parse((REPOSITORY / "simulation" / "other.py").read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    parts = ("filters", "pose", "resample", "simulator", "tilt_series", "crowd")
    assert not [name for name in modules if name.startswith("torch") or name.split(".")[-1] in parts]


def test_its_reference_densities_are_those_of_the_simulator_but_for_their_sharpness(fine):
    theirs = load_densities(NAMES, "", GRID, 0).numpy()
    for density, expected in zip(fine, theirs, strict=True):
        assert density.shape == (64,) * 3 and density.dtype == np.float32
        assert 0.93 < correlation(coarse(density), expected) < 0.9999
        assert correlation(gaussian_filter(coarse(density), 1.0), gaussian_filter(expected, 1.0)) > 0.99


@pytest.mark.parametrize("tilts", [(-60.0, 60.0), (-30.0, 65.0)])
def test_it_shows_a_particle_of_one_pose_as_the_simulator_does(fine, tmp_path, monkeypatch, tilts):
    """The same centre, axes, sense of rotation, order of turn and shift, tilt axis and contrast: one wrong, and no
    correlation stays this high."""
    imaging = dataclasses.replace(IMAGING, tilt_min=tilts[0], tilt_max=tilts[1])
    poses = [Pose(Rotation.random(rng=k).as_quat(scalar_first=True), (1.5, -2.0, 0.5), 4.0) for k in range(3)]
    ours = OtherFiles(tmp_path, NAMES, fine, imaging, 9, (math.inf,))
    monkeypatch.setattr(ours, "pose", lambda label, number: poses[number])
    simulator = Simulator(load_densities(NAMES, "", GRID, 0), imaging)
    drawn = (torch.tensor(np.array([getattr(pose, name) for pose in poses])).float() for name in Pose._fields)
    there = Poses(*drawn)
    for label in (1, 2):
        masks, (volumes,) = ours.image(label, range(3))
        posed = simulator.pose(torch.full((3,), label), there)
        expected = simulator.signal(posed, simulator.filters(there.defocus)[0]).numpy()
        for volume, other, mask, solid in zip(volumes, expected, masks, posed.numpy() > 0.3, strict=True):
            low, low_expected = gaussian_filter(volume, 1.0), gaussian_filter(other, 1.0)
            assert correlation(low, low_expected) > 0.95
            assert (mask & solid).sum() > 0.75 * (mask | solid).sum()
            for axis in range(3):
                assert correlation(np.flip(low, axis), low_expected) < 0.9


def test_a_half_turn_reverses_the_two_other_axes(small):
    spline = small[1]
    for axis, flipped in ((1, (0, 1)), (2, (0, 2)), (3, (1, 2))):  # about x, y, z; the array's axes are z, y, x
        quaternion = np.eye(4)[axis]
        result, untouched = (turned(spline, one, (0, 0, 0)) for one in (quaternion, (1.0, 0, 0, 0)))
        np.testing.assert_allclose(result, np.flip(untouched, flipped), atol=1e-4 * result.max())
        assert correlation(result, untouched) < 0.999


def test_its_contrast_transfer_is_the_formula_of_the_simulator_evaluated_on_its_own():
    k = np.linspace(0, 0.05, 200)
    for imaging in (IMAGING, Imaging(voltage=200.0, envelope=0.4)):
        expected = ctf(torch.tensor(k), torch.tensor([4.0], dtype=torch.double), imaging)[0].numpy()
        np.testing.assert_allclose(contrast_transfer(k, 4.0, imaging), expected, atol=2e-5)


@pytest.mark.parametrize("tilts", [(-60.0, 60.0), (-30.0, 65.0), (-90.0, 90.0)])
@pytest.mark.parametrize("side", [15, 16])
def test_it_sees_what_the_wedge_leaves_within_the_sphere_of_nyquist(tilts, side):
    radius, seen = frequencies(side, Imaging(tilt_min=tilts[0], tilt_max=tilts[1]))
    expected = wedge(side, *tilts).numpy() & (radius[..., : side // 2 + 1] < 0.5)
    assert (seen[..., : side // 2 + 1] == expected).all()


def test_volumes_of_one_pose_correlate_as_the_snr_says(files):
    for number in range(2):
        contrast = contrast_transfer(files.radius / COARSE.voxel_size, files.pose(0, number).defocus, COARSE)
        for at, snr in enumerate(SNR[:-1]):
            _, volumes = files.image(0, range(number, number + 1))
            signal, noisy = volumes[-1][0], volumes[at][0]
            assert (noisy - signal).var() == pytest.approx(signal.var() / snr, rel=1e-3)
            again = [files.noise(contrast * files.seen, np.random.default_rng(k)) for k in range(30)]
            level = np.sqrt(signal.var() / snr)
            measured = np.mean([correlation(noisy, signal + level * noise) for noise in again])
            assert measured == pytest.approx(snr / (1 + snr), rel=0.1)


def test_the_lab_convention_is_twice_as_noisy(small, tmp_path):
    lab = OtherFiles(tmp_path, NAMES, small, dataclasses.replace(COARSE, snr_convention="lab"), 9, (0.5, math.inf))
    _, (noisy, clean) = lab.image(0, range(2))
    for one, other in zip(noisy, clean, strict=True):
        assert (one - other).var() == pytest.approx(2 * other.var() / 0.5, rel=1e-3)


def test_its_noise_lies_in_the_sphere_and_out_of_the_wedge(files):
    contrast = contrast_transfer(files.radius / COARSE.voxel_size, 4.0, COARSE) * files.seen
    power = np.mean(
        [np.abs(np.fft.fftn(files.noise(contrast, np.random.default_rng(k)))) ** 2 for k in range(20)], axis=0
    )
    assert power[files.seen == 0].max() < 1e-9 * power.mean()
    size = np.abs(contrast) / np.abs(contrast).max()
    white, through = power[(files.seen == 1) & (size < 0.2)], power[(files.seen == 1) & (size > 0.8)]
    assert through.mean() > 1.2 * white.mean()


def test_a_particle_does_not_depend_on_what_else_is_made(small, files, tmp_path):
    masks, volumes = files.image(1, range(3))
    alone = OtherFiles(tmp_path, NAMES[1:2], small[1:2], COARSE, 9, SNR[:1])
    again, (noisy,) = alone.image(0, range(2, 3))
    assert np.array_equal(noisy[0], volumes[0][2]) and np.array_equal(again[0], masks[2])
    assert not np.array_equal(volumes[0][0], volumes[0][1])


def test_shifts_fill_a_ball(files):
    shifts = np.array([files.pose(0, number).shift for number in range(300)])
    distance = np.linalg.norm(shifts, axis=1)
    assert 0.95 * IMAGING.shift < distance.max() <= IMAGING.shift
    assert np.median(distance) == pytest.approx(IMAGING.shift / 2 ** (1 / 3), rel=0.05)


@pytest.mark.parametrize("own", [4.0, 10.0])
def test_a_map_gives_the_density_that_the_simulator_makes_of_it(tmp_path, own):
    expected = procedural_complex(9, 0, GRID)
    moved = np.pad(3.7 * procedural_complex(9, 0, Grid(None, own, 20.0)), ((0, 3), (2, 0), (0, 1)))
    write_volume(tmp_path / "map.mrc", moved.astype(np.float32), own)
    assert correlation(coarse(of_map(tmp_path / "map.mrc", GRID, 0.1)), expected) > 0.95
    with pytest.raises(InputError, match=r"map\.mrc: .* need a box of"):
        of_map(tmp_path / "map.mrc", dataclasses.replace(GRID, box=12), 0.1)


@needs_structures
@pytest.mark.parametrize("folder, name", [("pdb", "3hhb"), ("maps_10A", "1bxn")])
def test_a_structure_file_gives_the_density_that_the_simulator_makes_of_it(folder, name):
    source = (name,), SHARED / folder, GRID, 0, True, 0.1
    ours, theirs = coarse(fine_densities(*source)[0]), load_densities(*source)[0].numpy()
    assert correlation(ours, theirs) > 0.95
    assert max(correlation(np.flip(ours, axis), theirs) for axis in range(3)) < 0.95


def test_what_it_does_not_have_is_refused():
    check_imaging(IMAGING)
    for wrong in ({"neighbours": 3}, {"tilt_step": 3.0}, {"band_limit": 0.5}, {"common_noise": True}):
        with pytest.raises(InputError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
            check_imaging(dataclasses.replace(IMAGING, **wrong))


def test_its_files_are_split_and_read_as_any_others(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    options = {"procedural": 3, "per_class": 8, "box": 16, "snr": (0.1, math.inf), "device": "cpu"}
    expert = simulate.Expert(resolution=40.0, workers=1)
    cfg = simulate.Config(str(tmp_path / "data_"), independent=True, imaging=COARSE, expert=expert, **options)
    simulate.main(cfg)
    torch.set_num_threads(threads)
    monkeypatch.chdir(tmp_path)
    csv_split.main(csv_split.Config(unseen=("complex02",)))
    table = read_split(tmp_path / "csv_split" / "train.csv")
    assert {*table["Actual Label"]} == {"complex00", "complex01"} and {*table["Voxel Size"]} == {"20"}
    assert {*table["Defocus"].astype(float)} == {4.0}
    for row in table.to_dict("records"):
        volume, voxel_size = read_volume(row["Input Data"])
        mask, _ = read_volume(row["Segmentation Ground Truth"])
        assert volume.shape == (16,) * 3 and voxel_size == 20.0
        assert volume[mask > 0].mean() > volume[mask == 0].mean()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data_").rglob("*.mrc")}
    simulate.main(cfg)  # nothing is made again
    torch.set_num_threads(threads)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "data_").rglob("*.mrc")}
    assert os.path.getsize(tmp_path / "data_" / "contact_sheet.png") > 10_000
