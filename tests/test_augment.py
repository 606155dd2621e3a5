import pytest
import torch

from loader.augment import (
    HALF_TURNS,
    WEDGE_PADDING,
    apply_half_turns,
    apply_noise,
    apply_rotations,
    apply_shifts,
    draw_half_turns,
    draw_noise,
    draw_rotations,
    draw_shifts,
    safe_half_turns,
)
from physics.filters import padded_side, wedge


@pytest.fixture
def volumes():
    return torch.randn(6, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("axis", HALF_TURNS)
def test_a_half_turn_reverses_the_two_other_axes_and_mirrors_nothing(axis):
    kept = {"z": 0, "y": 1, "x": 2}[axis]
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0) - 1.5] * 3, indexing="ij"))  # coordinates z, y, x
    turned = torch.stack([apply_half_turns(field[None, None], torch.tensor([1]), (axis,))[0, 0] for field in grid])
    signs = torch.tensor([1.0 if number == kept else -1.0 for number in range(3)])
    assert torch.equal(turned, signs.view(3, 1, 1, 1) * grid)
    assert signs.prod() == 1  # a rotation


@pytest.mark.parametrize("axis", HALF_TURNS)
def test_two_half_turns_are_none(axis, volumes):
    choice = torch.ones(len(volumes), dtype=torch.int64)
    twice = apply_half_turns(apply_half_turns(volumes, choice, (axis,)), choice, (axis,))
    assert torch.equal(twice, volumes)


def test_each_volume_gets_its_own_turn_and_the_input_is_left_alone(volumes):
    before = volumes.clone()
    turned = apply_half_turns(volumes, torch.tensor([0, 1, 2, 3, 0, 1]), ("z", "y", "x"))
    assert torch.equal(turned[0], volumes[0])
    assert torch.equal(turned[1], volumes[1].flip(2, 3))
    assert torch.equal(turned[2], volumes[2].flip(1, 3))
    assert torch.equal(turned[3], volumes[3].flip(1, 2))
    assert torch.equal(volumes, before)


def test_half_turns_keep_a_symmetric_wedge_and_only_the_tilt_axis_keeps_an_asymmetric_one():
    frequency = torch.fft.fftfreq(9)
    kz, kx = torch.meshgrid(frequency, frequency, indexing="ij")
    angle = torch.rad2deg(torch.atan2(kz, kx))
    angle = torch.where(angle > 90, angle - 180, torch.where(angle <= -90, angle + 180, angle))
    for low, high in ((-60, 60), (-40, 60)):
        wedge = ((angle >= low) & (angle <= high)).float()[:, None, :].expand(9, 9, 9)
        noise = torch.randn(9, 9, 9, generator=torch.Generator().manual_seed(1))
        volume = torch.fft.ifftn(torch.fft.fftn(noise) * wedge).real
        for axis in HALF_TURNS:
            turned = apply_half_turns(volume[None, None], torch.tensor([1]), (axis,))[0, 0]
            outside = (torch.fft.fftn(turned).abs() ** 2 * (1 - wedge)).sum() / (turned**2).sum() / 9**3
            assert (outside < 1e-3) == (axis in safe_half_turns(low, high)), (low, high, axis, outside)


def test_no_turn_is_safe_where_the_tilt_range_is_unknown():
    assert safe_half_turns(None, None) == ()


def test_each_volume_is_shifted_by_its_own_whole_voxels(volumes):
    shifts = torch.tensor([[0, 0, 0], [1, 0, 0], [0, -1, 0], [0, 0, 2], [1, 1, 1], [-2, 1, 0]])
    shifted = apply_shifts(volumes, shifts)
    for volume, shift, found in zip(volumes, shifts.tolist(), shifted, strict=True):
        assert torch.equal(found, volume.roll(shift, dims=(1, 2, 3)))


def test_a_shift_keeps_the_power_spectrum_and_with_it_the_wedge(volumes):
    shifted = apply_shifts(volumes, torch.tensor([[1, 2, -1]]).expand(len(volumes), 3))
    before, after = (torch.fft.fftn(part, dim=(2, 3, 4)).abs() for part in (volumes, shifted))
    torch.testing.assert_close(after, before)


def test_shifts_are_drawn_within_their_limit_and_reach_it():
    shifts = draw_shifts(1000, 2, torch.Generator().manual_seed(0))
    assert shifts.shape == (1000, 3)
    assert sorted(shifts.unique().tolist()) == [-2, -1, 0, 1, 2]
    assert draw_shifts(5, 0, torch.Generator()).eq(0).all()


def test_the_same_seed_draws_the_same_turns_and_all_of_them():
    first, second = (draw_half_turns(1000, ("z", "y", "x"), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert (torch.bincount(first, minlength=4) > 200).all()
    assert draw_half_turns(10, (), torch.Generator()).eq(0).all()


def test_noise_is_of_the_seed_alone_and_keeps_the_variance():
    volumes = torch.randn(64, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    seeds = draw_noise(64, torch.Generator().manual_seed(1))
    noisy = apply_noise(volumes, seeds, 2.0)
    assert torch.equal(apply_noise(volumes[5:9], seeds[5:9], 2.0), noisy[5:9])
    assert noisy.var(dim=(1, 2, 3, 4)).sub(1).abs().max() < 0.1
    # a volume and its noisy copy correlate as 1 / sqrt(1 + level^2), level uniform in 0 ... 2
    level = ((volumes * noisy).mean(dim=(1, 2, 3, 4)) ** -2 - 1).clamp_min(0).sqrt()
    assert level.max() < 2.1
    assert level.mean() == pytest.approx(1.0, abs=0.2)


def gaussian(centre, side=16):
    """A round blob at `centre` (x, y, z), voxels from the middle of the box: (1, 1, D, H, W)."""
    place = torch.arange(side) - (side - 1) / 2
    z, y, x = torch.meshgrid(place, place, place, indexing="ij")
    square = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return torch.exp(-square / 8)[None, None]


@pytest.mark.parametrize(
    ("quaternion", "after"),
    [((1, 0, 0, 0), (3, 1, 0)), ((0.5**0.5, 0, 0, 0.5**0.5), (-1, 3, 0)), ((0.5**0.5, 0.5**0.5, 0, 0), (3, 0, 1))],
    ids=["none", "90 degrees about z", "90 degrees about x"],
)
def test_a_rotation_takes_what_is_in_the_box_along(quaternion, after):
    turned = apply_rotations(gaussian((3, 1, 0)), torch.tensor([quaternion]), (-90.0, 90.0))
    expected = gaussian(after)
    correlation = torch.corrcoef(torch.stack([turned.flatten(), expected.flatten()]))[0, 1]
    assert correlation > 0.99


def test_a_rotated_volume_lacks_the_wedge_again_as_if_it_were_cut_out_of_a_tomogram():
    generator = torch.Generator().manual_seed(0)
    volumes = torch.randn(4, 1, 16, 16, 16, generator=generator)
    turned = apply_rotations(volumes, draw_rotations(4, generator), (-60.0, 60.0))
    uncut = apply_rotations(volumes, draw_rotations(4, generator), (-90.0, 90.0))
    missing = ~wedge(16, -70.0, 70.0)  # well inside the wedge: the crop of the padded box blurs its rim
    share = [power(volume)[:, missing].sum() / power(volume).sum() for volume in (turned, uncut)]
    assert share[0] < 0.3 * share[1]
    assert turned.mean(dim=(1, 2, 3, 4)).abs().max() < 1e-4
    assert turned.std(dim=(1, 2, 3, 4), correction=0).sub(1).abs().max() < 1e-4
    assert padded_side(16, WEDGE_PADDING) > 16


def power(volumes):
    return torch.fft.rfftn(volumes[:, 0], dim=(1, 2, 3)).abs() ** 2
