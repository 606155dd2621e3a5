"""Make subtomograms of known content: structures -> poses, CTF, missing wedge, noise -> MRC files and particles.csv.

    python simulate.py                                             # ten procedural complexes
    python simulate.py --structures structures --classes benchmark # the benchmark's structures, of your folder
    python simulate.py --structures structures --per-class 300 --snr 0.03 0.05 inf
    python simulate.py --set hard --per-class 100                  # under another imaging; lab, series, other likewise

Writes, in <data-dir>:
    data1_SNR003/subtomogram_mrc/tomotarget<i>.mrc                         float32, particles bright
    data1_SNR003/processed_densitymap_mrc_mrc2binary/packtarget<i>.mrc     int8, 1 where the particle is
    data2_SNR005/...                                                       the same particles at the next SNR
    particles.csv (last)   simulation.json (the options)   contact_sheet.png
File i is particle i % per_class of class i // per_class, in the order of the classes.

In particles.csv, Quaternion is `w x y z` of the rotation about the box's centre, (side - 1) / 2, that takes the
reference density to the particle, acting on (x, y, z); Shift is `x y z` in voxels, applied after it; Defocus is in um
of underfocus. A run that was cut
off goes on where it was when called again with the same options.
"""

import common.installed  # noqa: F401  where packages are missing it says so

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import tyro

from common.cli import Device, InputError, choose_device, plural, run
from common.files import write_json
from common.machine import processors
from common.progress import progress
from loader.columns import PARTICLES_FILE, SIMULATION_FILE
from loader.volume import read_volume
from physics.grid import Grid
from physics.imaging import Imaging
from simulation.auxiliary import neighbour_densities
from simulation.classes import DensityOptions, choose_classes
from simulation.contact_sheet import MOST_CLASSES, Shown, contact_sheet
from simulation.particles import (
    DataSet,
    ParticleFiles,
    mask_path,
    remove_data_set,
    snr_folders,
    volume_path,
)
from simulation.record import changed_options, recorded
from simulation.sets import SETS
from simulation.simulator import Simulator
from simulation.structures import load_densities

BATCH = 16  # particles a thread images at once


@dataclass(frozen=True)
class Expert(DensityOptions):
    """Options that are seldom needed."""

    workers: int = 0  # threads that make volumes; 0 for one per core


@dataclass(frozen=True)
class Config:
    data_dir: str = "data_"  # folder to write
    structures: str = ""  # folder of .pdb, .cif or .mrc files, plain or .gz; empty for procedural complexes
    procedural: int = 10  # number of procedural complexes, where no folder of structures is given
    classes: tuple[str, ...] = ()  # names of files up to the first dot; benchmark or original for a list; empty: all
    download: bool = False  # fetch PDB entries that are not in the folder of structures from RCSB, and keep them there
    per_class: int = 500  # number of particles of each class; each is imaged once at every SNR
    snr: tuple[float, ...] = (0.03, 0.05, math.inf)  # signal-to-noise ratios; inf for no noise
    box: int = 32  # side of a volume, voxels
    crop: bool = False  # allow shifts that take the ends of the largest complexes out of the box
    set: str = ""  # named set of options: benchmark, lab, hard, series or other; options that are given override it
    independent: bool = False  # image with code that training never sees, for evaluation alone; see simulation/other.py
    seed: int = 9  # seed of poses, noise and procedural complexes
    device: Device = "auto"  # device that computes
    overwrite: bool = False  # replace the data set that is in the folder
    imaging: tyro.conf.OmitArgPrefixes[Imaging] = field(default_factory=Imaging)
    expert: tyro.conf.OmitArgPrefixes[Expert] = field(default_factory=Expert)


RUN_ONLY = ("data_dir", "structures", "download", "device", "workers", "overwrite")  # do not change the data
NAME_ONLY = ("set",)  # recorded where it is given, but the same data may have been asked for by other words


def main(cfg: Config) -> None:
    """Simulate the data set of `cfg`."""
    start = time.perf_counter()
    check(cfg)
    torch.set_num_threads(1)  # the threads are ours: each images whole batches
    names, files = choose_classes(cfg.classes, cfg.procedural, cfg.structures, cfg.download)
    open_files, densities = prepare_imaging(cfg, names)
    folder = Path(cfg.data_dir)
    prepare_folder(folder, cfg, {"classes": list(names), "files": files})
    data = open_files(folder, names)
    made = make_files(data, cfg)
    data.write_table(cfg.per_class)
    write_sheet(data, densities, cfg)
    seconds = time.perf_counter() - start
    print(
        f"{folder}: {len(names)} {plural('class', len(names))} x {cfg.per_class} {plural('particle', cfg.per_class)} x "
        f"{len(cfg.snr)} {plural('SNR', len(cfg.snr))} ({cfg.imaging.snr_convention} convention), {made} "
        f"{plural('volume', made)} made now in {seconds:.0f} s; see {folder}/contact_sheet.png"
    )


def prepare_imaging(cfg: Config, names: tuple[str, ...]) -> tuple[Callable[..., ParticleFiles], np.ndarray]:
    """What gives a folder and the names their files, and the densities (C, D, H, W); nothing is written yet."""
    device = choose_device(cfg.device)
    cfg.imaging.check()
    margin = 0.0 if cfg.crop else cfg.imaging.shift
    grid = Grid(cfg.box, cfg.imaging.voxel_size, cfg.expert.resolution, margin)
    shape_seed = cfg.seed if cfg.expert.shape_seed is None else cfg.expert.shape_seed
    source = names, cfg.structures, grid, shape_seed, not cfg.expert.deposited, cfg.expert.map_level
    if cfg.independent:
        from simulation import other  # whose packages are slow to import

        other.check_imaging(cfg.imaging)
        fine = other.fine_densities(*source)
        made = partial(other.OtherFiles, fine=fine, imaging=cfg.imaging, seed=cfg.seed, snr=cfg.snr)
        return made, np.array([other.coarse(density) for density in fine])
    densities = load_densities(*source)
    crowd = neighbour_densities(grid, shape_seed).to(device) if cfg.imaging.neighbours else None
    simulator = Simulator(densities.to(device), cfg.imaging, crowd)
    return partial(DataSet, simulator=simulator, seed=cfg.seed, snr=cfg.snr), densities.numpy()


def check(cfg: Config) -> None:
    """Raises InputError for numbers that make no data set."""
    if cfg.per_class < 1:
        raise InputError(f"--per-class {cfg.per_class}: expected 1 or more")
    if not cfg.snr or not all(snr > 0 for snr in cfg.snr):
        raise InputError(f"--snr {' '.join(map(str, cfg.snr))}: expected numbers above 0, or inf")
    if len({f"{snr:g}" for snr in cfg.snr}) < len(cfg.snr):
        raise InputError(f"--snr {' '.join(map(str, cfg.snr))}: the same value twice")
    cfg.expert.check(cfg.imaging.voxel_size)
    if cfg.box < 8 or cfg.expert.workers < 0 or cfg.seed < 0:
        raise InputError(
            f"--box {cfg.box} --workers {cfg.expert.workers} --seed {cfg.seed}: expected a box of 8 voxels or more, "
            "and no negative number"
        )


def prepare_folder(folder: Path, cfg: Config, content: dict) -> None:
    """Write simulation.json into a new folder, or agree to go on in one of the same options.

    Raises InputError where the folder holds other data, unless it is to be overwritten.
    """
    options = record_of(cfg, content)
    record = folder / SIMULATION_FILE
    volumes = [*folder.glob("data*_SNR*/*/*.mrc"), *folder.glob(PARTICLES_FILE)]
    if cfg.overwrite:
        remove_data_set(folder)
    elif record.is_file():
        changed = changed_options(record, options, record_of(Config(), {}), NAME_ONLY)
        if changed:
            raise InputError(
                f"{folder}: holds a data set of other options ({', '.join(changed)}); --overwrite replaces it"
            )
        for path in folder.glob("data*_SNR*/*/.*.mrc"):  # what a cut-off run left half-written
            path.unlink()
        return
    elif volumes:
        raise InputError(f"{folder}: holds volumes that were not simulated here; --overwrite replaces them")
    write_json(record, options)


def record_of(cfg: Config, content: dict) -> dict:
    """What simulation.json keeps of the options, with `content`."""
    return recorded(cfg, content, (*RUN_ONLY, *(name for name in NAME_ONLY if not getattr(cfg, name))))


def make_files(data: ParticleFiles, cfg: Config) -> int:
    """Make all volumes and masks that are not there yet; return how many volumes that was."""
    chunks = [range(at, min(at + BATCH, cfg.per_class)) for at in range(0, cfg.per_class, BATCH)]
    todo = [
        (label, chunk)
        for label, chunk in product(range(len(data.names)), chunks)
        if not data.exists(label, chunk, cfg.per_class)
    ]
    total = sum(len(chunk) for _, chunk in todo) * len(cfg.snr)
    with ThreadPoolExecutor(cfg.expert.workers or processors()) as pool, progress("volumes", total=total) as bar:
        try:
            for count in pool.map(lambda job: data.make(*job, cfg.per_class) or len(job[1]), todo):
                bar.update(count * len(cfg.snr))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return total


def write_sheet(data: ParticleFiles, densities: np.ndarray, cfg: Config) -> None:
    """Draw the first particle of each class, read back from the files."""
    numbers = [label * cfg.per_class for label in range(min(len(data.names), MOST_CLASSES))]
    places = snr_folders(cfg.snr)
    volumes = [[read_volume(data.folder / volume_path(place, i))[0] for place in places] for i in numbers]
    masks = [read_volume(data.folder / mask_path(places[0], i))[0] for i in numbers]
    path = data.folder / "contact_sheet.png"
    sheet = Shown(data.names, densities, np.array(volumes), np.array(masks), cfg.snr)
    contact_sheet(path, sheet, cfg.imaging.voxel_size)


if __name__ == "__main__":
    run(main, Config, __doc__, SETS, "set")
