"""Batches simulated as they are needed: every step sees new poses, noise and imaging of the known classes, and of any
number of auxiliary procedural classes beside them."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.cli import InputError, find_data_dir, plural
from common.group import Group
from loader.columns import SIMULATION_FILE
from loader.prepare import Preprocessing
from physics.grid import Grid, same_voxel_size
from physics.imaging import Imaging
from simulation.as_trained import AsTrained, Declared
from simulation.auxiliary import auxiliary_densities, neighbour_densities
from simulation.conditions import Condition, ImagingRanges
from simulation.filaments import filament_makers
from simulation.junk import JUNK
from simulation.reference import Compared, compared_volumes
from simulation.simulator import Simulator
from simulation.stream import GROUP, STREAM_PADDING, Draw, PieceMaker, Stock, numbered_generator, room_for
from simulation.structures import find_structures, load_densities
from training.batches import check_batch_size, epoch_seed
from training.state import TrainingSet

REFERENCE_SEED = 10**6  # added to the seed for what volumes are compared with, so that it is no training volume
TWIN_SHARE = 0.25  # share of the volumes of a batch that have a twin without noise
CPU_BATCH = 16  # particles simulated at once on the CPU, whose caches they then fit


@dataclass(frozen=True)
class Shapes:
    """What is simulated, and how the files were imaged."""

    densities: torch.Tensor  # (C, D, H, W): the known classes, then the auxiliary ones
    others: torch.Tensor | None  # that neighbours are drawn from
    imaging: Imaging  # of the files, but for what the settings change
    common_variance: torch.Tensor | None  # as `Simulator`


def load_shapes(cfg: Any, classes: list[str], preprocessing: Preprocessing, device: torch.device) -> Shapes:
    """The shapes that the training files were simulated from, and as many auxiliary ones as wanted.

    Args:
        cfg: of train.py: data_dir, structures, auxiliary, auxiliary_seed, online_defocus, online_neighbours.
        classes: the known classes, in the order of their labels.
        preprocessing: of the training files, which the simulated volumes must be like.

    Raises:
        InputError: no record of a simulation in the data folder, or one of other classes, structures or volumes.
    """
    folder = find_data_dir(cfg.data_dir)
    record = read_record(folder / SIMULATION_FILE)
    check_record(record, folder / SIMULATION_FILE, cfg.structures, classes, preprocessing)
    options = {f.name: record[f.name] for f in fields(Imaging) if f.name in record}
    options |= {"defocus": tuple(record["defocus"]), "envelope": float(record["envelope"])}
    of_files = Imaging(**options)
    most = of_files.neighbours if cfg.online_imaging == "fixed" else ImagingRanges().neighbours
    imaging = replace(
        of_files,
        defocus=cfg.online_defocus or of_files.defocus,
        neighbours=most if cfg.online_neighbours < 0 else cfg.online_neighbours,
    )
    margin = 0.0 if record.get("crop") else imaging.shift
    seed = record["seed"] if record.get("shape_seed") is None else record["shape_seed"]
    grid = Grid(record["box"], record["voxel_size"], record["resolution"], margin)
    source = not record.get("deposited", False), record.get("map_level", 0.1)

    def load(names: list[str]) -> torch.Tensor:
        return load_densities(tuple(names), cfg.structures, grid, seed, *source).to(device)

    densities, variance = load(classes), None
    if imaging.common_noise:  # that of all classes of the files, not of those that are trained on
        variance = Simulator(load(record["classes"]), of_files).common_variance
    if cfg.auxiliary:
        more = auxiliary_densities(cfg.auxiliary, grid, cfg.auxiliary_seed, folder)
        densities = torch.cat([densities, more.to(device)])
    others = neighbour_densities(grid, seed).to(device) if imaging.neighbours else None
    return Shapes(densities, others, imaging, variance)


class OnlineBatches:
    """Batches drawn afresh from densities on the training device, under the imaging of the files.

    Labels are those of the known classes; auxiliary classes follow them, `auxiliary_share` of each batch is of them.
    Volumes are uniform over the classes of each kind. Poses and shifts are as simulate.py draws them; the SNR is
    log-uniform in `online_snr`, but for the share `online_noise_free` of the volumes, which have no noise. Each process
    draws its own part of a batch, so that another number of processes gives other batches.

    Args:
        cfg: of train.py: auxiliary, auxiliary_share, online_*, batch_size, seed.
        known: how many known classes the shapes begin with.
        volumes: of an epoch.

    Raises:
        InputError: a batch of fewer than two volumes a process.
    """

    def __init__(self, cfg: Any, shapes: Shapes, known: int, volumes: int, group: Group):
        check_batch_size(cfg.batch_size, group)
        self.cfg, self.device, self.group, self.known = cfg, shapes.densities.device, group, known
        self.count = max(1, volumes // cfg.batch_size)
        self.volumes = self.count * cfg.batch_size
        self.imaging, self.densities = shapes.imaging, shapes.densities
        self.simulator = Simulator(shapes.densities, shapes.imaging, shapes.others, shapes.common_variance)
        self.text = f"{self.volumes} volumes an epoch, simulated as they are needed{auxiliary_text(cfg)}"
        self.imaging_record = record_of(cfg, ImagingRanges.around(shapes.imaging, cfg.online_tilt), shapes.imaging)

    def size(self, number: int) -> int:
        return self.cfg.batch_size

    @torch.no_grad()
    def batch(self, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        cfg = self.cfg
        seed = (epoch_seed(cfg.seed, epoch) * self.count + number) * self.group.size + self.group.rank
        drawn = torch.Generator().manual_seed(seed % 2**63)
        n = part_of(cfg.batch_size, self.group)
        labels = draw_labels(n, self.known, cfg.auxiliary, cfg.auxiliary_share, drawn)
        low, high = cfg.online_snr
        snr = low * (high / low) ** torch.rand(n, generator=drawn)
        snr[torch.rand(n, generator=drawn) < cfg.online_noise_free] = torch.inf
        simulator = self.simulator
        if cfg.online_tilt:
            simulator = simulator.under(symmetric_tilt(self.imaging, cfg.online_tilt, drawn))
        generator = torch.Generator(self.device)
        generator.manual_seed(int(torch.randint(2**31, (), generator=drawn)))
        chunk = CPU_BATCH if self.device.type == "cpu" else n
        parts = [
            simulator(part.to(self.device), level.to(self.device), generator).volumes
            for part, level in zip(labels.split(chunk), snr.split(chunk), strict=True)
        ]
        volumes = torch.cat(parts)
        mean = volumes.mean(dim=(1, 2, 3, 4), keepdim=True)
        std = volumes.std(dim=(1, 2, 3, 4), correction=0, keepdim=True)
        return (volumes - mean) / std, labels.to(self.device)


class StreamBatches:
    """Batches drawn from a stock of particles (simulation/stream.py), under the files' imaging or any.

    The shares of classes and of noise are as in OnlineBatches, but in the mean over batches. A renewal of 1 with no
    more in stock than a batch holds draws each particle once. To take up a run costs the making of the whole stock.

    Arguments and errors as OnlineBatches; and InputError for a tilt series, whose noise is no periodic field.
    """

    def __init__(self, cfg: Any, shapes: Shapes, known: int, volumes: int, group: Group):
        check_batch_size(cfg.batch_size, group)
        if shapes.imaging.tilt_step:
            raise InputError("--online-renewal, --online-imaging: not for a tilt series (tilt_step in simulation.json)")
        self.cfg, self.group, self.densities = cfg, group, shapes.densities
        self.count = max(1, volumes // cfg.batch_size)
        self.volumes = self.count * cfg.batch_size
        self.part = part_of(cfg.batch_size, group)
        self.groups = -(-self.part // GROUP)
        in_stock = max(self.groups, cfg.online_stock // (GROUP * group.size) if cfg.online_renewal < 1 else 0)
        imaging, draw, ranges = self._imaging(shapes.imaging)
        self.imaging_record = record_of(cfg, ranges, imaging)
        room, side = room_for(imaging.shift), shapes.densities.shape[-1]
        widest = replace(imaging, shift=imaging.shift - room)
        simulator = Simulator(shapes.densities, widest, shapes.others, shapes.common_variance, side + 2 * room)

        more = cfg.auxiliary + cfg.online_filaments  # classes beside the known ones
        makers = [*filament_makers(cfg.online_filaments, cfg.auxiliary_seed), *JUNK.values()]

        def labels(n: int, generator: torch.Generator) -> torch.Tensor:
            junk = int(n * cfg.online_junk + torch.rand((), generator=generator).item()) if cfg.online_junk else 0
            kinds = known + more + torch.randint(len(JUNK), (junk,), generator=generator)
            return torch.cat([draw_labels(n - junk, known, more, cfg.auxiliary_share, generator), kinds])

        seed = cfg.seed * group.size + group.rank
        self.stock = Stock(PieceMaker(simulator, draw, labels, room, seed, makers), in_stock)
        self.text = (
            f"{self.volumes} volumes an epoch, from a stock of {in_stock * GROUP} particles, {cfg.online_renewal:g} of "
            f"them new per volume, under {cfg.online_imaging} imaging{auxiliary_text(cfg)}"
        )

    def _imaging(self, of_files: Imaging) -> tuple[Imaging, Callable[[torch.Generator], Condition], ImagingRanges]:
        """The imaging that holds the most, how a condition is drawn, and from which ranges."""
        cfg = self.cfg
        if cfg.online_imaging == "random":
            ranges = ImagingRanges(neighbours=of_files.neighbours, tilt_series=cfg.online_tilt_series)
            microscope = {"voltage": of_files.voltage, "cs": of_files.cs, "voxel_size": of_files.voxel_size}
            base = replace(Imaging(), padding=STREAM_PADDING, **microscope)
            return replace(base, shift=ranges.shift, neighbours=ranges.neighbours), partial(ranges.draw, base), ranges

        def draw(generator: torch.Generator) -> Condition:
            imaging = symmetric_tilt(of_files, cfg.online_tilt, generator) if cfg.online_tilt else of_files
            low, high = imaging.defocus
            defocus = low + (high - low) * torch.rand((), generator=generator).item()
            return Condition(replace(imaging, defocus=(defocus, defocus)))

        return of_files, draw, ImagingRanges.around(of_files, cfg.online_tilt)

    def size(self, number: int) -> int:
        return self.cfg.batch_size

    @torch.no_grad()
    def batch(self, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.stock.read(self._draw(epoch, number))

    @torch.no_grad()
    def twins(self, epoch: int, number: int) -> torch.Tensor:
        """Twins (t, 1, D, H, W) without noise of the first t volumes of a batch, as `Stock.twins` draws them."""
        draw = self._draw(epoch, number)
        drawn = numbered_generator(self.stock.make.seed, "twins", epoch * self.count + number)
        return self.stock.read(self.stock.twins(draw, math.ceil(TWIN_SHARE * self.part), drawn))[0]

    @torch.no_grad()
    def margins(self, epoch: int, number: int) -> torch.Tensor:
        """The shares (n,) of the loss's margin that the volumes of a batch take.

        Linear in the logarithm of the SNR: 0 at the lowest of the settings and 1 at the highest, as without noise.
        """
        low, high = self.cfg.online_snr
        snr = self.stock.snr(self._draw(epoch, number))
        return ((snr / low).log() / math.log(high / low)).clamp(0.0, 1.0)

    def _draw(self, epoch: int, number: int) -> Draw:
        cfg, step = self.cfg, epoch * self.count + number
        self.stock.advance(int(step * self.groups * cfg.online_renewal))
        drawn = numbered_generator(self.stock.make.seed, "draw", step)
        return self.stock.draw(self.part, cfg.online_snr, cfg.online_noise_free, drawn)


def reference_volumes(batches: OnlineBatches | StreamBatches, data: TrainingSet) -> Compared:
    """Volumes as training has them, each simulated once: `prototype_per_class` of each known class, and a cohort.

    Where imaging is drawn at random, a particle under any of it is then compared with such as it is.
    """
    cfg = batches.cfg
    imaging = AsTrained.read_with_snr({"imaging": batches.imaging_record}, data.preprocessing, Declared())
    known = batches.densities[: len(data.classes)]
    return compared_volumes(imaging, known, cfg.prototype_per_class, cfg.seed + REFERENCE_SEED)


def record_of(cfg: Any, ranges: ImagingRanges, imaging: Imaging) -> dict:
    """What a checkpoint keeps of the imaging that its volumes were simulated under, in plain types."""
    own = {"voxel_size": imaging.voxel_size, "voltage": imaging.voltage, "cs": imaging.cs}
    noise = {"snr": list(cfg.online_snr), "noise_free": cfg.online_noise_free}
    return ranges.content() | own | noise


def part_of(batch_size: int, group: Group) -> int:
    """How many volumes of a batch this process draws."""
    return batch_size // group.size + (group.rank < batch_size % group.size)


def symmetric_tilt(imaging: Imaging, largest: tuple[float, ...], generator: torch.Generator) -> Imaging:
    """The same under a largest tilt, to both sides, that is drawn from a range in whole degrees."""
    low, high = largest
    tilt = round(low + (high - low) * torch.rand((), generator=generator).item())
    return replace(imaging, tilt_min=-tilt, tilt_max=tilt)


def auxiliary_text(cfg: Any) -> str:
    """What the user is told of the auxiliary classes and of junk; nothing where there is none."""
    noun = plural("class", cfg.auxiliary)
    text = f", {cfg.auxiliary_share:.0%} of the particles of {cfg.auxiliary} auxiliary {noun}" if cfg.auxiliary else ""
    text += f", {cfg.online_filaments} of filaments" if cfg.online_filaments else ""
    return text + (f", {cfg.online_junk:.0%} junk" if cfg.online_junk else "")


def draw_labels(n: int, known: int, auxiliary: int, share: float, generator: torch.Generator) -> torch.Tensor:
    """Labels (n,): the share of auxiliary ones, known ... known + auxiliary - 1, rounded at random; the rest known."""
    extra = 0
    if auxiliary:
        extra = int(n * share + torch.rand((), generator=generator).item())
    labels = torch.randint(known, (n,), generator=generator)
    labels[n - extra :] = known + torch.randint(max(auxiliary, 1), (extra,), generator=generator)
    return labels


def read_record(path: Path) -> dict:
    """simulation.json, which simulate.py leaves in its data folder."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; --simulate-online needs the record of a data set of simulate.py")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not the record of a simulation ({error})") from error


def check_record(record: dict, path: Path, structures: str, classes: list[str], preprocessing: Preprocessing) -> None:
    """Refuse a record of other classes, structures or volumes than those of the training files."""
    missing = sorted({*classes} - {*record["classes"]})
    if missing:
        raise InputError(f"{path}: made without the classes {', '.join(missing)} of train.csv")
    if record["box"] != preprocessing.box:
        raise InputError(f"{path}: a box of {record['box']} voxels; train.csv has volumes of {preprocessing.box}")
    if record.get("independent"):
        raise InputError(f"{path}: made by the independent imaging, which is for evaluation alone")
    size = preprocessing.voxel_size
    if size and not same_voxel_size(record["voxel_size"], size):
        raise InputError(f"{path}: voxels of {record['voxel_size']:g} A; train.csv has {size:g} A")
    if preprocessing.contrast != "bright":
        raise InputError("--contrast dark: simulated particles are bright, as the files have to be that go with them")
    if record["files"] and not structures:
        raise InputError(f"{path}: made from structure files; say with --structures where they are")
    if not record["files"]:
        if structures:
            raise InputError(f"--structures {structures}: {path} was made from procedural complexes; leave it out")
        return
    for name, file in find_structures(structures, tuple(classes)).items():
        if hashlib.sha256(file.read_bytes()).hexdigest() != record["files"][name]:
            raise InputError(f"{file}: not the file that {path} was made from")
