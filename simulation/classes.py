"""Which classes a user asks for, by their names, and how these become densities."""

import hashlib
from dataclasses import dataclass

from common.cli import InputError
from simulation.class_sets import CLASS_SETS
from simulation.download import download_missing
from simulation.structures import find_structures, procedural_name


@dataclass(frozen=True)
class DensityOptions:
    """Options that are seldom needed."""

    resolution: float = 20.0  # resolution of densities that are made from coordinates, A; at least the voxel size
    deposited: bool = False  # take the chains of coordinate files as deposited, in place of biological assembly 1
    map_level: float = 0.1  # share of a map's maximum under which there is no complex
    shape_seed: int | None = None  # seed of procedural complexes, where theirs is another than that of poses and noise

    def check(self, voxel_size: float) -> None:
        """Raises InputError for numbers that make no density on voxels of this size, A."""
        if not 0 <= self.map_level < 1 or self.resolution < voxel_size:
            raise InputError(
                f"--map-level {self.map_level:g} --resolution {self.resolution:g}: expected a level of 0 to 1, and a "
                f"resolution no finer than the voxel size, {voxel_size:g} A"
            )


def choose_classes(
    names: tuple[str, ...], procedural: int, structures: str, download: bool
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The classes' names in order, and for each structure file its SHA-256.

    Args:
        names: of classes, or that of one of CLASS_SETS; empty for all. procedural: how many procedural complexes are
            all, where no folder of `structures` is given. download: fetch what that folder lacks.

    Raises InputError for names that mean nothing, and as `find_structures` does.
    """
    if len(names) == 1 and names[0] in CLASS_SETS:
        if not structures:
            raise InputError(f"--classes {names[0]}: these are real structures; say where they are with --structures")
        names = CLASS_SETS[names[0]].names
    if len(set(names)) < len(names):
        raise InputError(f"--classes {' '.join(names)}: a name is there twice")
    if not structures and procedural < 1:
        raise InputError(f"--procedural {procedural}: expected 1 or more")
    if not structures and download:
        raise InputError("--download: say with --structures in which folder to keep what is fetched")
    if not structures:
        return names or tuple(procedural_name(index) for index in range(procedural)), {}
    if download:
        download_missing(structures, names)
    found = find_structures(structures, names)
    return tuple(found), {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}
