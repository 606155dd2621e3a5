"""Whole simulated volumes: targets, neighbours around them, and the ranges that both keep to."""

import pytest
import torch

from common.cli import InputError
from physics.grid import Grid
from physics.imaging import Imaging
from physics.pose import Poses, pose, posing_grid
from simulation.crowd import draw_crowd, scene
from simulation.simulator import MASK_LEVEL, Simulator, simulate
from simulation.structures import load_densities

SIDE, VOXEL, RESOLUTION = 16, 20.0, 40.0  # a small box of coarse voxels: the physics is the same
SMALL = Imaging(voxel_size=VOXEL, shift=1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_simulate_gives_volumes_and_masks_of_the_targets(densities):
    out = simulate(densities, torch.tensor([0, 1, 2, 0]), torch.tensor([0.1, 0.1, torch.inf, torch.inf]), SMALL)
    assert out.volumes.shape == out.masks.shape == (4, 1, SIDE, SIDE, SIDE)
    assert out.volumes.dtype == torch.float32 and out.masks.dtype == torch.bool
    inside, outside = out.volumes[3][out.masks[3]].mean(), out.volumes[3][~out.masks[3]].mean()
    assert inside > outside  # bright particles
    assert 0.6 < out.masks[1].sum() / (densities[1] > MASK_LEVEL).sum() < 1.6


def test_conditions_can_change_between_batches(densities):
    other = Imaging(voxel_size=VOXEL, tilt_min=-45, tilt_max=50, defocus=(3.0, 4.0), shift=2.0)
    labels, snr = torch.tensor([0, 1, 2]), torch.tensor([0.1, 0.5, torch.inf])
    changed = Simulator(densities, SMALL).under(other)
    assert torch.equal(
        changed(labels, snr, generator(1)).volumes, simulate(densities, labels, snr, other, generator(1)).volumes
    )
    with pytest.raises(ValueError, match="neighbours where there were none"):
        changed.under(Imaging(voxel_size=VOXEL, neighbours=1))


@pytest.mark.parametrize("side", [15, 16])
def test_any_side_works_with_neighbours_and_is_centred(side):
    densities = load_densities(("complex08",), "", Grid(side, VOXEL, RESOLUTION))
    imaging = Imaging(voxel_size=VOXEL, shift=0.0, neighbours=2, tilt_min=-90, tilt_max=90)
    simulator = Simulator(densities, imaging)
    out = simulator(torch.zeros(4, dtype=torch.long), torch.full((4,), torch.inf), generator(2))
    assert out.volumes.shape == (4, 1, side, side, side)
    offset = torch.arange(side) - (side - 1) / 2
    posed = simulator.pose(torch.zeros(4, dtype=torch.long), out.poses)
    for axes in ((1, 2), (1, 3), (2, 3)):
        assert ((posed.sum(axes) * offset).sum(1) / posed.sum((1, 2, 3))).abs().max() < 0.05


def test_the_same_generator_gives_the_same_volumes(densities):
    labels, snr = torch.tensor([0, 1, 2]), torch.tensor([0.1, 0.5, torch.inf])
    first, again, other = (simulate(densities, labels, snr, SMALL, generator(s)).volumes for s in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_neighbours_do_not_overlap_the_target_or_each_other():
    densities = load_densities(("complex02", "complex03", "complex08"), "", Grid(20, VOXEL, RESOLUTION))
    simulator = Simulator(densities, Imaging(voxel_size=VOXEL, neighbours=5))
    labels = torch.arange(24) % 3
    poses, crowd = simulator.draw(labels, generator(1))
    assert crowd.present.float().mean() > 0.35  # of 0 to 5 wanted
    wide = 60
    target = pose(simulator.fine, labels, poses.quaternions, poses.shifts, wide) > 0.5
    counted = target.int()
    for j in range(5):
        one = type(crowd)(*(part[:, j : j + 1] for part in crowd))
        counted += (scene(simulator.other_fine, one, simulator.other_inner, wide) > 0.5).int()
    assert (counted > 0).sum() > 1.5 * target.sum()
    assert counted.max() == 1


def test_every_number_of_neighbours_up_to_the_most_is_as_likely():
    densities = load_densities(("complex03",), "", Grid(20, VOXEL, RESOLUTION))
    simulator = Simulator(densities, Imaging(voxel_size=VOXEL, neighbours=3))
    _, crowd = simulator.draw(torch.zeros(400, dtype=torch.long), generator(1))
    counts = torch.bincount(crowd.present.sum(dim=1), minlength=4)
    assert ((counts - 100).abs() < 40).all(), counts


def test_a_neighbour_is_drawn_where_it_was_placed():
    densities = load_densities(("complex03",), "", Grid(20, VOXEL, RESOLUTION))
    fine = posing_grid(densities)
    simulator = Simulator(densities, Imaging(voxel_size=VOXEL, neighbours=1))
    target = simulator.outlines[[0]]
    crowd = draw_crowd(target, torch.tensor([[1.0, 0, 0, 0]]), torch.zeros(1, 3), target, 1, generator(3))
    crowd = crowd._replace(present=torch.ones(1, 1, dtype=torch.bool))
    volume = scene(fine, crowd, simulator.other_inner, 40)
    expected = pose(fine, crowd.labels[:, 0], crowd.quaternions[:, 0], crowd.positions[:, 0], 40)
    assert (volume - expected).abs().max() < 0.03


def test_neighbours_leave_the_targets_noise_as_it_is(densities):
    labels, snr = torch.arange(3), torch.tensor([0.1, 0.1, 0.1])
    simulator = Simulator(densities, Imaging(voxel_size=VOXEL, neighbours=3))
    poses, crowd = simulator.draw(labels, generator(1))
    target, _ = simulator.filters(poses.defocus)
    alone = simulator.signal(simulator.pose(labels, poses), target)
    image = simulator.image(simulator.pose(labels, poses), poses.defocus, crowd)
    assert torch.equal(image.alone, alone) and image.signal.shape == alone.shape
    assert not torch.equal(image.signal, alone)
    expected = (alone.var(dim=(1, 2, 3), correction=0) / snr).sqrt()
    assert torch.allclose(simulator.noise_level(alone, snr).flatten(), expected)


def test_poses_stay_in_their_ranges(densities):
    simulator = Simulator(densities, Imaging(voxel_size=VOXEL, shift=1.5, defocus=(3.0, 6.0)))
    poses: Poses = simulator.draw(torch.zeros(500, dtype=torch.long), generator())[0]
    assert poses.shifts.abs().max() <= 1.5 and poses.shifts.abs().max() > 1.4
    assert poses.defocus.min() >= 3 and poses.defocus.max() <= 6 and poses.defocus.std() > 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"tilt_min": 60.0, "tilt_max": 60.0},
        {"tilt_max": 100.0},
        {"snr_convention": "peak"},
        {"defocus": (6.0, 5.0)},
        {"envelope": 0.0},
        {"padding": 0.5},
        {"neighbours": -1},
        {"tilt_step": 3.0, "dual_axis": True},
        {"dose": 100.0},
    ],
)
def test_impossible_imaging_is_refused(densities, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Simulator(densities, Imaging(**wrong))
