"""Batches simulated as they are needed: every step sees new poses, noise and imaging of the known classes, and of any
number of auxiliary procedural classes beside them."""

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from common.cli import InputError, find_data_dir, plural
from loader.prepare import Preprocessing
from physics.grid import Grid, same_voxel_size
from physics.imaging import Imaging
from simulation.auxiliary import auxiliary_densities, neighbour_densities
from simulation.simulator import Simulator
from simulation.structures import find_structures, load_densities
from training.batches import check_batch_size, epoch_seed
from training.group import Group

CPU_BATCH = 16  # particles simulated at once on the CPU, whose caches they then fit


class OnlineBatches:
    """Batches drawn afresh from densities on the training device.

    Labels are those of the known classes; auxiliary classes follow them, `auxiliary_share` of each batch is of them.
    Volumes are uniform over the classes of each kind. Poses and shifts are as simulate.py draws them; the SNR is
    log-uniform in `online_snr`, but for the share `online_noise_free` of the volumes, which have no noise. Each process
    draws its own part of a batch, so that another number of processes gives other batches.

    Args:
        cfg: of train.py: data_dir, structures, auxiliary, auxiliary_share, online_*, batch_size, seed.
        classes: the known classes, in the order of their labels.
        preprocessing: of the training files, which the simulated volumes must be like.
        volumes: of an epoch.

    Raises:
        InputError: no record of a simulation in the data folder, or one of other classes, structures or volumes; a
            batch of fewer than two volumes a process.
    """

    def __init__(
        self,
        cfg: Any,
        classes: list[str],
        preprocessing: Preprocessing,
        volumes: int,
        device: torch.device,
        group: Group,
    ):
        self.cfg, self.device, self.group, self.known = cfg, device, group, len(classes)
        check_batch_size(cfg.batch_size, group)
        self.count = max(1, volumes // cfg.batch_size)
        self.volumes = self.count * cfg.batch_size
        folder = find_data_dir(cfg.data_dir)
        record = read_record(folder / "simulation.json")
        check_record(record, folder / "simulation.json", cfg.structures, classes, preprocessing)
        options = {f.name: record[f.name] for f in fields(Imaging) if f.name in record}
        options |= {"defocus": tuple(record["defocus"]), "envelope": float(record["envelope"])}
        imaging = Imaging(**options)
        self.imaging = replace(
            imaging,
            defocus=cfg.online_defocus or imaging.defocus,
            neighbours=imaging.neighbours if cfg.online_neighbours < 0 else cfg.online_neighbours,
        )
        margin = 0.0 if record.get("crop") else imaging.shift
        seed = record["seed"] if record.get("shape_seed") is None else record["shape_seed"]
        grid = Grid(record["box"], record["voxel_size"], record["resolution"], margin)
        source = not record.get("deposited", False), record.get("map_level", 0.1)

        def load(names: list[str]) -> torch.Tensor:
            return load_densities(tuple(names), cfg.structures, grid, seed, *source).to(device)

        densities, variance = load(classes), None
        if imaging.common_noise:  # that of all classes of the files, not of those that are trained on
            variance = Simulator(load(record["classes"]), imaging).common_variance
        if cfg.auxiliary:
            more = auxiliary_densities(cfg.auxiliary, grid, cfg.auxiliary_seed, folder)
            densities = torch.cat([densities, more.to(device)])
        crowd = neighbour_densities(grid, seed).to(device) if self.imaging.neighbours else None
        self.simulator = Simulator(densities, self.imaging, crowd, variance)
        self.text = f"{self.volumes} volumes an epoch, simulated as they are needed"
        if cfg.auxiliary:
            noun = plural("class", cfg.auxiliary)
            self.text += f", {cfg.auxiliary_share:.0%} of them of {cfg.auxiliary} auxiliary {noun}"

    def size(self, number: int) -> int:
        return self.cfg.batch_size

    @torch.no_grad()
    def batch(self, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        cfg = self.cfg
        seed = (epoch_seed(cfg.seed, epoch) * self.count + number) * self.group.size + self.group.rank
        drawn = torch.Generator().manual_seed(seed % 2**63)
        n = cfg.batch_size // self.group.size + (self.group.rank < cfg.batch_size % self.group.size)
        labels = draw_labels(n, self.known, cfg.auxiliary, cfg.auxiliary_share, drawn)
        low, high = cfg.online_snr
        snr = low * (high / low) ** torch.rand(n, generator=drawn)
        snr[torch.rand(n, generator=drawn) < cfg.online_noise_free] = torch.inf
        simulator = self.simulator
        if cfg.online_tilt:
            low, high = cfg.online_tilt
            tilt = round(low + (high - low) * torch.rand((), generator=drawn).item())
            simulator = simulator.under(replace(self.imaging, tilt_min=-tilt, tilt_max=tilt))
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
