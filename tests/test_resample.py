"""Resampling against functions whose values are known everywhere."""

import numpy as np
import pytest

from physics.resample import fit_box, fourier_resample, regrid

EXTENT = 240.0  # A


def waves(side: int, voxel_size: float, extent: float = EXTENT) -> np.ndarray:
    """A mean of 3 and waves along and across the axes, three of them over `extent` at most, at voxel centres."""
    at = 2 * np.pi * (np.arange(side) - (side - 1) / 2) * voxel_size / extent
    z, y, x = np.meshgrid(at, at, at, indexing="ij")
    return (3 + np.cos(x + 0.3) + 0.5 * np.sin(2 * y - z) + 0.25 * np.cos(3 * z + x + y)).astype(np.float32)


def blob(side: int, voxel_size: float) -> np.ndarray:
    """A Gaussian of 20 A, off the centre by (5, -8, 11) A, on a ground of -2."""
    at = (np.arange(side) - (side - 1) / 2) * voxel_size
    squares = (at[:, None, None] - 5) ** 2 + (at[None, :, None] + 8) ** 2 + (at - 11) ** 2
    return (np.exp(-squares / (2 * 20**2)) - 2).astype(np.float32)


@pytest.mark.parametrize(("side", "new_side"), [(12, 24), (24, 12), (12, 15), (15, 12), (15, 9), (9, 15), (16, 15)])
def test_waves_below_both_nyquist_frequencies_keep_their_values(side, new_side):
    voxel_size, new_voxel_size = EXTENT / side, EXTENT / new_side
    found = fourier_resample(waves(side, voxel_size), voxel_size, new_voxel_size, new_side)
    np.testing.assert_allclose(found, waves(new_side, new_voxel_size), atol=2e-5)


@pytest.mark.parametrize(("side", "voxel_size", "box"), [(24, 13.5, 32), (25, 13.5, 32), (40, 8.0, 31), (41, 8.0, 32)])
def test_a_particle_keeps_its_place_and_height_for_any_ratio_of_voxels(side, voxel_size, box):
    found = regrid(blob(side, voxel_size), voxel_size, 10.0, box)
    np.testing.assert_allclose(found, blob(box, 10.0), atol=0.01)


def test_waves_that_the_new_voxels_cannot_carry_vanish():
    fine = waves(24, 10.0, extent=48.0)  # periods of 48, 24 and 16 A
    np.testing.assert_allclose(fourier_resample(fine, 10.0, 40.0, 6), 3, atol=1e-4)


@pytest.mark.parametrize(("side", "new_side"), [(12, 18), (18, 11), (13, 12)])
def test_the_mean_of_noise_is_kept(side, new_side):
    noise = 5 + np.random.default_rng(0).normal(size=(side,) * 3).astype(np.float32)
    found = fourier_resample(noise, EXTENT / side, EXTENT / new_side, new_side)
    assert found.shape == (new_side,) * 3
    assert found.mean() == pytest.approx(noise.mean(), abs=1e-5)


def test_nothing_changes_where_box_and_voxel_size_agree():
    noise = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(regrid(noise, 10.0, 10.0, 8), noise)
    np.testing.assert_array_equal(regrid(noise, 10.05, 10.0, 8), noise)  # the same to 1 %
    assert np.abs(regrid(noise, 10.2, 10.0, 8) - noise).max() > 0.1


@pytest.mark.parametrize(("side", "box"), [(8, 4), (9, 5), (8, 5), (9, 4), (4, 8), (5, 9), (5, 8), (4, 9), (6, 6)])
def test_a_box_is_cut_or_filled_about_its_centre(side, box):
    volume = np.zeros((side,) * 3, dtype=np.float32)
    volume[side // 2, side // 2, side // 2] = 1
    found = fit_box(volume, box)
    assert found.shape == (box,) * 3
    assert np.unravel_index(found.argmax(), found.shape) == (box // 2,) * 3
    if box > side:
        assert found[0, 0, -1] == pytest.approx(volume.mean()) or found[-1, 0, 0] == pytest.approx(volume.mean())


def test_what_lies_outside_of_a_small_volume_is_its_mean():
    found = regrid(waves(12, 20.0), 20.0, 10.0, 40)
    np.testing.assert_allclose(found[8:-8, 8:-8, 8:-8], waves(24, 10.0), atol=2e-5)
    np.testing.assert_allclose(found[:8], 3, atol=1e-4)


def test_of_a_large_volume_the_middle_is_as_of_the_whole():
    whole = fourier_resample(blob(120, 5.0), 5.0, 10.0, 60)
    np.testing.assert_allclose(regrid(blob(120, 5.0), 5.0, 10.0, 32), fit_box(whole, 32), atol=1e-5)
