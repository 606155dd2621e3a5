"""Volumes under the imaging that a checkpoint was trained on, or that a user declares: to be embedded and compared."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from common.cli import InputError
from loader.prepare import Preprocessing
from physics.grid import Grid
from physics.imaging import Imaging
from simulation.auxiliary import neighbour_densities
from simulation.conditions import Condition, ImagingRanges
from simulation.junk import JUNK
from simulation.simulator import Simulator
from simulation.stream import GROUP, STREAM_PADDING, PieceMaker, Stock, numbered_generator, room_for

RESOLUTION = 20.0  # A, of densities made from coordinates, or the voxel size where that is coarser
SNR = (0.05, 1.0)  # log-uniform; with volumes of less noise in them, classes are more apart and thresholds surer
NOISE_FREE = 0.1  # share of the volumes without noise
PIECES = 32  # pieces of GROUP volumes that are in memory at once


@dataclass(frozen=True)
class Declared:
    """What a user says of the data; what is empty is as the checkpoint was trained."""

    tilt_range: tuple[float, float] | None = None  # first and last tilt, degrees
    defocus: tuple[float, float] | None = None  # um
    voxel_size: float = 0.0  # A, of the data before they are resampled; 0: as the checkpoint's

    @classmethod
    def read(cls, tilt_range: tuple[float, ...], defocus: tuple[float, ...], voxel_size: float = 0.0) -> "Declared":
        """From options, empty ones for what is not declared. Raises InputError for what is no range."""
        for name, value in (("tilt-range", tilt_range), ("defocus", defocus)):
            if len(value) not in (0, 2) or sorted(value) != list(value):
                words = " ".join(f"{number:g}" for number in value)
                raise InputError(f"--{name} {words}: expected two numbers, the smaller first")
        return cls(tilt_range or None, defocus or None, voxel_size)


@dataclass(frozen=True)
class AsTrained:
    """The imaging that volumes are drawn under.

    ranges: of all conditions; tilt_range: of all, degrees, where it is declared or stated.
    base: what no range says.
    grid: of densities; recorded: whether the checkpoint says its imaging, which is else taken as the widest.
    snr: log-uniform; noise_free: share of the volumes without noise.
    declared: what of all this a user says.
    """

    ranges: ImagingRanges
    base: Imaging
    grid: Grid
    tilt_range: tuple[float, float] | None
    recorded: bool
    snr: tuple[float, float] = SNR
    noise_free: float = NOISE_FREE
    noise_power: tuple[float, ...] = ()
    declared: Declared = Declared()

    @classmethod
    def read(cls, config: dict[str, Any], preprocessing: Preprocessing, declared: Declared) -> "AsTrained":
        """From a checkpoint's configuration and preprocessing.

        Raises InputError where the voxel size of its volumes is known to nobody, and for what describes no microscope.
        """
        record = config.get("imaging") or {}
        voxel_size = preprocessing.voxel_size or declared.voxel_size
        if not voxel_size:
            raise InputError("the voxel size of the checkpoint's volumes is unknown; give --voxel-size")
        ranges = replace(ImagingRanges.read(record), one_level=0.0)  # else small particles drown among large ones
        tilt_range = declared.tilt_range
        if not record:
            tilt_range = tilt_range or preprocessing.tilt_range
        if declared.defocus:
            ranges = replace(ranges, defocus=declared.defocus)
        share = voxel_size / declared.voxel_size if declared.voxel_size else 1.0
        if share < 1:  # coarser data, resampled: a cube of frequencies is empty beyond their own Nyquist frequency
            ranges = replace(ranges, no_band_limit=0.0, band_limit=(share, share), voxel_size_error=0.0)
        own = {name: record[name] for name in ("voltage", "cs") if name in record}
        crowd = {"shift": ranges.shift, "neighbours": ranges.neighbours}
        base = replace(Imaging(), padding=STREAM_PADDING, voxel_size=voxel_size, **own, **crowd)
        if tilt_range:
            base = replace(base, tilt_min=tilt_range[0], tilt_max=tilt_range[1])
        replace(base, defocus=ranges.defocus).check()
        grid = Grid(preprocessing.box, voxel_size, max(RESOLUTION, voxel_size))
        return cls(ranges, base, grid, tilt_range, bool(record), declared=declared)

    @classmethod
    def read_with_snr(cls, config: dict[str, Any], preprocessing: Preprocessing, declared: Declared) -> "AsTrained":
        """As `read`, with the SNRs of training in the place of those of enrolment, where the checkpoint says them."""
        found, record = cls.read(config, preprocessing, declared), config.get("imaging") or {}
        return replace(
            found, snr=tuple(record.get("snr", found.snr)), noise_free=record.get("noise_free", found.noise_free)
        )

    def draw(self, generator: torch.Generator) -> Condition:
        """A condition; the generator is on the CPU."""
        condition = self.ranges.draw(self.base, generator)._replace(noise_power=self.noise_power)
        if not self.tilt_range:
            return condition
        low, high = self.tilt_range
        return condition._replace(imaging=replace(condition.imaging, tilt_min=low, tilt_max=high))

    def text(self) -> str:
        """In words: what is declared, what is as in training, the SNR, and the voxel size."""
        told = {True: [], False: []}
        told[bool(self.declared.tilt_range)].append(self._tilts())
        told[bool(self.declared.defocus)].append(f"defocus {_span(self.ranges.defocus)} um")
        told[False].append(f"up to {self.ranges.neighbours} neighbours, and all else")
        whose = (
            "as the checkpoint was trained" if self.recorded else "of any kind, as the checkpoint does not say which"
        )
        parts = [f"as declared: {', '.join(told[True])}"] if told[True] else []
        parts += [f"{whose}: {', '.join(told[False])}", f"SNR {_span(self.snr)} and none", self._voxels()]
        return f"imaging {'; '.join(parts)}"

    def _tilts(self) -> str:
        if not self.tilt_range:
            return f"tilts to {_span(self.ranges.tilt)} degrees"
        whose = "" if self.declared.tilt_range else " (those of its training files)"
        return f"tilts of {_span(self.tilt_range)} degrees{whose}"

    def _voxels(self) -> str:
        own, data = self.grid.voxel_size, self.declared.voxel_size
        if not data or data == own:
            return f"voxels of {own:g} A"
        detail = ", so without finer detail than these hold" if data > own else ""
        return f"voxels of {own:g} A, to which data of {data:g} A are brought{detail}"

    def simulator(self, densities: torch.Tensor) -> Simulator:
        """Of densities (C, D, H, W) on the grid, with room around the box for what `volumes` does."""
        room = room_for(self.base.shift)
        others = neighbour_densities(self.grid, 0).to(densities.device) if self.base.neighbours else None
        widest = replace(self.base, shift=self.base.shift - room)
        return Simulator(densities, widest, others, side=self.grid.box + 2 * room)

    @torch.no_grad()
    def volumes(
        self, simulator: Simulator, labels: torch.Tensor, seed: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Volumes of labels (N,), a part at a time: (n, 1, D, H, W) float32, mean 0 and standard deviation 1, and (n,).

        Labels from the number of densities on are kinds of junk, in the order of JUNK. They come in an order of their
        own, the last of GROUP volumes filled up with further ones. GROUP volumes share a condition; each has a pose,
        noise and SNR of its own.
        """
        order = torch.randperm(len(labels), generator=numbered_generator(seed, "order", 0))
        filled = order.repeat(GROUP)[: -(-len(order) // GROUP) * GROUP]
        parts = iter(labels[filled].split(GROUP))
        make = PieceMaker(simulator, self.draw, lambda n, generator: next(parts), room_for(self.base.shift), seed)
        pieces = len(filled) // GROUP
        for first in range(0, pieces, PIECES):
            stock = Stock(make, min(PIECES, pieces - first))
            stock.advance(first)
            drawn = numbered_generator(seed, "draw", first)
            volumes, found = stock.read(stock.draw(stock.count * GROUP, self.snr, self.noise_free, drawn))
            yield volumes, found


def _span(limits: tuple[float, float]) -> str:
    """`3 to 4`."""
    return f"{limits[0]:g} to {limits[1]:g}"


def junk_volumes(
    config: dict[str, Any], preprocessing: Preprocessing, count: int, seed: int, device: torch.device
) -> tuple[torch.Tensor, list[str]]:
    """Volumes of junk as training had it, (n, 1, D, H, W) float16, and their kinds, keys of JUNK.

    n is `count` rounded up to whole groups, as many of each kind as may be.
    """
    imaging = AsTrained.read(config, preprocessing, Declared())
    shapes = neighbour_densities(imaging.grid, 0).to(device)  # what lies off the centre, or beside
    kinds = torch.arange(count) % len(JUNK)
    parts = [
        (volumes.half().cpu(), labels.cpu() - len(shapes))
        for volumes, labels in imaging.volumes(imaging.simulator(shapes), len(shapes) + kinds, seed)
    ]
    names = [list(JUNK)[kind] for _, part in parts for kind in part.tolist()]
    return torch.cat([volumes for volumes, _ in parts]), names
