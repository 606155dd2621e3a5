"""Template matching of known classes: against a plain loop, on particles in poses of the grid, and as a benchmark."""

import json
import math
from dataclasses import replace
from itertools import product

import pytest
import torch

from benchmarks import template_matching
from benchmarks.template_matching import Search, Whitener, match, rotation_grid, shift_grid, standardised
from common.cli import InputError
from physics.filters import frequencies
from physics.grid import Grid
from physics.imaging import Imaging
from physics.pose import Poses
from simulation.simulator import Simulator
from simulation.structures import load_densities, procedural_name

BOX = 16
SEARCH = Search(snr=0.5, step=60.0, band=0.8, seed=3)


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    imaging = Imaging(envelope=math.inf, shift=1.0, voxel_size=20.0)
    names = tuple(map(procedural_name, range(3)))
    return Simulator(load_densities(names, "", Grid(BOX, 20.0, 40.0, 1.0), 9), imaging)


def test_rotations_of_the_grid_are_a_step_apart_and_leave_no_gap():
    grid, generator = rotation_grid(30.0), torch.Generator().manual_seed(0)
    assert grid.norm(dim=1) == pytest.approx(torch.ones(len(grid)), abs=1e-5)

    def degrees(cosines):  # between rotations, of the cosine between their quaternions, which have two signs
        return torch.rad2deg(2 * torch.arccos(cosines.abs().clamp(max=1)))

    among = degrees(grid @ grid.T).fill_diagonal_(360).min(dim=1).values
    assert among.min() > 20 and 25 < among.median() < 35
    drawn = torch.nn.functional.normalize(torch.randn(2000, 4, generator=generator), dim=1)
    assert degrees(drawn @ grid.T).min(dim=1).values.max() < 30


def test_scores_are_those_of_a_plain_loop_over_poses(simulator):
    """The same sums, coefficient by coefficient of the full spectrum, the templates moved instead of the volume."""
    generator, defocus = torch.Generator().manual_seed(1), torch.tensor([5.0])
    volumes = standardised(simulator(torch.tensor([0, 2]), torch.tensor([0.5, 0.5]), generator).volumes[:, 0])
    found = match(simulator, volumes, defocus.expand(2), replace(SEARCH, step=100.0))

    spectrum = simulator.filters(defocus)[1]
    noise = torch.Generator().manual_seed(SEARCH.seed)
    fields = [simulator.noise(simulator.white(32, noise), spectrum) for _ in range(8)]
    power = torch.fft.fftn(torch.cat(fields), dim=(1, 2, 3), norm="ortho").abs().square().mean(dim=0) / 1.5
    power = power.clamp(min=0.01 * power[..., : BOX // 2 + 1].mean())
    k = torch.fft.fftfreq(BOX)
    radius = (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2).sqrt()
    used = (radius <= 0.4) & (radius > 0)
    for label in range(3):
        for volume, best, evidence in zip(volumes, found["best"][:, label], found["evidence"][:, label], strict=True):
            y, terms, correlations = torch.fft.fftn(volume, norm="ortho"), [], []
            for turn in rotation_grid(100.0):
                poses = Poses(turn[None], torch.zeros(1, 3), defocus)
                posed = simulator.pose(torch.tensor([label]), poses, label)
                template = standardised(simulator.signal(posed, simulator.filters(defocus)[0]))[0] / 3**0.5
                t = torch.fft.fftn(template, norm="ortho")
                norm = (t.abs().square() / power)[used].sum()
                for z, y_, x in product((-1, 0, 1), repeat=3):
                    moved = torch.fft.fftn(template.roll((z, y_, x), dims=(0, 1, 2)), norm="ortho")
                    inner = ((y * moved.conj()).real / power)[used].sum()
                    correlations.append(inner / norm.sqrt())
                    terms.append(inner - norm / 2)
            assert max(correlations).item() == pytest.approx(best.item(), rel=1e-3)
            assert torch.stack(terms).logsumexp(0).item() == pytest.approx(evidence.item(), rel=2e-3)


def test_noise_of_the_whitened_coefficients_has_variance_one(simulator):
    whitener = Whitener(simulator, torch.tensor(5.0), SEARCH)
    white = simulator.white(200, torch.Generator().manual_seed(5))
    noise = simulator.noise(white, simulator.filters(torch.tensor([5.0]))[1]) * (1 / 1.5) ** 0.5
    coefficients = torch.view_as_real(whitener._spectrum(noise))
    kz, _, kx = frequencies(BOX)
    both = (kx > 0).expand(BOX, BOX, -1).flatten()[whitener.kept]  # stand for two coefficients of the full spectrum
    measured = (kz.abs() <= 1.5 * kx).expand(BOX, BOX, -1).flatten()[whitener.kept]  # well within the wedge
    assert coefficients[:, both & measured].square().mean().item() == pytest.approx(1, abs=0.05)


def test_particles_in_poses_of_the_grid_are_named_right_at_any_shift(simulator):
    turns = rotation_grid(60.0)
    labels = torch.arange(3).repeat_interleave(8)
    shifts = shift_grid(1.0)[torch.arange(24)].flip(1)  # x, y, z
    poses = Poses(turns[torch.arange(24) % len(turns)], shifts, torch.full((24,), 5.0))
    posed = simulator.pose(labels, poses)
    signal = simulator.signal(posed, simulator.filters(torch.tensor([5.0]))[0])
    noise = simulator.noise(
        simulator.white(24, torch.Generator().manual_seed(2)), simulator.filters(poses.defocus[:1])[1]
    )
    volumes = standardised(signal + simulator.noise_level(signal, 0.5) * noise)
    for scores in match(simulator, volumes, poses.defocus, SEARCH).values():
        assert (scores.argmax(dim=1) == labels).all()


def test_a_defocus_that_varies_is_rounded_and_every_volume_is_scored(simulator):
    volumes = standardised(torch.randn(4, BOX, BOX, BOX, generator=torch.Generator().manual_seed(0)))
    scores = match(simulator, volumes, torch.tensor([3.1, 4.0, 5.2, 3.0]), SEARCH)
    alone = match(simulator, volumes[:1], torch.tensor([3.0]), SEARCH)
    assert all(torch.isfinite(of).all() for of in scores.values())
    assert scores["best"][0] == pytest.approx(alone["best"][0], rel=1e-4)


def test_the_benchmark_compares_the_network_with_matching_on_the_same_particles(universal, tmp_path, capsys):
    places = {"work_dir": str(tmp_path / "work"), "results": str(tmp_path / "table"), "device": "cpu"}
    sizes = {"sets": ("benchmark",), "snr": (0.5,), "per_class": 2, "step": 60.0, "band": 0.5}
    cfg = template_matching.Config(str(universal), **places, **sizes)
    template_matching.main(cfg)
    content = json.loads((tmp_path / "table.json").read_text())
    assert (tmp_path / "table.md").read_text() == template_matching.page(content)
    (row,) = content["rows"]
    assert row["n"] == 2 * len(content["classes"]) and set(row["accuracy"]) == {"network", "best", "evidence"}
    assert row["accuracy"]["evidence"] > 1.5 / len(content["classes"])
    template_matching.main(cfg)  # what was finished is taken up
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == content["rows"]


@pytest.mark.parametrize(
    "wrong", [{"sets": ("other",)}, {"sets": ()}, {"snr": (math.inf,)}, {"step": 1.0}, {"band": 0.0}, {"per_class": 0}]
)
def test_options_that_nothing_can_be_measured_with_are_refused(wrong, tmp_path):
    with pytest.raises(InputError, match="expected"):
        template_matching.main(template_matching.Config("none.pt", work_dir=str(tmp_path), **wrong))
