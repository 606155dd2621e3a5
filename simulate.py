"""Make subtomograms of known content: structures -> poses, CTF, missing wedge, noise -> MRC files and particles.csv.

    python simulate.py                                             # ten procedural complexes
    python simulate.py --structures structures --classes benchmark # the benchmark's structures, of your folder
    python simulate.py --structures structures --per-class 300 --snr 0.03 0.05 inf

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

import csv
import hashlib
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.cli import InputError, choose_device, plural, run
from common.files import atomic_path, write_json
from common.machine import processors
from loader.volume import read_volume
from physics.imaging import Imaging
from simulation.auxiliary import neighbour_densities
from simulation.class_sets import CLASS_SETS
from simulation.contact_sheet import MOST_CLASSES, contact_sheet
from simulation.download import download_missing
from simulation.particles import (
    COLUMNS,
    MASK_FOLDER,
    MASK_NAME,
    VOLUME_FOLDER,
    VOLUME_NAME,
    DataSet,
    mask_path,
    snr_folders,
    volume_path,
)
from simulation.simulator import Simulator
from simulation.structures import find_structures, load_densities, procedural_name

BATCH = 16  # particles a thread images at once


@dataclass(frozen=True)
class Config:
    data_dir: str = "data_"  # folder to write
    structures: str = ""  # folder of .pdb, .cif or .mrc files, plain or .gz; empty for procedural complexes
    procedural: int = 10  # how many procedural complexes, where structures is empty
    classes: tuple[str, ...] = ()  # file names up to the first dot, in this order; or benchmark, original; empty: all
    download: bool = False  # fetch PDB entries that are not in structures from the RCSB archive, and keep them there
    per_class: int = 500  # particles of each class; each is imaged once at every SNR
    snr: tuple[float, ...] = (0.03, 0.05, math.inf)  # signal-to-noise ratios; inf for no noise
    snr_convention: str = "variance"  # variance: SNR = S / N; lab: SNR = 2 r / (1 - r), twice as noisy
    box: int = 32  # voxels, side of a volume
    voxel_size: float = 10.0  # A
    resolution: float = 20.0  # A, of densities made from coordinates; the voxel size at least
    deposited: bool = False  # the chains of coordinate files as deposited, in place of biological assembly 1
    map_level: float = 0.1  # of a map's maximum: below it there is no complex
    tilt_min: float = -60.0  # degrees, about y
    tilt_max: float = 60.0  # degrees
    dual_axis: bool = False  # a second tilt series about x
    tilt_step: float = 0.0  # degrees between the views of a real tilt series, twenty times slower; 0: ideal wedge
    dose: float = 0.0  # e/A^2 of the whole tilt series
    defocus: tuple[float, float] = (5.0, 5.0)  # um of underfocus, drawn from this range
    cs: float = 2.0  # mm, spherical aberration
    voltage: float = 300.0  # kV
    amplitude_contrast: float = 0.07  # 0 to 1
    envelope: float = 0.4  # of Nyquist: where the contrast has fallen to 1/e; inf for none
    band_limit: float = 1.0  # of Nyquist: where signal and noise end, smoothly; 1 for no limit
    shift: float = 2.0  # voxels, largest shift along each axis
    crop: bool = False  # allow shifts that take the ends of the largest complexes out of the box
    common_noise: bool = False  # one noise level for all: the SNR is that of the mean class, small ones have less
    neighbours: int = 0  # procedural complexes packed around each particle, at most
    seed: int = 9  # of poses, noise and procedural complexes
    device: str = "auto"  # auto, cpu or cuda
    workers: int = 0  # threads; 0 for one a core
    overwrite: bool = False  # replace the data set that is in data_dir


RUN_ONLY = ("data_dir", "structures", "download", "device", "workers", "overwrite")  # do not change the data


def main(cfg: Config) -> None:
    """Simulate the data set of `cfg`."""
    start = time.perf_counter()
    check(cfg)
    device = choose_device(cfg.device)
    torch.set_num_threads(1)  # the threads are ours: each images whole batches
    names, files = choose_classes(cfg)
    imaging = Imaging(**{f.name: getattr(cfg, f.name) for f in fields(Imaging) if hasattr(cfg, f.name)})
    imaging.check()
    margin = 0.0 if cfg.crop else cfg.shift
    shape = cfg.box, cfg.voxel_size, cfg.resolution, cfg.seed
    densities = load_densities(names, cfg.structures, *shape, margin, not cfg.deposited, cfg.map_level)
    crowd = neighbour_densities(*shape).to(device) if cfg.neighbours else None
    folder = Path(cfg.data_dir)
    prepare_folder(folder, cfg, {"classes": list(names), "files": files})
    simulator = Simulator(densities.to(device), imaging, crowd)
    data = DataSet(folder, names, simulator, cfg.seed, cfg.snr)
    made = make_files(data, cfg)
    write_particles(data, cfg)
    write_sheet(data, densities.numpy(), cfg)
    seconds = time.perf_counter() - start
    print(
        f"{folder}: {len(names)} {plural('class', len(names))} x {cfg.per_class} {plural('particle', cfg.per_class)} x "
        f"{len(cfg.snr)} {plural('SNR', len(cfg.snr))} ({cfg.snr_convention} convention), {made} "
        f"{plural('volume', made)} made now in {seconds:.0f} s; see {folder}/contact_sheet.png"
    )


def check(cfg: Config) -> None:
    """Raises InputError for numbers that make no data set."""
    if cfg.per_class < 1 or (not cfg.structures and cfg.procedural < 1):
        raise InputError(f"--per-class {cfg.per_class}, --procedural {cfg.procedural}: expected 1 or more")
    if not cfg.snr or not all(snr > 0 for snr in cfg.snr):
        raise InputError(f"--snr {' '.join(map(str, cfg.snr))}: expected numbers above 0, or inf")
    if len({f"{snr:g}" for snr in cfg.snr}) < len(cfg.snr):
        raise InputError(f"--snr {' '.join(map(str, cfg.snr))}: the same value twice")
    if not 0 <= cfg.map_level < 1 or cfg.resolution < cfg.voxel_size:
        raise InputError(
            f"--map-level {cfg.map_level:g} --resolution {cfg.resolution:g}: expected a level of 0 to 1, and a "
            f"resolution no finer than the voxel size, {cfg.voxel_size:g} A"
        )
    if cfg.box < 8 or cfg.workers < 0 or cfg.seed < 0:
        raise InputError(
            f"--box {cfg.box} --workers {cfg.workers} --seed {cfg.seed}: expected a box of 8 voxels or more, and no "
            "negative number"
        )


def choose_classes(cfg: Config) -> tuple[tuple[str, ...], dict[str, str]]:
    """The classes' names in order, and for each structure file its SHA-256."""
    names = cfg.classes
    if len(names) == 1 and names[0] in CLASS_SETS:
        if not cfg.structures:
            raise InputError(f"--classes {names[0]}: these are real structures; say where they are with --structures")
        names = CLASS_SETS[names[0]].names
    if len(set(names)) < len(names):
        raise InputError(f"--classes {' '.join(names)}: a name is there twice")
    if not cfg.structures and cfg.download:
        raise InputError("--download: say with --structures in which folder to keep what is fetched")
    if not cfg.structures:
        return names or tuple(procedural_name(index) for index in range(cfg.procedural)), {}
    if cfg.download:
        download_missing(cfg.structures, names)
    found = find_structures(cfg.structures, names)
    return tuple(found), {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}


def prepare_folder(folder: Path, cfg: Config, content: dict) -> None:
    """Write simulation.json into a new folder, or agree to go on in one of the same options.

    Raises InputError where the folder holds other data, unless it is to be overwritten.
    """
    options = recorded(cfg, content)
    record = folder / "simulation.json"
    volumes = [*folder.glob("data*_SNR*/*/*.mrc"), *folder.glob("particles.csv")]
    if cfg.overwrite:
        for pattern in (f"{VOLUME_FOLDER}/*{VOLUME_NAME}*.mrc", f"{MASK_FOLDER}/*{MASK_NAME}*.mrc"):
            for path in folder.glob(f"data*_SNR*/{pattern}"):
                path.unlink()
        for name in ("particles.csv", "simulation.json", "contact_sheet.png"):
            (folder / name).unlink(missing_ok=True)
    elif record.is_file():
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{record}: not the record of a simulation ({error}); --overwrite starts anew") from error
        before = recorded(Config(), {}) | before  # an option that came later had its default
        changed = [key for key in options | before if options.get(key) != before.get(key)]
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


def recorded(cfg: Config, content: dict) -> dict:
    """What simulation.json keeps of the options, with `content`."""
    options = {key: value for key, value in asdict(cfg).items() if key not in RUN_ONLY}
    return json.loads(json.dumps(options | content).replace("Infinity", '"inf"'))


def make_files(data: DataSet, cfg: Config) -> int:
    """Make all volumes and masks that are not there yet; return how many volumes that was."""
    chunks = [range(at, min(at + BATCH, cfg.per_class)) for at in range(0, cfg.per_class, BATCH)]
    todo = [
        (label, chunk)
        for label, chunk in product(range(len(data.names)), chunks)
        if not data.exists(label, chunk, cfg.per_class)
    ]
    total = sum(len(chunk) for _, chunk in todo) * len(cfg.snr)
    with ThreadPoolExecutor(cfg.workers or processors()) as pool, tqdm(total=total, unit="volume") as bar:
        try:
            for count in pool.map(lambda job: data.make(*job, cfg.per_class) or len(job[1]), todo):
                bar.update(count * len(cfg.snr))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return total


def write_particles(data: DataSet, cfg: Config) -> None:
    """Write particles.csv: one row a volume, all SNRs of a particle together."""
    with atomic_path(data.folder / "particles.csv") as temporary, temporary.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for label in range(len(data.names)):
            table.writerows(data.rows(label, cfg.per_class))


def write_sheet(data: DataSet, densities: np.ndarray, cfg: Config) -> None:
    """Draw the first particle of each class, read back from the files."""
    numbers = [label * cfg.per_class for label in range(min(len(data.names), MOST_CLASSES))]
    places = snr_folders(cfg.snr)
    volumes = [[read_volume(data.folder / volume_path(place, i))[0] for place in places] for i in numbers]
    masks = [read_volume(data.folder / mask_path(places[0], i))[0] for i in numbers]
    path = data.folder / "contact_sheet.png"
    contact_sheet(path, data.names, densities, np.array(volumes), np.array(masks), cfg.snr, cfg.voxel_size)


if __name__ == "__main__":
    run(main, Config, __doc__)
