"""`--enrol`: classes beside the known ones, from examples or from structures alone; the checkpoint's file stays as is.

What a name stands for is never guessed from what a file holds:

    NAME=FOLDER, NAME=TABLE.csv, NAME=TABLE.star, NAME=N@STACK, NAME=STACK.mrcs    examples
    NAME=A.mrc NAME=B.mrc                  two or more files of one name: examples
    NAME=FILE.pdb, NAME=FILE.cif           a structure
    NAME=structure:FILE                    a structure, whatever the file is called: so a map, FILE.mrc, is enrolled
    NAME=examples:FILE.mrc                 one example
    FILE.pdb, FILE.cif, FOLDER             without a name: structures, each under its file's name up to the first dot
    structure:FOLDER                       likewise, where there are maps among them

MRC files that nothing says it of, one under a name or some in a folder without one, are refused: a map and a
subtomogram look alike.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.cli import InputError, plural, warn
from common.threads import in_threads
from evaluation.enrolled import FALSE_ACCEPTANCE_RATE, Enlarged, NewClass, enrol, with_prototypes
from loader.columns import NO_PARTICLE, PARTICLE, UNKNOWN
from loader.prepare import Input, Preprocessing, prepare
from loader.volume import MRC_SUFFIXES
from model import embed, trained_classes
from prediction.inputs import find_inputs, joined
from prediction.structures import Bench, structure_classes, with_alike_shapes
from simulation.as_trained import AsTrained, Declared
from simulation.cohort import Pool
from simulation.structures import ATOM_SUFFIXES, STRUCTURE_SUFFIXES, find_structures

STRUCTURE, EXAMPLES = "structure:", "examples:"
TABLES = (".csv", ".star")
MOST_EXAMPLES = 1000  # of a class that are compared with, drawn at random from more
SEED = 9  # of poses, noise and that draw


@dataclass(frozen=True)
class Enrolling:
    """Classes that are added to the known ones."""

    enrol: tuple[str, ...] = ()  # NAME=EXAMPLES, NAME=STRUCTURE.cif, NAME=structure:MAP.mrc, or a folder of structures
    only_enrolled: bool = False  # leave the known classes out
    tilt_range: tuple[float, ...] = ()  # first and last tilt of your data, degrees, to simulate under; empty: any
    defocus: tuple[float, ...] = ()  # range of the defocus of your data, um, to simulate under; empty: any
    false_acceptance_rate: float = FALSE_ACCEPTANCE_RATE  # share of other shapes of its size that may pass as a class

    def check(self) -> None:
        """Raises InputError for options that make no sense."""
        Declared.read(self.tilt_range, self.defocus)
        if self.only_enrolled and not self.enrol:
            raise InputError("--only-enrolled: leaves no class; say with --enrol which are to be told")
        if not 0 < self.false_acceptance_rate < 1:
            raise InputError(
                f"--false-acceptance-rate {self.false_acceptance_rate:g}: expected a share between 0 and 1"
            )


@dataclass(frozen=True)
class Wanted:
    """What is to be enrolled: class -> its files of examples, and class -> its structure's file."""

    examples: dict[str, list[str]]
    structures: dict[str, Path]

    def __bool__(self) -> bool:
        return bool(self.examples or self.structures)


@dataclass(frozen=True)
class Setting:
    """What examples are read and embedded with."""

    model: nn.Module
    preprocessing: Preprocessing
    device: torch.device
    batch_size: int
    voxel_size: float = 0.0  # A, of examples where their tables and headers are wrong; 0: as these say
    of_data: float = 0.0  # A, of the data that structures are to be found in; 0: the checkpoint's

    def embed(self, images: torch.Tensor) -> np.ndarray:
        """Volumes (N, 1, D, H, W) -> embeddings (N, E) of length 1."""
        return embed(self.model, images, self.device, self.batch_size)


def read_wanted(options: Enrolling) -> Wanted:
    """What `--enrol` asks for, by the rules above.

    Raises InputError for what is none of it, or could be two things, and for other options that make no sense.
    """
    options.check()
    examples: dict[str, list[str]] = {}
    structures: dict[str, Path] = {}
    for text in options.enrol:
        name, found, path = text.partition("=")
        if not found:
            new = _unnamed(text)
        elif not name or not path or "/" in name:
            raise InputError(f"--enrol {text}: expected NAME=FILES, NAME=STRUCTURE or structures without a name")
        elif path.startswith(STRUCTURE) or path.lower().endswith(ATOM_SUFFIXES):
            new = {name: _structure(path.removeprefix(STRUCTURE), text)}
        else:
            _check_examples(path.removeprefix(EXAMPLES), text)
            examples.setdefault(name, []).append(path)
            new = {}
        for again in new.keys() & structures.keys():
            raise InputError(
                f"--enrol {text}: {again} is there already, as {structures[again]}; expected one structure"
            )
        structures |= new
    for name in examples.keys() & structures.keys():
        raise InputError(f"--enrol: {name} has examples and a structure; expected one of the two")
    for name, paths in examples.items():
        if len(paths) == 1 and _could_be_a_map(paths[0]):
            raise InputError(
                f"--enrol {name}={paths[0]}: one MRC file, which may be a map or a subtomogram; say which: "
                f"{name}={STRUCTURE}{paths[0]} or {name}={EXAMPLES}{paths[0]}"
            )
    plain = {name: [path.removeprefix(EXAMPLES) for path in paths] for name, paths in examples.items()}
    return Wanted(plain, structures)


def enrolled(
    checkpoint: dict, wanted: Wanted, options: Enrolling, setting: Setting, more: Sequence[NewClass] = ()
) -> tuple[dict, Enlarged, str]:
    """A checkpoint as `load_model` gives it with the wanted classes, how sure they are, and the imaging in words.

    Args:
        more: classes whose examples are embedded already.

    Raises:
        InputError: a name that is taken; a file that cannot be read; nothing that a threshold could rest on.
    """
    check_names([*wanted.examples, *wanted.structures, *(one.name for one in more)], checkpoint, options)
    new = [*(examples_of(name, files, setting) for name, files in wanted.examples.items()), *more]
    declared = Declared.read(options.tilt_range, options.defocus, setting.of_data)
    known_size = setting.preprocessing.voxel_size or declared.voxel_size
    imaging = None
    if wanted.structures or known_size:
        imaging = AsTrained.read(checkpoint["config"], setting.preprocessing, declared)
        bench = Bench(imaging, Pool(imaging.grid), setting.embed, setting.device, SEED)
        new = (with_alike_shapes(new, bench) if new else []) + structure_classes(wanted.structures, bench)
    for one in new:
        if len(np.unique(one.particles)) < 2 and not len(one.cohort):
            raise InputError(f"--enrol {one.name}: one particle, and no voxel size to simulate other shapes; give more")
    classes, keep = checkpoint["classes"], not options.only_enrolled
    found = enrol(checkpoint["calibration"], classes, new, keep, options.false_acceptance_rate)
    junk, found = with_prototypes(checkpoint["junk"], found, new)
    before = [] if options.only_enrolled else checkpoint["config"].get("enrolled", [])
    config = checkpoint["config"] | {"trained_classes": trained_classes(checkpoint)}
    config |= {"enrolled": before + [asdict(one) for one in found.enrolled]}
    parts = {"classes": found.classes, "calibration": found.calibration, "junk": junk, "config": config}
    return checkpoint | parts, found, imaging.text() if imaging else ""


def check_names(names: Sequence[str], checkpoint: dict, options: Enrolling) -> None:
    """Refuse names that are there twice, or mean something else."""
    taken = [] if options.only_enrolled else checkpoint["classes"]
    for number, name in enumerate(names):
        if name in (UNKNOWN, NO_PARTICLE):
            raise InputError(f"--enrol {name}: what predict.py calls particles of no class, or none; give another name")
        if name in names[:number]:
            raise InputError(f"--enrol {name}: there twice")
        if name in taken:
            raise InputError(f"--enrol {name}: a known class; give another name, or leave these out (--only-enrolled)")


def examples_of(name: str, files: Sequence[str], setting: Setting) -> NewClass:
    """A class of examples, embedded; rows of a table that share a Particle are copies of one.

    Examples that cannot be read are left out, and that is a warning. Raises InputError where none can be.
    """
    parts = [find_inputs([file], setting.voxel_size) for file in files]
    places = [(file, number) for file, part in zip(files, parts, strict=True) for number in range(1, len(part) + 1)]
    inputs = joined(parts)
    particles = inputs.table[PARTICLE].where(inputs.table[PARTICLE] != "", inputs.table.index.astype(str)).to_numpy(str)
    rows = chosen_rows(len(inputs))
    read = [*in_threads(lambda row: _image(inputs[row], setting), rows.tolist(), name, "example")]
    failed = [_where(*places[row], told) for row, told in zip(rows, read, strict=True) if isinstance(told, str)]
    images = [image for image in read if not isinstance(image, str)]
    if not images:
        more = f" (none of {len(failed)} examples can be read)" if len(failed) > 1 else ""
        raise InputError(f"--enrol {name}: {failed[0]}{more}")
    if failed:
        warn(
            f"--enrol {name}: {len(failed)} of {len(read)} examples cannot be read; {len(images)} are left. The first "
            f"that cannot: {failed[0]}"
        )
        rows = rows[[not isinstance(told, str) for told in read]]
    embeddings = setting.embed(torch.stack(images)[:, None])
    return NewClass(name, examples_text(len(rows), len(inputs)), embeddings, particles[rows], embeddings[:0], "none")


def _where(file: str, number: int, reason: str) -> str:
    """Why an example cannot be read; of a table, with its row, from 1."""
    return f"{file}, row {number}: {reason}" if file.lower().endswith(TABLES) else reason


def examples_text(chosen: int, count: int) -> str:
    """`12 examples`, or how many of how many."""
    return f"{chosen} {plural('example', chosen)}" + (f" of {count}" if chosen < count else "")


def _image(given: Input, setting: Setting) -> torch.Tensor | str:
    """A volume, or why it cannot be read."""
    try:
        return torch.from_numpy(prepare(given, setting.preprocessing).image.astype(np.float16))  # as inputs are kept
    except InputError as error:
        return str(error)


def chosen_rows(count: int) -> np.ndarray:
    """Which of `count` examples are compared with: all, or MOST_EXAMPLES at random."""
    order = np.random.default_rng(SEED).permutation(count)
    return np.sort(order[:MOST_EXAMPLES])


def _unnamed(text: str) -> dict[str, Path]:
    """Structures by the names of their files: one file, or a folder of them."""
    path = Path(text.removeprefix(STRUCTURE))
    if path.is_dir():
        found = find_structures(path)
        maps = [file.name for file in found.values() if file.name.lower().endswith(MRC_SUFFIXES)]
        if maps and not text.startswith(STRUCTURE):
            raise InputError(f"--enrol {text}: holds {maps[0]}; if that is a map, not a subtomogram: {STRUCTURE}{text}")
        return found
    if not (path.name.lower().endswith(ATOM_SUFFIXES) or text.startswith(STRUCTURE)):
        raise InputError(f"--enrol {text}: expected NAME=FILES, a .pdb or .cif file, or a folder of structures")
    return {path.name.split(".")[0]: _structure(str(path), text)}


def _structure(path: str, text: str) -> Path:
    if Path(path).is_dir():
        raise InputError(f"--enrol {text}: a folder; its structures keep the names of their files: leave the name out")
    if not Path(path).is_file():
        raise InputError(f"--enrol {text}: {path}: no such file; expected a structure or examples of a class")
    if not path.lower().endswith(STRUCTURE_SUFFIXES):
        raise InputError(f"--enrol {text}: expected a file, of {', '.join(STRUCTURE_SUFFIXES)}")
    return Path(path)


def _check_examples(path: str, text: str) -> None:
    """Refuse a folder that holds coordinates and no volumes."""
    folder = Path(path)
    if folder.is_dir():
        names = [file.name.lower() for file in folder.iterdir()]
        atoms = any(name.endswith(ATOM_SUFFIXES) for name in names)
        if atoms and not any(name.endswith(MRC_SUFFIXES) for name in names):
            raise InputError(f"--enrol {text}: a folder of structures; leave the name out, and they keep their own")


def _could_be_a_map(path: str) -> bool:
    """Whether a path is one MRC file that is no stack, and nothing says that it is an example."""
    if path.startswith(EXAMPLES) or "@" in path or not path.lower().endswith(MRC_SUFFIXES) or not Path(path).is_file():
        return False
    return len(find_inputs([path])) == 1
