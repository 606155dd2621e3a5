"""Make tomograms of known content: structures -> complexes at known places, CTF, missing wedge, noise -> MRC and STAR.

    python simulate_tomogram.py                                                # ten procedural complexes, 30 of each
    python simulate_tomogram.py --structures structures --classes benchmark --tomograms 3 --snr 0.05
    python extract.py --coordinates tomograms/particles.star --tomograms tomograms      # as with your own tomograms

Writes, in <out>:
    TS_01.mrc ...     tomograms (z, y, x), particles dark as in raw ones, voxel size in the header
    particles.star    places of picks by the rules of RELION 5: those of the complexes, a few voxels off, and of nothing
    tomograms.star    the tomograms, by the same rules
    truth.csv         what each row of particles.star is: class or junk, place, rotation (last)
    tomograms.png     a slab of each tomogram with its picks      simulation.json  (the options)

The complexes are simulate.py's: of one name, --shape-seed (or --seed), box and voxel size they have the same density,
so a network trained on its subtomograms knows them. They are turned at random and do not overlap. The missing wedge,
the contrast transfer and the noise are those of the whole tomogram, under one defocus; --snr is that of the median
particle in its box. Everything random about a tomogram follows from the seed and its name. A run that was cut off goes
on with the next tomogram when called again with the same options. Memory: 16 bytes per voxel of one tomogram that is
widened by a box.
"""

import common.installed  # noqa: F401  where packages are missing it says so

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import mrcfile
import torch
import tyro

from common.cli import Contrast, InputError, check_choices, plural, run
from common.files import write_csv, write_json
from common.progress import progress
from loader.columns import SIMULATION_FILE
from loader.star import write_star
from loader.volume import write_volume
from physics.grid import Grid
from physics.imaging import Imaging
from physics.whole import imaged
from simulation.auxiliary import neighbour_densities
from simulation.classes import DensityOptions, choose_classes
from simulation.particles import particle_generator
from simulation.picks import PICKS_FILE, TOMOGRAMS_FILE, TRUTH_FILE, picks_table, tomograms_table, truth_table
from simulation.record import changed_options, recorded
from simulation.simulator import Simulator
from simulation.structures import load_densities
from simulation.tomogram import JUNK, Content, Scene, check_imaging, draw_scene, noise_level, paint, picked_places
from simulation.tomogram_sheet import MOST_SLABS, SLAB, Slab, tomogram_sheet


@dataclass(frozen=True)
class Config:
    out: str = "tomograms"  # folder to write
    structures: str = ""  # folder of .pdb, .cif or .mrc files, plain or .gz; empty for procedural complexes
    procedural: int = 10  # number of procedural complexes, where no folder of structures is given
    classes: tuple[str, ...] = ()  # names of files up to the first dot; benchmark or original for a list; empty: all
    download: bool = False  # fetch PDB entries that are not in the folder of structures from RCSB, and keep them there
    tomograms: int = 1  # number of tomograms
    size: tuple[int, int, int] = (128, 384, 384)  # voxels of a tomogram along z, y and x
    per_class: int = 30  # number of particles of each class in each tomogram
    crowd: int = 100  # number of further complexes in each tomogram, which are of no class and not picked
    junk: float = 0.15  # share of the picks that are places of nothing
    snr: float = 0.1  # signal-to-noise ratio of the median particle in its box; inf for no noise
    contrast: Contrast = "dark"  # contrast of the particles in the tomograms
    box: int = 32  # side of the densities, and of the boxes that will be cut, voxels
    dtype: Literal["float16", "float32"] = "float16"  # kind of the numbers in the tomograms
    seed: int = 9  # seed of places, rotations, noise and procedural complexes
    overwrite: bool = False  # replace the tomograms that are in the folder
    imaging: tyro.conf.OmitArgPrefixes[Imaging] = field(default_factory=Imaging)
    expert: tyro.conf.OmitArgPrefixes[DensityOptions] = field(default_factory=DensityOptions)


RUN_ONLY = ("out", "structures", "download", "overwrite")  # do not change the data
SHEET = "tomograms.png"


@dataclass(frozen=True)
class Drawn:
    """What is random about a tomogram, but for its noise."""

    name: str
    scene: Scene
    picks: torch.Tensor  # (P, 3): where a program would have picked the first P of the scene
    defocus: float  # um

    @property
    def file(self) -> str:
        """Its name in the folder."""
        return f"{self.name}.mrc"


def main(cfg: Config) -> None:
    """Simulate the tomograms of `cfg`."""
    start = time.perf_counter()
    check(cfg)
    torch.set_num_threads(1)  # most steps are small, and so the bytes do not follow from the number of processors
    names, files = choose_classes(cfg.classes, cfg.procedural, cfg.structures, cfg.download)
    simulator = prepare(cfg, names)
    drawn = [draw(cfg, len(names), simulator, f"TS_{number:02d}") for number in range(1, cfg.tomograms + 1)]
    folder = Path(cfg.out)
    prepare_folder(folder, cfg, {"classes": list(names), "files": files})
    for tomogram in progress("tomograms", drawn, unit="tomogram"):
        if not (folder / tomogram.file).is_file():
            volume = make(cfg, simulator, tomogram).numpy().astype(cfg.dtype)
            write_volume(folder / tomogram.file, volume, cfg.imaging.voxel_size)
    write_tables(folder, cfg, drawn, names)
    write_sheet(folder, cfg, drawn)
    size, picks = " x ".join(map(str, cfg.size)), sum(tomogram.scene.picks for tomogram in drawn)
    print(
        f"{folder}: {cfg.tomograms} {plural('tomogram', cfg.tomograms)} of {size} voxels (z, y, x) of "
        f"{cfg.imaging.voxel_size:g} A, SNR {cfg.snr:g} ({cfg.imaging.snr_convention} convention), {picks} picks, in "
        f"{time.perf_counter() - start:.0f} s; see {folder / SHEET}"
    )


def check(cfg: Config) -> None:
    """Raises InputError for numbers that make no tomogram."""
    check_choices(cfg)
    cfg.imaging.check()
    check_imaging(cfg.imaging)
    cfg.expert.check(cfg.imaging.voxel_size)
    if min(cfg.per_class, cfg.tomograms) < 1 or min(cfg.crowd, cfg.seed) < 0 or cfg.box < 8:
        raise InputError(
            f"--per-class {cfg.per_class} --tomograms {cfg.tomograms} --crowd {cfg.crowd} --seed {cfg.seed} --box "
            f"{cfg.box}: expected 1 or more particles and tomograms, no negative number, and a box of 8 voxels or more"
        )
    if not 0 <= cfg.junk < 1 or not cfg.snr > 0:
        raise InputError(f"--junk {cfg.junk:g} --snr {cfg.snr:g}: expected a share below 1, and an SNR above 0, or inf")


def prepare(cfg: Config, names: tuple[str, ...]) -> Simulator:
    """The densities of the classes, and behind them those of the crowd."""
    grid = Grid(cfg.box, cfg.imaging.voxel_size, cfg.expert.resolution, cfg.imaging.shift)
    shape_seed = cfg.seed if cfg.expert.shape_seed is None else cfg.expert.shape_seed
    source = names, cfg.structures, grid, shape_seed, not cfg.expert.deposited, cfg.expert.map_level
    densities = load_densities(*source)
    if cfg.crowd:
        densities = torch.cat([densities, neighbour_densities(grid, shape_seed)])
    return Simulator(densities, cfg.imaging)


def draw(cfg: Config, classes: int, simulator: Simulator, name: str) -> Drawn:
    """Everything random about a tomogram but its noise; it follows from the seed and the name."""
    generator = particle_generator(cfg.seed, name, 0, "scene")
    low, high = cfg.imaging.defocus
    defocus = low + (high - low) * torch.rand(1, generator=generator).item()
    junk = round(classes * cfg.per_class * cfg.junk / (1 - cfg.junk))
    scene = draw_scene(cfg.size, Content(classes, cfg.per_class, cfg.crowd, junk), simulator, generator)
    return Drawn(name, scene, picked_places(scene, cfg.imaging.shift, generator), defocus)


@torch.inference_mode()
def make(cfg: Config, simulator: Simulator, tomogram: Drawn) -> torch.Tensor:
    """The tomogram (z, y, x)."""
    level = noise_level(tomogram.scene, simulator, tomogram.defocus, cfg.snr)
    density = paint(tomogram.scene, cfg.size, simulator)
    generator = particle_generator(cfg.seed, tomogram.name, 0, "noise")
    volume = imaged(density, cfg.imaging, tomogram.defocus, simulator.side, level, generator)
    return -volume if cfg.contrast == "dark" else volume


def prepare_folder(folder: Path, cfg: Config, content: dict) -> None:
    """Write the record into a new folder, or agree to go on in one of the same options.

    Raises InputError where the folder holds others, unless they are to be overwritten.
    """
    options, record = recorded(cfg, content, RUN_ONLY), folder / SIMULATION_FILE
    found = [*folder.glob("*.mrc"), *folder.glob("*.star"), *folder.glob(TRUTH_FILE)]
    if record.is_file() and not cfg.overwrite:
        changed = changed_options(record, options, recorded(Config(), {}, RUN_ONLY))
        if changed:
            raise InputError(
                f"{folder}: holds tomograms of other options ({', '.join(changed)}); --overwrite replaces them"
            )
    elif found and not record.is_file():
        raise InputError(f"{folder}: holds {found[0].name}, which was not simulated here; give another --out")
    else:
        for path in [*folder.glob("TS_*.mrc"), folder / TRUTH_FILE]:
            path.unlink(missing_ok=True)
        write_json(record, options)


def write_tables(folder: Path, cfg: Config, drawn: list[Drawn], names: tuple[str, ...]) -> None:
    """Write picks, tomograms and truth; the truth last."""
    import pandas as pd

    voxel_size, picks, truth = cfg.imaging.voxel_size, [], []
    for tomogram in drawn:
        row = 1 + sum(map(len, picks))
        picks.append(picks_table(tomogram.name, tomogram.picks, cfg.size, voxel_size))
        truth.append(
            truth_table(tomogram.name, tomogram.scene, row, names, voxel_size).assign(Defocus=tomogram.defocus)
        )
    listed = [tomogram.name for tomogram in drawn], [tomogram.file for tomogram in drawn]
    write_star(folder / TOMOGRAMS_FILE, {"global": tomograms_table(*listed, cfg.size, cfg.imaging)})
    write_star(folder / PICKS_FILE, {"particles": pd.concat(picks, ignore_index=True)})
    write_csv(folder / TRUTH_FILE, pd.concat(truth, ignore_index=True))


def write_sheet(folder: Path, cfg: Config, drawn: list[Drawn]) -> None:
    """Draw a slab of each tomogram, read back from the files, and the picks in it."""
    middle = cfg.size[0] // 2
    slabs = []
    for tomogram in drawn[:MOST_SLABS]:
        with mrcfile.mmap(folder / tomogram.file) as mrc:
            picture = mrc.data[middle - SLAB : middle + SLAB + 1].mean(axis=0, dtype="float32")
        near = (tomogram.picks[:, 0] - middle).abs() <= cfg.box / 4
        is_junk = tomogram.scene.labels[: tomogram.scene.picks][near] == JUNK
        slabs.append(Slab(tomogram.name, picture, tomogram.picks[near, 1:].numpy(), is_junk.numpy()))
    tomogram_sheet(folder / SHEET, slabs, cfg.box, cfg.imaging.voxel_size)


if __name__ == "__main__":
    run(main, Config, __doc__)
