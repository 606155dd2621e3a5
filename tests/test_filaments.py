"""Filaments: that they run through the box, wind as said, lie any way round, and train as classes of their own."""

from dataclasses import replace

import pytest
import torch

import train
from common.cli import InputError
from physics.imaging import Imaging
from simulation.conditions import Condition
from simulation.filaments import MOST, Filament, filament, filament_makers
from simulation.junk import JUNK
from simulation.simulator import Simulator
from simulation.stream import ROOM, PieceMaker
from tests.scripts import small
from tests.test_stream_training import source

SIDE, VOXEL = 32, 10.0
TUBE = Filament(radius=100.0, wall=15.0, strands=13, pitch=-400.0, rise=80.0, depth=0.5, depth_along=0.3)


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator(torch.zeros(1, SIDE, SIDE, SIDE), Imaging(voxel_size=VOXEL, shift=0.0, padding=1.0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def upright(shape: Filament, simulator: Simulator, monkeypatch) -> torch.Tensor:
    """Along z through the centre, as its formula has it."""
    monkeypatch.setattr("simulation.filaments.random_rotations", lambda n, *_: torch.tensor([[1.0, 0, 0, 0]] * n))
    monkeypatch.setattr("torch.rand", lambda *size, **_: torch.full(size, 0.5))
    return shape.densities(1, simulator, generator())[0]


def test_a_filament_follows_its_formula(simulator, monkeypatch):
    """Voxel by voxel, also which way it winds."""
    found = upright(TUBE, simulator, monkeypatch)
    offset = (torch.arange(SIDE).double() - (SIDE - 1) / 2) * VOXEL
    for z, y, x in [(3, 5, 16), (20, 16, 6), (31, 24, 24), (0, 16, 25)]:
        u, v, t = offset[x], offset[y], offset[z] + 0.5 * TUBE.rise
        rho, phi = (u * u + v * v).sqrt(), torch.atan2(v, u)
        wall = torch.exp(-((rho - 100.0) ** 2) / (2 * 15.0**2))
        around = 1 + 0.5 * torch.cos(13 * phi - 2 * torch.pi * t / -400.0)
        along = 1 + 0.3 * torch.cos(2 * torch.pi * t / 80.0)
        assert found[z, y, x].item() == pytest.approx((MOST * wall * around * along / (1.5 * 1.3)).item(), abs=1e-5)


def test_the_other_hand_is_another_filament(simulator, monkeypatch):
    left, right = (upright(replace(TUBE, pitch=pitch), simulator, monkeypatch) for pitch in (-400.0, 400.0))
    assert (left - right).abs().max() > 0.2
    mirrored = left.flip(1)  # phi -> -phi
    assert (mirrored - right).abs().max() < 1e-4


def test_filaments_run_through_the_whole_box_any_way_round(simulator):
    """However turned, the box's faces are crossed; the directions differ."""
    volumes = TUBE.densities(12, simulator, generator(1))
    faces = torch.stack(
        [volumes.select(axis, end).amax((1, 2)) for axis in (1, 2, 3) for end in (0, SIDE - 1)]
    )  # (6, n)
    assert ((faces > 0.3).sum(0) >= 2).all()
    assert (volumes.amax((1, 2, 3)) <= MOST + 1e-5).all() and (volumes >= 0).all()
    flat = volumes.flatten(1) - volumes.flatten(1).mean(1, keepdim=True)
    alike = torch.corrcoef(flat)[~torch.eye(len(flat), dtype=torch.bool)]
    assert alike.max() < 0.9


def test_filaments_of_a_seed_are_always_the_same_and_differ():
    shapes = [filament(index, 9) for index in range(50)]
    assert shapes == [filament(index, 9) for index in range(50)] and len({*shapes}) == 50
    assert shapes[:3] != [filament(index, 10) for index in range(3)]
    assert 0.1 < sum(shape.radius == 0 for shape in shapes) / 50 < 0.5


def test_pieces_hold_filaments_before_junk(simulator):
    imaging = Imaging(voxel_size=VOXEL, shift=4.0, envelope=float("inf"))
    wide = Simulator(torch.zeros(1, SIDE, SIDE, SIDE), replace(imaging, shift=2.0), side=SIDE + 2 * ROOM)
    makers = [*filament_makers(3, 9), *JUNK.values()]
    labels = torch.tensor([1, 2, 3, 1, 2, 3, 4, 7])  # and noise, and a membrane
    make = PieceMaker(wide, lambda _: Condition(imaging), lambda n, _: labels, ROOM, 1, makers)
    piece = make(0)
    assert torch.equal(piece.labels, labels)
    assert piece.signals.isfinite().all() and (piece.levels > 0).all()
    assert piece.signals.float().std(dim=(1, 2, 3)).sub(1).abs().max() < 0.3


def test_filaments_are_classes_after_the_auxiliary_ones(shared, tmp_path):
    options = {"online_imaging": "random", "auxiliary": 2, "online_filaments": 3, "online_junk": 0.25}
    batches = source(shared, online_stock=256, **options)
    labels = torch.cat([batches.batch(0, number)[1] for number in range(30)])
    assert set(labels.tolist()) == set(range(3 + 2 + 3 + len(JUNK)))
    of_more = ((labels >= 3) & (labels < 8)).float().mean().item() / 0.75
    assert of_more == pytest.approx(0.7, abs=0.1)  # the auxiliary share of what is no junk
    assert ((labels >= 5) & (labels < 8)).float().mean().item() / 0.75 == pytest.approx(0.7 * 3 / 5, abs=0.1)


def test_filaments_need_a_stock(tmp_path):
    with pytest.raises(InputError, match="--online-filaments: of a stock of particles"):
        train.main(small(tmp_path, simulate_online=True, online_filaments=3))
    with pytest.raises(InputError, match="give --auxiliary-share above 0"):
        options = {"online_renewal": 0.5, "auxiliary_share": 0.0}
        train.main(small(tmp_path, simulate_online=True, online_filaments=3, **options))
