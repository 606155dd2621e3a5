"""The stream of training volumes: the law of its noise, how often a particle recurs, and that it can be taken up."""

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from physics.filters import geometry, noise_filter, radial_power, transfer
from physics.imaging import Imaging
from physics.pose import Poses, pose, posing_grid
from simulation.conditions import Condition, ImagingRanges, imaging_warning
from simulation.simulator import Simulator
from simulation.stream import GROUP, HALF_TURNS, ROOM, Draw, PieceMaker, Stock, room_for
from training.online import draw_labels

CPU = torch.device("cpu")
SIDE, VOXEL = 16, 20.0
BASE = Imaging(voxel_size=VOXEL, shift=4.0)
RANGES = ImagingRanges(neighbours=1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def maker(densities: torch.Tensor, imaging: Imaging | None = None, one_level: bool = False, seed: int = 1):
    """Of one imaging, or of random imaging."""
    widest = replace(imaging or replace(BASE, neighbours=1), shift=BASE.shift - ROOM)
    simulator = Simulator(densities, widest, side=SIDE + 2 * ROOM)
    draw = (lambda _: Condition(imaging, one_level)) if imaging else partial(RANGES.draw, BASE)
    return PieceMaker(simulator, draw, lambda n, drawn: draw_labels(n, len(densities), 0, 0.0, drawn), ROOM, seed)


def drawn_as_stored(rows: torch.Tensor, factors: torch.Tensor, seed: int) -> Draw:
    """Draws without a turn or a shift of the signal, and noise from anywhere."""
    n, of = len(rows), generator(seed)
    middle = torch.full((n, 3), ROOM)
    corners = torch.randint(2 * SIDE, (n, 3), generator=of)
    return Draw(rows, torch.zeros(n, dtype=torch.long), middle, torch.zeros(n, dtype=torch.long), corners, factors)


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = (part.flatten(1) - part.flatten(1).mean(1, keepdim=True) for part in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


# ---- noise ----


def test_noise_of_a_measured_spectrum_has_it_in_the_boxes(densities):
    """The boxes of the fields have the power that boxes of other noise had, shell by shell."""
    imaging = replace(BASE, noise_colour=1.0, noise_through_ctf=0.0)
    measured = boxes(maker(densities, imaging))
    power = radial_power(measured).mean(0)
    plain = replace(BASE, tilt_min=-50.0, noise_through_ctf=1.0)
    simulator = maker(densities, plain).simulator
    make = PieceMaker(simulator, lambda _: Condition(plain, noise_power=tuple(power.tolist())), of_first, ROOM, 1)
    found = radial_power(boxes(make)).mean(0)
    unlike = radial_power(boxes(maker(densities, plain))).mean(0)
    shells = slice(1, SIDE // 2)
    assert found[shells].numpy() == pytest.approx(power[shells].numpy(), rel=0.2)
    assert (unlike[shells] / power[shells]).max() > 2
    assert make(0).field.float().var().item() == pytest.approx(1.0, rel=0.1)


def boxes(make: PieceMaker) -> torch.Tensor:
    """Of the fields of some pieces, the first box of each."""
    return torch.stack([make(number).field[:SIDE, :SIDE, :SIDE] for number in range(40)]).float()


def of_first(n: int, drawn: torch.Generator) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.long)


def test_the_fields_have_the_spectrum_of_the_conditions_filter(densities):
    """Their power, shell by shell, is that of the filter, for a condition with all that can be drawn."""
    imaging = replace(
        BASE, tilt_min=-40.0, defocus=(6.0, 6.0), noise_through_ctf=0.8, noise_colour=0.7, band_limit=0.8,
        band_shape="cube", b_factor=500.0,
    )  # fmt: skip
    make = maker(densities, imaging)
    fields = torch.stack([make(number).field for number in range(40)]).float()
    shared = geometry(2 * SIDE, imaging, CPU)
    expected = noise_filter(transfer(torch.tensor([6.0]), shared, imaging), shared, imaging)[0].square()
    power = torch.fft.rfftn(fields, dim=(1, 2, 3), norm="ortho").abs().square().mean(0)
    shell = shared.shell.sqrt().round().long().flatten()
    sums = torch.zeros(2, int(shell.max()) + 1)
    for row, values in zip(sums, (power * (shared.weight > 0), expected), strict=True):
        row.index_add_(0, shell, values.flatten())
    assert sums[0, 1:14].numpy() == pytest.approx(sums[1, 1:14].numpy(), rel=0.12)
    assert power[expected == 0].max() < 1e-4 * power.max()
    assert fields.var().item() == pytest.approx(1.0, rel=0.05)


def test_noise_has_its_share_through_the_contrast_transfer():
    imaging = replace(BASE, noise_through_ctf=1.0)
    shared = geometry(24, imaging, CPU)
    target = transfer(torch.tensor([5.0]), shared, imaging)
    through, past = (noise_filter(target, shared, replace(imaging, noise_through_ctf=q)) for q in (1.0, 0.0))
    assert torch.allclose(through / through.max(), target.abs() / target.abs().max(), atol=1e-6)
    assert torch.allclose(past / past.max(), shared.kept.expand_as(past), atol=1e-6)
    half = noise_filter(target, shared, replace(imaging, noise_through_ctf=0.25))
    assert torch.allclose(half**2, 0.25 * through**2 + 0.75 * past**2, rtol=1e-4, atol=1e-9)


def test_draws_of_one_batch_have_noise_that_does_not_correlate(densities):
    """Not more than white noise would by chance, also of one piece, whose boxes come from one field."""
    stock = Stock(maker(densities, replace(BASE, envelope=float("inf"))), 3)
    stock.advance(0)
    draw = stock.draw(3 * GROUP, (1e-8, 1e-8), 0.0, generator(2))  # noise alone
    volumes = stock.read(draw)[0].flatten(1)
    correlations = torch.corrcoef(volumes)
    off = correlations[~torch.eye(len(volumes), dtype=torch.bool)]
    assert off.abs().max() < 0.15 and off.abs().mean() < 0.03
    again = stock.read(stock.draw(3 * GROUP, (1e-8, 1e-8), 0.0, generator(3)))[0].flatten(1)
    assert (volumes @ again.T / SIDE**3).abs().max() < 0.15


def test_the_boxes_of_one_field_in_a_batch_share_no_voxel(densities):
    stock = Stock(maker(densities, BASE), 2)
    stock.advance(0)
    stock.fields[:] = torch.arange(stock.fields[0].numel()).reshape(stock.fields[0].shape) % 2048  # exact in float16
    draw = stock.draw(2 * GROUP, (0.1, 0.1), 0.0, generator(4))
    seen = Counter()
    for row, corner in zip(draw.rows.tolist(), draw.noise_corners.tolist(), strict=True):
        axes = [(np.arange(SIDE) + at) % (2 * SIDE) for at in corner]
        where = np.ix_(*axes)
        flat = np.arange((2 * SIDE) ** 3).reshape((2 * SIDE,) * 3)[where]
        seen.update((row // GROUP, int(voxel)) for voxel in flat.flatten())
    assert set(seen.values()) == {1}
    assert len(seen) == 2 * (2 * SIDE) ** 3  # and together they use all of it


@pytest.mark.parametrize("snr", [0.1, 1.0])
def test_two_draws_of_one_particle_correlate_as_the_snr_says(densities, snr):
    stock = Stock(maker(densities, replace(BASE, tilt_min=-50.0)), 16)
    stock.advance(0)
    rows = torch.arange(16 * GROUP)
    factors = torch.full((len(rows),), snr**-0.5)
    pair = [stock.read(drawn_as_stored(rows, factors, seed))[0] for seed in (1, 2)]
    assert correlation(*pair).mean().item() == pytest.approx(snr / (1 + snr), rel=0.1)


def test_one_level_of_noise_for_a_piece_makes_small_particles_harder(densities):
    make = maker(densities, BASE, one_level=True)
    piece = make(0)
    simulator = make.simulator.under(replace(BASE, shift=BASE.shift - ROOM))
    variances = (1 / piece.levels) ** 2  # of the targets, up to one factor
    assert (variances.max() / variances.min()) > 1.2
    size = simulator.fine.clamp(min=0).sum((1, 2, 3))[piece.labels]
    assert np.corrcoef(size, variances)[0, 1] > 0.7
    assert maker(densities, BASE)(0).levels == pytest.approx(torch.ones(GROUP))


def test_levels_of_noise_follow_the_range_and_the_share_without(densities):
    stock = Stock(maker(densities, BASE), 64)
    stock.labels[:], stock.turns[:], stock.one_level[:] = 0, 4, False
    stock.one_level[32:] = True
    draw = stock.draw(64 * GROUP, (0.01, 1.0), 0.1, generator(5))
    assert (draw.factors == 0).float().mean() == pytest.approx(0.1, abs=0.04)
    assert (draw.factors > 0).float().mean() == pytest.approx(0.45, abs=0.07)
    snr = draw.factors.abs() ** -2
    logarithm = snr[draw.factors != 0].log10()
    assert -2.001 < logarithm.min() < -1.9 and -0.1 < logarithm.max() < 0.001
    assert logarithm.mean().item() == pytest.approx(-1.0, abs=0.15)
    together = snr[draw.rows // GROUP >= 32].reshape(-1, GROUP)
    assert all(len(set(group[group.isfinite()].tolist())) == 1 for group in together)


# ---- particles ----


def test_turns_and_shifts_are_those_of_the_volume(densities):
    """A draw without noise is the stored particle, cropped and turned; lopsided wedges are turned about y alone."""
    stock = Stock(maker(densities, BASE), 1)
    stock.advance(0)
    for turn, axes in enumerate(([], [0, 2], [1, 2], [0, 1])):
        draw = drawn_as_stored(torch.tensor([5]), torch.zeros(1), 0)
        draw = draw._replace(turns=torch.tensor([turn]), corners=torch.tensor([[4, 0, 3]]))
        found = stock.read(draw)[0][0, 0]
        box = stock.signals[0, 5, 4 : 4 + SIDE, :SIDE, 3 : 3 + SIDE].float().flip(axes)
        expected = (box - box.mean()) / box.std(correction=0)
        assert torch.allclose(found, expected, atol=1e-4)
    lopsided = Stock(maker(densities, replace(BASE, tilt_min=-40.0)), 4)
    lopsided.advance(0)
    draw = lopsided.draw(4 * GROUP, (0.1, 0.1), 0.0, generator(6))
    assert set(draw.turns.tolist()) == set(draw.noise_turns.tolist()) == {0, 1}
    assert HALF_TURNS[1].tolist() == [True, False, True]
    draw = stock.draw(GROUP, (0.1, 0.1), 0.0, generator(6))
    assert draw.corners.min() >= 0 and draw.corners.max() <= 2 * ROOM


def test_a_particle_recurs_as_often_as_the_renewal_says(densities):
    """With a renewal of 1 / 4 each is drawn four times in the mean; one in force is never twice in a batch."""
    stock = Stock(maker(densities, BASE), 8)
    made, draw_condition = [], stock.make.draw_condition
    stock.make.draw_condition = lambda drawn: made.append(drawn.initial_seed()) or draw_condition(drawn)
    often = Counter()
    for step in range(64):
        stock.advance(int(step * 4 * 0.25))
        draw = stock.draw(4 * GROUP, (0.1, 0.1), 0.0, generator(step))
        assert len(set(draw.rows.tolist())) == 4 * GROUP
        often.update(stock.numbers[row // GROUP] for row in draw.rows.tolist())
    assert made == list(range(made[0], made[0] + 8 + 63))  # each once, in order
    in_force = [often[number] / GROUP for number in range(8, 63)]
    assert np.mean(in_force) == pytest.approx(4.0, rel=0.15)


def test_a_piece_follows_from_its_number_and_a_stock_from_its_first(densities):
    make = maker(densities)
    first, again, other = make(3), maker(densities)(3), make(4)
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.signals, other.signals) and not torch.equal(first.field, other.field)
    assert not torch.equal(maker(densities, seed=2)(3).signals, first.signals)
    gone_on, taken_up = Stock(make, 3), Stock(make, 3)
    for number in (0, 2, 3, 1):
        gone_on.advance(number)
    taken_up.advance(1)
    draw = taken_up.draw(3 * GROUP, (0.1, 0.1), 0.1, generator(7))
    assert all(torch.equal(a, b) for a, b in zip(gone_on.read(draw), taken_up.read(draw), strict=True))


def test_on_other_voxels_a_density_is_as_much_larger(densities):
    fine, turn = posing_grid(densities[:1]), torch.tensor([[1.0, 0, 0, 0]])
    label, shift = torch.zeros(1, dtype=torch.long), torch.tensor([[1.0, 0, -1.0]])
    plain, wide = (pose(fine, label, turn, shift, SIDE + 4, scale)[0] for scale in (1.0, 1.05))
    assert wide.sum().item() == pytest.approx(1.05**3 * plain.sum().item(), rel=0.03)
    offset = torch.arange(SIDE + 4) - (SIDE + 3) / 2
    for axis, expected in ((0, -1.0), (1, 0.0), (2, 1.0)):  # z, y, x
        others = tuple({0, 1, 2} - {axis})
        centre = (wide.sum(others) * offset).sum() / wide.sum()
        solid = [v * (v > 0.1 * v.max()) for v in (plain, wide)]  # without the ripples far from it
        spread = [(v.sum(others) * (offset - expected) ** 2).sum() / v.sum() for v in solid]
        assert centre.item() == pytest.approx(expected, abs=0.05)
        assert (spread[1] / spread[0]).item() == pytest.approx(1.05**2, rel=0.03)
    simulator = Simulator(densities, BASE).under(replace(BASE, voxel_size=VOXEL / 1.05))
    poses = Poses(turn, shift, torch.tensor([5.0]))
    assert torch.allclose(simulator.pose(label, poses)[0], wide[2:-2, 2:-2, 2:-2], atol=1e-5)


def test_a_b_factor_blurs_the_density_and_leaves_the_noise(densities):
    plain, blurred, sharp = (Simulator(densities, replace(BASE, b_factor=b)) for b in (0.0, 4000.0, -4000.0))
    filters = [simulator.filters(torch.tensor([5.0])) for simulator in (plain, blurred, sharp)]
    assert torch.equal(filters[0][1], filters[1][1])
    k = plain.shared.k[plain.shared.shell]
    expected = filters[0][0] * torch.exp(-1000.0 * k**2).float()
    assert torch.allclose(filters[1][0], expected, atol=1e-6)
    assert torch.allclose(filters[1][0] * filters[2][0], filters[0][0] ** 2, atol=1e-5)


def test_conditions_stay_in_their_ranges_and_fill_them():
    drawn = [ImagingRanges().draw(Imaging(), generator(seed)) for seed in range(400)]
    imagings = [condition.imaging for condition in drawn]
    for imaging in imagings:
        imaging.check()
        assert imaging.defocus[0] == imaging.defocus[1]
    defocus = np.array([imaging.defocus[0] for imaging in imagings])
    tilt = np.array([(-imaging.tilt_min, imaging.tilt_max) for imaging in imagings])
    size = np.array([imaging.voxel_size for imaging in imagings])
    envelope = np.array([imaging.envelope for imaging in imagings])
    for values, low, high in ((defocus, 2, 8), (tilt, 40, 68), (size, 9.5, 10.5), (envelope[envelope < 2], 0.25, 1.5)):
        reach = high - low
        assert low <= values.min() < low + 0.05 * reach and high - 0.05 * reach < values.max() <= high
    assert np.mean(tilt[:, 0] != tilt[:, 1]) == pytest.approx(0.3, abs=0.08)
    assert np.mean(np.isinf(envelope)) == pytest.approx(0.3, abs=0.08)
    assert Counter(imaging.neighbours for imaging in imagings).keys() == {0, 1, 2, 3, 4}
    assert {imaging.band_shape for imaging in imagings} == {"cube", "sphere"}
    assert np.mean([condition.one_level for condition in drawn]) == pytest.approx(0.5, abs=0.08)
    assert room_for(4.0) == 2 and room_for(2.0) == 1 and room_for(1.5) == 0


def test_ranges_around_one_imaging_draw_that_one():
    imaging = replace(Imaging(), envelope=0.6, band_limit=0.8, tilt_min=-50.0, tilt_max=50.0, noise_colour=0.3)
    ranges = ImagingRanges.around(imaging)
    for seed in range(5):
        condition = ranges.draw(Imaging(), generator(seed))
        shape = {"band_shape": condition.imaging.band_shape}  # either
        assert condition.imaging == replace(imaging, **shape)
        assert (condition.one_level, condition.membranes, condition.beads) == (False, 0.0, 0.0)
    assert ImagingRanges.read({**ranges.content(), "voltage": 300.0}) == ranges
    assert ImagingRanges.around(Imaging(), (50.0, 60.0)).tilt == (50.0, 60.0)


def test_data_outside_of_the_ranges_are_told_from_those_within():
    seen, fixed = ImagingRanges(), ImagingRanges.around(Imaging())
    for tilts in ((-60, 60), (-45, 66), (-38.5, 69), None):
        assert imaging_warning(seen, 10.0, 13.5, tilts) == ""
    assert imaging_warning(fixed, 10.0, 9.0, (-60, 60)) == "" and imaging_warning(fixed, 10.0, None, None) == ""
    assert "voxels of 25 A: training had detail as of 21 A" in imaging_warning(seen, 10.0, 25.0, (-60, 60))
    assert "voxels of 12 A: training had detail as of 10 A" in imaging_warning(fixed, 10.0, 12.0, None)
    assert "-30 to 60 degrees: training had largest tilts of 40 to 68" in imaging_warning(seen, 10.0, 10.0, (-30, 60))
    assert "largest tilts of 60" in imaging_warning(fixed, 10.0, 10.0, (-50, 50))
    level = replace(seen, lopsided=0.0)
    assert "none that differ from side to side" in imaging_warning(level, 10.0, 10.0, (-50, 60))


# ---- tilt series ----


def series_maker(densities: torch.Tensor, seed: int = 1) -> PieceMaker:
    imaging = replace(BASE, tilt_step=4.0, dose=100.0, padding=4 / 3, envelope=float("inf"))
    return maker(densities, imaging, seed=seed)


def test_a_piece_of_a_tilt_series_has_the_simulators_noise_box_by_box(densities):
    """Power shell by shell, as of volumes that the simulator makes; and the boxes of a field are independent."""
    make = series_maker(densities)
    fields = torch.stack([make(number).field for number in range(12)]).float()
    boxes = fields.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE).reshape(-1, SIDE, SIDE, SIDE)
    assert len(boxes) == 12 * GROUP and boxes.var().item() == pytest.approx(1.0, rel=0.1)
    simulator = make.simulator.under(make.draw_condition(generator()).imaging)
    _, spectrum = simulator.filters(torch.tensor([5.0]))
    wide = torch.cat([simulator.noise(simulator.white(1, generator(seed)), spectrum) for seed in range(96)])
    wanted = wide[:, ROOM : ROOM + SIDE, ROOM : ROOM + SIDE, ROOM : ROOM + SIDE]
    shell = geometry(SIDE, BASE, CPU).shell.sqrt().round().long().flatten()
    sums = torch.zeros(2, int(shell.max()) + 1)
    for row, some in zip(sums, (boxes, wanted), strict=True):
        power = torch.fft.rfftn(some, dim=(1, 2, 3), norm="ortho").abs().square().mean(0)
        row.index_add_(0, shell, power.flatten())
    assert sums[0, 1:8].numpy() == pytest.approx(sums[1, 1:8].numpy(), rel=0.15)
    alike = torch.corrcoef(boxes[:GROUP].flatten(1))[~torch.eye(GROUP, dtype=torch.bool)]
    assert alike.abs().max() < 0.2


def test_draws_of_a_tilt_series_take_whole_boxes_of_noise(densities):
    stock = Stock(series_maker(densities), 2)
    stock.advance(0)
    draw = stock.draw(2 * GROUP, (0.1, 0.1), 0.0, generator(4))
    assert (draw.noise_corners % SIDE == 0).all()
    places = {
        (row // GROUP, *corner)
        for row, corner in zip(draw.rows.tolist(), (draw.noise_corners % (2 * SIDE)).tolist(), strict=True)
    }
    assert len(places) == 2 * GROUP


def test_random_imaging_has_its_share_of_tilt_series_and_else_what_it_had():
    """Without a share every condition is as it was before there was one."""
    with_some = replace(RANGES, tilt_series=0.5)
    drawn = [with_some.draw(BASE, generator(seed)).imaging for seed in range(200)]
    assert 0.4 < sum(imaging.tilt_step > 0 for imaging in drawn) / 200 < 0.6
    for seed in range(20):
        plain, other = RANGES.draw(BASE, generator(seed)), with_some.draw(BASE, generator(seed))
        assert plain.imaging.tilt_step == 0
        assert replace(other.imaging, tilt_step=0.0, dose=0.0) == plain.imaging and other.one_level == plain.one_level
