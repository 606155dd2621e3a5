"""A stream of training volumes: a stock of particles without noise, renewed piece by piece, and noise anew each time.

To simulate a particle costs as much as to train on it. So each is drawn several times from a stock on the training
device: every time with other noise, another SNR, another shift by whole voxels and, where the missing wedge allows, a
half turn. A piece of the stock is GROUP particles under one condition with one field of noise. Piece k follows from the
seed and k alone, and the stock at any step is a row of consecutive pieces: a run that is taken up again makes the same.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from common.progress import progress
from physics.filters import (
    crop_inverse,
    geometry,
    measured_noise_filter,
    noise_filter,
    noise_variance,
    transfer,
    white_spectrum,
)
from physics.pose import Poses
from simulation.conditions import Condition
from simulation.crowd import reach
from simulation.junk import JUNK, Maker, beside, made_densities, noise_alone
from simulation.simulator import Imaged, Simulator

GROUP = 8  # particles of a piece
TILES = 2  # sides of the box along each side of a field of noise: GROUP boxes of it meet nowhere
ROOM = 2  # voxels that a stored volume may have around the box, for draws to shift it
STREAM_PADDING = 4 / 3  # of random imaging: of a box of 32 voxels and its room, to 48; particles keep off its border
# Half turns about no axis, y, z and x: which of the axes (z, y, x) they reverse. A lopsided wedge keeps the first two.
HALF_TURNS = torch.tensor([[0, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0]], dtype=torch.bool)


class Piece(NamedTuple):
    """Particles under one condition, their targets' signals of variance 1, and noise that suits them."""

    signals: torch.Tensor  # (GROUP, W, W, W) float16, W = side + 2 room
    levels: torch.Tensor  # (GROUP,) the noise's standard deviation at an SNR of 1
    labels: torch.Tensor  # (GROUP,) long
    field: torch.Tensor  # (F, F, F) float16, F = TILES side: of variance 1, and periodic
    turns: int  # how many of HALF_TURNS keep the wedge
    one_level: bool  # the SNR belongs to all of them together
    tiled: bool = False  # the field is GROUP boxes side by side, and not periodic


def room_for(shift: float) -> int:
    """Voxels that draws shift by, at most, of a largest shift: half of it, ROOM at most. The rest is in the poses."""
    return min(ROOM, int(shift / 2))


class PieceMaker:
    """Makes the pieces of a stream: piece k of a seed is always the same.

    Args:
        simulator: of densities (C, D, H, W), its side D + 2 room.
        draw_condition: of a generator on the CPU.
        draw_labels: of a number and a generator on the CPU; from C on they are what `makers` make, in their order.
        room: voxels that a stored volume has around the box of a draw.
        seed: of this stream; each process needs its own.
        makers: of what has no density in `simulator`: junk, in the order of JUNK, where nothing else is given.
    """

    def __init__(
        self,
        simulator: Simulator,
        draw_condition: Callable[[torch.Generator], Condition],
        draw_labels: Callable[[int, torch.Generator], torch.Tensor],
        room: int,
        seed: int,
        makers: Sequence[Maker] = tuple(JUNK.values()),
    ):
        self.simulator, self.draw_condition, self.draw_labels = simulator, draw_condition, draw_labels
        self.makers = makers
        self.room, self.seed, self.side = room, seed, simulator.side - 2 * room

    @torch.no_grad()
    def __call__(self, number: int) -> Piece:
        drawn = numbered_generator(self.seed, "piece", number)
        condition = self.draw_condition(drawn)
        imaging = condition.imaging
        labels = self.draw_labels(GROUP, drawn)
        device = self.simulator.device
        generator = torch.Generator(device).manual_seed(int(torch.randint(2**31, (), generator=drawn)))
        simulator = self.simulator.under(replace(imaging, shift=imaging.shift - self.room))
        real = labels < len(simulator.fine)  # (GROUP,)
        alone = torch.empty(GROUP, *[simulator.side] * 3, device=device)
        signal = torch.empty_like(alone)
        if real.any():
            image = self._particles(labels[real], condition, simulator, generator)
            alone[real], signal[real] = image.alone, image.signal
        if not real.all():
            alone[~real] = signal[~real] = self._made(labels[~real] - len(simulator.fine), simulator, generator)
        box = (slice(None), *[slice(self.room, self.room + self.side)] * 3)
        targets = alone[box].flatten(1)
        variance = targets.square().mean(dim=1) - targets.mean(dim=1).square()  # (GROUP,)
        of_noise = variance if simulator.common_variance is None else simulator.common_variance.expand(GROUP)
        if condition.one_level and real.any():
            of_noise = of_noise[real].mean().expand(GROUP)
        level = noise_variance(of_noise, 1.0, imaging.snr_convention).sqrt()
        std = variance.sqrt()
        signals = (signal / std[:, None, None, None]).half()
        turns = len(HALF_TURNS) if imaging.tilt_min == -imaging.tilt_max else 2
        field = self._field(simulator, condition.noise_power, generator)
        tiled = simulator.series is not None and not condition.noise_power
        return Piece(signals, level / std, labels.to(device), field, turns, condition.one_level, tiled)

    def _particles(
        self, labels: torch.Tensor, condition: Condition, simulator: Simulator, generator: torch.Generator
    ) -> Imaged:
        """Particles with what is around them."""

        def largest(part: torch.Tensor) -> int:
            return max(part.tolist(), key=simulator.inner.__getitem__)

        labels = labels.to(simulator.device)
        poses, crowd = simulator.draw(labels, generator)
        step = 1 if simulator.device.type == "cpu" else GROUP  # small ones apart take less time than all as the largest
        parts = zip(labels.split(step), *(part.split(step) for part in poses), strict=True)
        posed = torch.cat([simulator.pose(part, Poses(*of_part), largest(part)) for part, *of_part in parts])
        shares = torch.tensor([[condition.membranes], [condition.beads]], device=simulator.device)
        if not shares.any():
            return simulator.image(posed, poses.defocus, crowd)
        membranes, beads = torch.rand(2, len(labels), generator=generator, device=simulator.device) < shares

        def reaches(way: torch.Tensor) -> torch.Tensor:
            far = reach(simulator.outlines[labels], poses.quaternions, way[:, None])[:, 0]
            return far * simulator.scale + (poses.shifts * way).sum(dim=1)

        around = beside(reaches, membranes, beads, simulator, generator) if (membranes | beads).any() else None
        return simulator.image(posed, poses.defocus, crowd, around)

    def _made(self, kinds: torch.Tensor, simulator: Simulator, generator: torch.Generator) -> torch.Tensor:
        """What the microscope makes of what the makers (N,) make; of noise alone more noise: (N, W, W, W)."""
        target, spectrum = simulator.filters(torch.tensor(simulator.imaging.defocus[:1], device=simulator.device))
        signal = simulator.wide_signal(made_densities(kinds, self.makers, simulator, generator), target)
        of_nothing = torch.tensor([make is noise_alone for make in self.makers])
        empty = of_nothing[kinds].nonzero().squeeze(1)
        if len(empty):
            signal[empty] = simulator.noise(simulator.white(len(empty), generator), spectrum)
        return signal

    def _field(self, simulator: Simulator, power: tuple[float, ...], generator: torch.Generator) -> torch.Tensor:
        """Noise of the condition's spectrum and variance 1, (F, F, F)."""
        imaging, side = simulator.imaging, TILES * self.side
        if simulator.series and not power:
            return self._tiles(simulator, generator)
        shared = geometry(side, imaging, simulator.device)
        defocus = torch.tensor(imaging.defocus, device=simulator.device).mean(dim=0, keepdim=True)
        if power:
            spectrum = measured_noise_filter(power, shared, side, self.side)
        else:
            spectrum = noise_filter(transfer(defocus, shared, imaging), shared, imaging)
        white = white_spectrum(1, side, generator, simulator.device)
        return (crop_inverse(white * spectrum, side) * side**1.5)[0].half()

    def _tiles(self, simulator: Simulator, generator: torch.Generator) -> torch.Tensor:
        """Noise of a tilt series, GROUP boxes of it side by side, (F, F, F)."""
        _, spectrum = simulator.filters(torch.tensor(simulator.imaging.defocus[:1], device=simulator.device))
        box = (slice(None), *[slice(self.room, self.room + self.side)] * 3)
        boxes = [simulator.noise(simulator.white(1, generator), spectrum)[box][0] for _ in range(GROUP)]
        tiles = torch.stack(boxes).unflatten(0, (TILES,) * 3)  # (2, 2, 2, D, H, W)
        return tiles.permute(0, 3, 1, 4, 2, 5).reshape((TILES * self.side,) * 3).half()


class Draw(NamedTuple):
    """Which volumes of the stock a batch holds, and what is done to each."""

    rows: torch.Tensor  # (n,) long: piece times GROUP plus particle
    turns: torch.Tensor  # (n,) long, into HALF_TURNS
    corners: torch.Tensor  # (n, 3) long: where the box begins in the stored volume, 0 ... 2 room
    noise_turns: torch.Tensor  # (n,) long
    noise_corners: torch.Tensor  # (n, 3) long: where the box begins in the field
    factors: torch.Tensor  # (n,) of the noise, for a level of 1: 1 / sqrt(SNR), 0 for no noise, either sign


class Stock:
    """The pieces that are in use, on the training device.

    Args:
        make: of pieces, by their numbers.
        count: pieces in use at once.
    """

    def __init__(self, make: PieceMaker, count: int):
        self.make, self.count, self.side, device = make, count, make.side, make.simulator.device
        self.device, self.field_side = device, TILES * make.side
        self.numbers = [-1] * count  # which piece each place holds
        self.signals = torch.empty(count, GROUP, *[make.simulator.side] * 3, dtype=torch.float16, device=device)
        self.fields = torch.empty(count, *[self.field_side] * 3, dtype=torch.float16, device=device)
        self.levels = torch.empty(count, GROUP, device=device)
        self.labels = torch.empty(count, GROUP, dtype=torch.long, device=device)
        self.turns = torch.empty(count, dtype=torch.long)
        self.one_level, self.tiled = torch.empty(2, count, dtype=torch.bool)

    def advance(self, first: int) -> None:
        """Hold the pieces first ... first + count - 1; makes those that it does not hold yet."""
        missing = [number for number in range(first, first + self.count) if self.numbers[number % self.count] != number]
        later = max(self.numbers) >= 0  # but for the first ones, pieces come one by one
        for number in progress("stock of particles", missing, unit="piece", hidden=later):
            place, piece = number % self.count, self.make(number)
            self.signals[place], self.levels[place] = piece.signals, piece.levels
            self.labels[place], self.fields[place] = piece.labels, piece.field
            self.turns[place], self.one_level[place], self.tiled[place] = piece.turns, piece.one_level, piece.tiled
            self.numbers[place] = number

    def draw(self, n: int, snr: tuple[float, float], noise_free: float, generator: torch.Generator) -> Draw:
        """Choose n volumes and what is done to them: GROUP of each piece that is chosen, no piece twice.

        The SNR is log-uniform in the range `snr`, per particle or per piece; the share `noise_free` has no noise.
        """
        groups = -(-n // GROUP)
        places = torch.randperm(self.count, generator=generator)[:groups]
        order = torch.rand(groups, GROUP, generator=generator).argsort(dim=1)
        rows = places[:, None] * GROUP + order
        uniform = torch.rand(groups, GROUP, generator=generator)
        uniform = torch.where(self.one_level[places, None], uniform[:, :1], uniform)
        factors = (snr[0] * (snr[1] / snr[0]) ** uniform) ** -0.5
        factors[torch.rand(groups, GROUP, generator=generator) < noise_free] = 0.0
        factors *= torch.randint(2, factors.shape, generator=generator) * 2 - 1
        turns, noise_turns = (
            (torch.rand(groups, GROUP, generator=generator) * self.turns[places, None]).long() for _ in range(2)
        )
        corners = torch.randint(2 * self.make.room + 1, (groups, GROUP, 3), generator=generator)
        tiles = torch.rand(groups, GROUP, generator=generator).argsort(dim=1)  # the boxes of one field meet nowhere
        tiles = torch.stack([tiles // TILES**2, tiles // TILES % TILES, tiles % TILES], dim=2) * self.side
        anywhere = torch.randint(self.field_side, (groups, 1, 3), generator=generator)
        noise_corners = tiles + anywhere.masked_fill(self.tiled[places, None, None], 0)
        parts = rows, turns, corners, noise_turns, noise_corners, factors
        return Draw(*(part.flatten(0, 1)[:n] for part in parts))

    def twins(self, draw: Draw, n: int, generator: torch.Generator) -> Draw:
        """For each of the first n that were drawn another particle of its class in the stock, without noise.

        It has a pose, a condition and neighbours of its own. Where the stock has no other it is the particle itself.
        """
        classes, device = self.labels.flatten(), self.device
        by_class = classes.argsort(stable=True)
        rows, ordered = draw.rows[:n].to(device), classes[by_class]
        first, after = (torch.searchsorted(ordered, classes[rows], right=right) for right in (False, True))
        count = after - first  # (n,): of the class in the stock
        steps, turns = torch.rand(2, n, generator=generator).to(device)
        places = by_class.argsort()[rows] - first  # (n,): the volume's own among those of its class
        twins = by_class[first + (places + 1 + (steps * (count - 1)).long()) % count]
        turns = (turns * self.turns.to(device)[twins // GROUP]).long()
        corners = torch.randint(2 * self.make.room + 1, (n, 3), generator=generator)
        return Draw(twins, turns, corners, torch.zeros_like(turns), torch.zeros_like(corners), torch.zeros(n))

    def snr(self, draw: Draw) -> torch.Tensor:
        """The SNR (n,) of each volume that was drawn, infinite without noise.

        It is the particle's own: under one level of noise for a piece that of its small particles is lower.
        """
        convention = self.make.simulator.imaging.snr_convention
        levels = draw.factors.to(self.device) * self.levels.flatten()[draw.rows.to(self.device)]
        return noise_variance(torch.ones_like(levels), 1.0, convention) / levels.square()

    def read(self, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
        """Volumes (n, 1, D, H, W) float32, mean 0 and standard deviation 1, and labels (n,), of what was drawn."""
        draw = Draw(*(part.to(self.device, non_blocking=True) for part in draw))
        turns = HALF_TURNS.to(self.device)
        signals = self._boxes(self.signals, draw.rows, draw.corners, turns[draw.turns])
        noise = self._boxes(self.fields, draw.rows // GROUP, draw.noise_corners, turns[draw.noise_turns])
        levels = draw.factors * self.levels.flatten()[draw.rows]
        volumes = torch.addcmul(signals, levels[:, None], noise)  # (n, D H W)
        volumes -= volumes.mean(dim=1, keepdim=True)
        volumes /= volumes.square().mean(dim=1, keepdim=True).sqrt()
        return volumes.reshape(-1, 1, *[self.side] * 3), self.labels.flatten()[draw.rows]

    def _boxes(
        self, cubes: torch.Tensor, which: torch.Tensor, corners: torch.Tensor, reversed_axes: torch.Tensor
    ) -> torch.Tensor:
        """Boxes of periodic cubes (..., W, W, W), each from its corner on, some axes reversed: (n, D H W) float32."""
        wide, side = cubes.shape[-1], self.side
        steps = torch.arange(side, device=self.device)
        at = torch.where(reversed_axes[:, :, None], side - 1 - steps, steps) + corners[:, :, None]  # (n, 3, side)
        z, y, x = (at % wide).unbind(1)
        lines = (which[:, None] * wide + z)[:, :, None] * wide + y[:, None, :]  # (n, side, side)
        found = cubes.view(-1, wide).index_select(0, lines.flatten()).view(len(which), side**2, wide)
        return found.gather(2, x[:, None, :].expand(-1, side**2, -1)).flatten(1).float()


def numbered_generator(seed: int, what: str, number: int) -> torch.Generator:
    """The generator on the CPU of a numbered thing: successive seeds, of which torch keeps 32 bits."""
    digest = hashlib.sha256(f"{seed}/{what}".encode()).digest()
    return torch.Generator().manual_seed((int.from_bytes(digest[:4], "little") + number) % 2**32)
