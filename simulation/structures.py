"""Density of a complex from coordinates (PDB, mmCIF) or from a map (MRC), and the lists of classes used here.

Every density is a cube (z, y, x) with its centre of mass at the cube's centre, (side - 1) / 2 in voxels, and free of
detail beyond the voxels' Nyquist frequency in any direction, so that it can be rotated without aliasing. Its unit is
the density of solid protein: about 1 inside a large complex, whatever it was made from.
"""

from pathlib import Path

import numpy as np
import torch

from common.cli import InputError
from loader.volume import MRC_SUFFIXES, read_volume
from physics.grid import Grid
from physics.resample import spectrum_at
from simulation.procedural import RESIDUE_VOLUME, procedural_residues

ATOM_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif", ".pdb.gz", ".ent.gz", ".cif.gz", ".mmcif.gz")
STRUCTURE_SUFFIXES = ATOM_SUFFIXES + MRC_SUFFIXES
RESIDUE_SCATTERING = 18.4  # A, electron scattering at k = 0 of a mean residue: 4.9 C, 1.35 N, 1.5 O, 0.04 S
MAP_INTERIOR = 0.58  # sum(d^2) / sum(d) of typical complexes from coordinates at 20 A; maps are scaled to it
INSIDE = 0.998  # share of a complex's mass that must fit the box in any orientation; the tip of a tail may leave it
PASS_BAND = 0.7  # of Nyquist: where the smooth cut to Nyquist begins


def find_structures(folder: Path | str, names: tuple[str, ...] = ()) -> dict[str, Path]:
    """Map class names to files of a folder; a class is named by its file up to the first dot.

    Args:
        folder: holds .pdb, .cif and .mrc files, plain or gzipped; other files are ignored.
        names: the classes wanted, in any case of letters; empty for all, in sorted order.

    Raises:
        InputError: no such folder, none of these files in it, a name without a file, or with two.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with .pdb, .cif or .mrc files (--structures)")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.lower().endswith(STRUCTURE_SUFFIXES) and not path.name.startswith("."):
            found.setdefault(path.name.split(".")[0], []).append(path)
    if not found:
        raise InputError(f"{folder}: holds no .pdb, .cif or .mrc file, plain or gzipped (--structures)")
    by_lower = {name.lower(): paths for name, paths in found.items()}
    wanted = names or tuple(found)
    missing = [name for name in wanted if name.lower() not in by_lower]
    if missing:
        raise InputError(
            f"{folder}: no structure of the name {', '.join(missing)}; it has {', '.join(found)}. A missing one can be "
            f"put there as {folder / (missing[0] + '.cif')}, from https://www.rcsb.org, by hand or with --download"
        )
    for name in wanted:
        if len(by_lower[name.lower()]) > 1:
            files = " and ".join(path.name for path in by_lower[name.lower()])
            raise InputError(f"{folder}: {files} have the same name, {name}; expected one file per class")
    return {name: by_lower[name.lower()][0] for name in wanted}


def load_densities(
    names: tuple[str, ...],
    folder: Path | str,
    grid: Grid,
    seed: int = 0,
    assembly: bool = True,
    level: float = 0.1,
) -> torch.Tensor:
    """The densities of a list of classes, of one scale and centred by mass.

    Args:
        names: class names: files of `folder`, or, where `folder` is empty, procedural ones (`complex<k>`).
        folder: as `find_structures`; "" for procedural complexes.
        grid: the cube of each; its box is a number.
        seed: of the procedural complexes.
        assembly: of coordinate files biological assembly 1; False for the deposited chains.
        level: of maps, the share of the maximum under which there is no complex.

    Returns:
        float32, (C, D, H, W), a cube of the grid each.

    Raises:
        InputError: as `find_structures`; an unreadable file; a complex too large for the box.
    """
    files = find_structures(folder, names) if folder else {}
    densities = []
    for name in names:
        if not folder:
            density = procedural_complex(procedural_index(name), seed, grid)
        elif files[name].name.lower().endswith(MRC_SUFFIXES):
            density = density_from_map(files[name], grid, level)
        else:
            density = density_from_atoms(files[name], grid, assembly)
        densities.append(torch.from_numpy(density))
    return torch.stack(densities) if densities else torch.empty(0, *[grid.box] * 3)


def procedural_name(index: int) -> str:
    """`complex00`, `complex01`, ..."""
    return f"complex{index:02d}"


def procedural_index(name: str) -> int:
    """The inverse of `procedural_name`; raises InputError for another name."""
    digits = name.removeprefix("complex")
    if not digits.isdecimal() or procedural_name(int(digits)) != name:
        raise InputError(f"{name}: not a procedural complex; expected {procedural_name(0)}, {procedural_name(1)}, ...")
    return int(digits)


def procedural_complex(index: int, seed: int, grid: Grid) -> np.ndarray:
    """Density (z, y, x) of the procedural complex `index` of `seed`; grid and errors as `density_from_atoms`."""
    residues = procedural_residues(index, seed)  # (P, 3), A
    weights = np.full(len(residues), RESIDUE_VOLUME)
    return density_from_points(residues, weights, grid, procedural_name(index))


def density_from_atoms(path: Path | str, grid: Grid, assembly: bool = True) -> np.ndarray:
    """Density of a coordinate file: each atom a Gaussian, weighted by its electron scattering at k = 0.

    Args:
        path: PDB or mmCIF, plain or gzipped. Its first model; waters, hydrogens and alternative conformations dropped.
        grid: the cube; the Gaussian's sigma is resolution / (pi sqrt 2) = 0.225 resolution.
        assembly: take biological assembly 1, where the file has one; False for the deposited chains.

    Returns:
        (z, y, x) float32.

    Raises:
        InputError: a file that cannot be read or holds no atoms; a complex too large for the box.
    """
    positions, scattering = read_atoms(path, assembly)
    weights = scattering * (RESIDUE_VOLUME / RESIDUE_SCATTERING)  # A^3 of solid protein
    return density_from_points(positions, weights, grid, path)


def read_atoms(path: Path | str, assembly: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Atom positions (A, 3) as x, y, z in A, and their electron scattering at k = 0 times occupancy (A,), in A."""
    import gemmi  # slow to import, as scipy below: only where a structure is read

    try:
        structure = gemmi.read_structure(str(path))
        structure.setup_entities()
        model = structure[0]
        if assembly and structure.assemblies:
            model = gemmi.make_assembly(structure.assemblies[0], model, gemmi.HowToNameCopiedChain.AddNumber)
    except (ValueError, RuntimeError, OSError, EOFError, IndexError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable PDB or mmCIF file ({reason})") from error
    model.remove_waters()
    model.remove_hydrogens()
    model.remove_alternative_conformations()
    atoms = [site.atom for site in model.all()]
    positions = np.array([atom.pos.tolist() for atom in atoms]).reshape(-1, 3)
    elements = {atom.element.name: atom.element for atom in atoms}
    at_zero = {name: sum(element.c4322.get_coefs()[:5]) if element.c4322 else 0.0 for name, element in elements.items()}
    scattering = np.array([at_zero[atom.element.name] * atom.occ for atom in atoms])
    if not np.isfinite(positions).all() or scattering.sum() <= 0:
        raise InputError(f"{path}: holds {len(atoms)} atoms, none that scatter; expected the coordinates of a complex")
    return positions, scattering


def density_from_points(positions: np.ndarray, weights: np.ndarray, grid: Grid, name: Path | str) -> np.ndarray:
    """Gaussians at positions (P, 3) as x, y, z in A, of integrals `weights` (P,) in A^3: a density (z, y, x).

    The points are spread linearly over a grid of at most a sigma, and blurred, cut off below the voxels' Nyquist
    frequency and cropped to the voxels in Fourier space. Grid and errors as `density_from_atoms`; `name` is for these.
    """
    voxel_size, sigma = grid.voxel_size, grid.resolution / (np.pi * np.sqrt(2))
    positions = positions - np.average(positions, axis=0, weights=weights)
    radius = mass_radius(np.linalg.norm(positions, axis=1), weights) + 2 * sigma
    side = fitting_side(radius, grid, name)
    fineness = max(2, int(np.ceil(voxel_size / sigma)))
    fine = side * fineness
    at = positions[:, ::-1] * (fineness / voxel_size) + fineness * (side - 1) / 2  # (P, 3) as z, y, x, in fine voxels
    within = ((at >= 0) & (at < fine - 1)).all(axis=1)
    at, weights = at[within], weights[within]
    corner = np.floor(at).astype(int)
    spread = np.zeros(fine**3)
    for step in np.ndindex(2, 2, 2):
        share = np.prod(np.where(np.array(step) == 1, at - corner, 1 - (at - corner)), axis=1)
        where = np.ravel_multi_index((corner + step).T, (fine,) * 3)
        spread += np.bincount(where, weights * share, minlength=fine**3)
    from scipy.fft import rfftn

    spectrum = rfftn((spread / voxel_size**3).astype(np.float32).reshape((fine,) * 3))
    keep = np.fft.fftfreq(side, 1 / side).astype(int)  # the fine spectrum's rows that the voxels can carry
    spectrum = spectrum[np.ix_(keep, keep, range(side // 2 + 1))]
    k = [np.fft.fftfreq(side, voxel_size)[:, None, None], np.fft.fftfreq(side, voxel_size)[None, :, None]]
    k.append(np.fft.rfftfreq(side, voxel_size)[None, None, :])
    for axis in k:
        spectrum = spectrum / np.sinc(axis * voxel_size / fineness) ** 2  # undoes the linear spreading
    k2 = sum(axis**2 for axis in k)
    spectrum *= np.exp(-2 * (np.pi * sigma) ** 2 * k2) * low_pass(np.sqrt(k2) * 2 * voxel_size)
    return np.fft.irfftn(spectrum, (side,) * 3, (0, 1, 2)).astype(np.float32)


def density_from_map(path: Path | str, grid: Grid, level: float = 0.1) -> np.ndarray:
    """Density of an MRC map: voxels under `level` of its maximum are emptied, then it is resampled in Fourier space.

    Args:
        path: MRC map of any voxel size, bright particle; keeps its own resolution, down to the grid's Nyquist.
        grid: the cube, as `density_from_atoms`; its resolution is not used.
        level: fraction of the maximum under which there is no complex.

    Returns:
        (z, y, x) float32, scaled so that sum(d^2) / sum(d) = MAP_INTERIOR, that of complexes from coordinates.

    Raises:
        InputError: a file that cannot be read, without a voxel size or anything positive; too large for the box.
    """
    voxel_size = grid.voxel_size
    volume, own_voxel_size = read_volume(path)
    if own_voxel_size is None:
        raise InputError(f"{path}: its header has no voxel size; expected one in A")
    if volume.max() <= 0:
        raise InputError(f"{path}: its maximum is {volume.max():g}; expected a map with a bright particle")
    volume = np.where(volume >= level * volume.max(), volume, 0).astype(np.float64)
    inside = np.argwhere(volume > 0)  # (P, 3) as z, y, x
    centre = np.average(inside, axis=0, weights=volume[volume > 0])
    radius = mass_radius(np.linalg.norm(inside - centre, axis=1), volume[volume > 0]) * own_voxel_size + voxel_size
    side = fitting_side(radius, grid, path)
    spectrum = spectrum_at(volume, own_voxel_size, voxel_size, side, centre)
    frequency = np.fft.fftfreq(side, voxel_size)
    k = np.sqrt(frequency[:, None, None] ** 2 + frequency[None, :, None] ** 2 + frequency**2)
    density = np.fft.ifftn(spectrum * low_pass(k * 2 * max(voxel_size, own_voxel_size))).real
    return (density * (MAP_INTERIOR * density.sum() / (density**2).sum())).astype(np.float32)


def low_pass(fraction: np.ndarray) -> np.ndarray:
    """A raised cosine from 1 at PASS_BAND of the Nyquist frequency to 0 at Nyquist; `fraction` is |k| / Nyquist."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip((fraction - PASS_BAND) / (1 - PASS_BAND), 0, 1))


def mass_radius(distances: np.ndarray, weights: np.ndarray) -> float:
    """The distance from the centre within which the share INSIDE of the mass lies."""
    order = np.argsort(distances)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(distances[order[np.searchsorted(share, INSIDE)]])


def fitting_side(radius: float, grid: Grid, name: Path | str) -> int:
    """The cube's side in voxels: the grid's, or the smallest even one, that holds a sphere of `radius` A and margin."""
    needed = 2 * int(np.ceil(radius / grid.voxel_size + grid.margin))
    if grid.box is not None and needed > grid.box:
        raise InputError(
            f"{name}: {2 * radius:.0f} A across and {grid.margin:g} voxels of margin need a box of {needed} voxels of "
            f"{grid.voxel_size:g} A; the box is {grid.box} (--box, --voxel-size, --shift)"
        )
    return grid.box or needed
