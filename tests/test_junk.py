"""What is no particle: where its density is, that it trains as classes of its own, and what is beside particles."""

from dataclasses import replace

import pytest
import torch

import train
from common.cli import InputError
from physics.grid import Grid
from physics.imaging import Imaging
from physics.pose import pose, random_rotations
from simulation.conditions import Condition, ImagingRanges
from simulation.crowd import reach
from simulation.junk import JUNK, beside, made_densities
from simulation.simulator import MASK_LEVEL, Simulator
from simulation.stream import GROUP, ROOM, PieceMaker, Stock
from simulation.structures import load_densities
from tests.scripts import small

SIDE, VOXEL = 24, 10.0
KINDS = {name: index for index, name in enumerate(JUNK)}
IMAGING = Imaging(voxel_size=VOXEL, shift=0.0, envelope=float("inf"))


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator(load_densities(("complex07", "complex09"), "", Grid(SIDE, VOXEL, 20.0)), IMAGING)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def densities(simulator: Simulator, name: str, n: int = 12) -> torch.Tensor:
    volumes = made_densities(torch.full((n,), KINDS[name]), tuple(JUNK.values()), simulator, generator(1))
    assert volumes.shape == (n, *[simulator.wide_side] * 3) and volumes.isfinite().all()
    return volumes


def distances(simulator: Simulator) -> torch.Tensor:
    offset = torch.arange(simulator.wide_side) - (simulator.wide_side - 1) / 2
    return (offset[:, None, None] ** 2 + offset[:, None] ** 2 + offset**2).sqrt()


def test_noise_alone_has_no_density(simulator):
    assert not densities(simulator, "junk_noise").any()


@pytest.mark.parametrize("name", ["junk_off_centre", "junk_between"])
def test_particles_off_the_centre_leave_it(simulator, name):
    volumes, far = densities(simulator, name), distances(simulator)
    mass = volumes.clamp(min=0)
    centre = far * (mass / mass.sum((1, 2, 3), keepdim=True))
    assert (centre.sum((1, 2, 3)) > 0.25 * SIDE).all()  # the mean distance of their mass from the centre
    lone = simulator.fine[:, ::2, ::2, ::2].clamp(min=0).sum((1, 2, 3)).max()
    assert (mass.sum((1, 2, 3)) < 2.2 * lone).all()


def test_a_membrane_is_two_sheets_that_pass_near_the_centre(simulator):
    volumes, far = densities(simulator, "junk_membrane"), distances(simulator)
    assert all(volume[far < SIDE / 6 + 3].max() > 0.5 for volume in volumes)
    assert (volumes.amax((1, 2, 3)) < 1).all() and (volumes.amin((1, 2, 3)) < -0.05).all()
    assert ((volumes > 0.3).float().mean((1, 2, 3)) > 0.01).all()  # it crosses the box


def test_a_gold_bead_is_a_dense_ball_of_5_to_15_nm_near_the_centre(simulator):
    volumes, far = densities(simulator, "junk_bead", 40), distances(simulator)
    assert (volumes.amax((1, 2, 3)) > 5).all()
    diameter = 2 * (3 / (4 * torch.pi) * (volumes / 8).sum((1, 2, 3))) ** (1 / 3) * VOXEL / 10  # nm
    assert diameter.min() > 4.5 and diameter.max() < 17 and diameter.std() > 2
    assert ((far * volumes).sum((1, 2, 3)) / volumes.sum((1, 2, 3)) < SIDE / 12 * 1.8 + 75 / VOXEL).all()


def test_carbon_fills_one_side_of_an_upright_edge(simulator):
    volumes = densities(simulator, "junk_carbon", 30)
    filled = (volumes.abs() > 0.1).any(dim=1)  # seen along the beam
    share = filled.float().mean((1, 2))
    assert (share > 0.15).all() and (share < 0.85).all()
    thick = (volumes.abs() > 0.1).float().sum(1).amax((1, 2)) * VOXEL / 10
    assert thick.min() > 9 and thick.max() < 25


def test_what_is_beside_a_particle_does_not_overlap_it(simulator):
    n = 24
    labels, turns = torch.arange(n) % 2, random_rotations(n, generator(2))
    simulator = replace_padding(simulator)

    def reaches(way: torch.Tensor) -> torch.Tensor:
        return reach(simulator.outlines[labels], turns, way[:, None])[:, 0]

    some = torch.arange(n) % 4
    around = beside(reaches, some > 1, some % 2 == 1, simulator, generator(3))
    assert not around[some == 0].any()
    assert all(volume.max() > 0.5 for volume in around[some > 0])
    assert (around[some == 1].amax((1, 2, 3)) > 5).all()  # a bead alone
    target = pose(simulator.fine, labels, turns, torch.zeros(n, 3), simulator.wide_side)
    both = ((target > MASK_LEVEL) & (around > MASK_LEVEL)).sum((1, 2, 3))
    assert (both / (target > MASK_LEVEL).sum((1, 2, 3))).mean() < 0.01


def replace_padding(simulator: Simulator) -> Simulator:
    """With a wide box of three times the side, which holds what is beside."""
    return simulator.under(replace(simulator.imaging, padding=3.0))


def test_pieces_hold_junk_beside_particles(simulator):
    condition = Condition(replace(IMAGING, shift=4.0), one_level=True, membranes=0.5, beads=0.5)
    wide = Simulator(simulator.fine[:, ::2, ::2, ::2].contiguous(), replace(IMAGING, shift=2.0), side=SIDE + 2 * ROOM)
    labels = torch.tensor([0, 1, *range(2, 8)])
    make = PieceMaker(wide, lambda _: condition, lambda n, _: labels, ROOM, 1)
    piece = make(0)
    assert torch.equal(piece.labels, labels)
    assert piece.signals.isfinite().all() and piece.levels.isfinite().all() and (piece.levels > 0).all()
    stock = Stock(make, 1)
    stock.advance(0)
    volumes, found = stock.read(stock.draw(GROUP, (0.1, 0.1), 1.0, generator(4)))
    assert volumes.isfinite().all() and set(found.tolist()) == set(range(8))
    noise = volumes[found == 2 + KINDS["junk_noise"], 0, :, :, :]  # noise alone, also where the SNR is infinite
    assert (noise[..., 1:] * noise[..., :-1]).mean().abs() < 0.5
    alone = PieceMaker(wide, lambda _: condition, lambda n, _: torch.full((n,), 2), ROOM, 1)(0)
    assert alone.signals.float().std(dim=(1, 2, 3)).sub(1).abs().max() < 0.1


def test_random_imaging_has_membranes_and_beads_beside_particles():
    condition = ImagingRanges().draw(Imaging(), generator())
    assert condition.membranes == 0.1 and condition.beads == 0.05


def test_junk_needs_a_stock(tmp_path):
    with pytest.raises(InputError, match="give --online-renewal below 1 too"):
        train.main(small(tmp_path, simulate_online=True, online_junk=0.3))
    with pytest.raises(InputError, match="of volumes that are simulated"):
        train.main(small(tmp_path, online_junk=0.3))
    with pytest.raises(InputError, match=r"--online-junk 1\.5: expected 0 to 1"):
        train.main(small(tmp_path, simulate_online=True, online_junk=1.5))
