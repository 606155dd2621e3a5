"""Are procedural complexes shaped as real ones? Distributions of a few measures of shape, side by side.

-> benchmarks/results/shapes.{json,md}

    python -m benchmarks.shapes --structures structures

Real ones are all coordinate files of the folder but the benchmark's unseen classes and their relatives, which nothing
may be fitted to. For each measure: median and quartiles of both, and the Kolmogorov-Smirnov distance with its p-value
(small p: they differ).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from scipy.special import sph_harm_y
from scipy.stats import ks_2samp

from benchmarks import machine
from benchmarks.study import RESULTS, markdown_table, show, write_results
from common.cli import run
from common.progress import progress
from physics.grid import Grid
from physics.pose import pose, posing_grid
from simulation.auxiliary import FIRST_AUXILIARY
from simulation.class_sets import CLASS_SETS
from simulation.procedural import RESIDUE_VOLUME
from simulation.simulator import MASK_LEVEL
from simulation.structures import find_structures, load_densities, procedural_name

RELATIVES = ("3cf3",)  # of unseen classes: AAA+, as 1qvr
DEGREES = 8  # of the rotational power spectrum
DIRECTIONS = 400  # points of a shell that it is measured on
SHELLS = (0.25, 0.5, 0.75)  # of the radius that holds the mass


@dataclass(frozen=True)
class Config:
    structures: str  # folder of the real structures, as coordinate files
    count: int = 300  # number of procedural complexes
    box: int = 32  # side of a volume, voxels
    voxel_size: float = 10.0  # voxel size of a volume, A
    resolution: float = 20.0  # resolution of the densities, A
    seed: int = 9  # seed of the procedural complexes
    results: str = str(RESULTS / "shapes")  # path of the results, without the endings .json and .md


def main(cfg: Config) -> None:
    grid = Grid(cfg.box, cfg.voxel_size, cfg.resolution)
    left_out = {*CLASS_SETS["benchmark"].unseen, *RELATIVES}
    names = tuple(name for name in find_structures(cfg.structures) if name not in left_out)
    made = tuple(procedural_name(FIRST_AUXILIARY + index) for index in range(cfg.count))
    densities = {
        "real": load_densities(names, cfg.structures, grid),
        "procedural": load_densities(made, "", grid, cfg.seed),
    }
    values = {
        kind: [measure(density.numpy(), cfg.voxel_size) for density in progress(kind, stack)]
        for kind, stack in densities.items()
    }
    rows = [compare(name, *([each[name] for each in values[kind]] for kind in values)) for name in values["real"][0]]
    content = {**machine.record(torch.device("cpu")), "real": list(names), "procedural": cfg.count, "rows": rows}
    content |= {"box": cfg.box, "voxel_size": cfg.voxel_size, "resolution": cfg.resolution, "seed": cfg.seed}
    write_results(cfg.results, content, page(content))
    show(cfg.results)


def measure(density: np.ndarray, voxel_size: float) -> dict[str, float]:
    """Measures of a density (z, y, x), centred by mass."""
    side = density.shape[0]
    solid = np.clip(density, 0, None)
    place = np.stack(np.meshgrid(*[np.arange(side) - (side - 1) / 2] * 3, indexing="ij"), axis=-1) * voxel_size
    mass = solid.sum() * voxel_size**3 / RESIDUE_VOLUME
    tensor = np.einsum("zyx,zyxi,zyxj->ij", solid, place, place) / solid.sum()
    axes = np.linalg.eigvalsh(tensor)[::-1]
    radius = np.sqrt(axes.sum())
    ball = np.sqrt(0.6) * (3 * mass * RESIDUE_VOLUME / (4 * np.pi)) ** (1 / 3)  # of a ball of the same mass
    distance = np.linalg.norm(place, axis=-1)
    reach = np.sort(distance[solid > MASK_LEVEL])[-1] if (solid > MASK_LEVEL).any() else radius
    result = {
        "residues": mass,
        "radius of gyration over that of a ball": radius / ball,
        "longest over middle axis": np.sqrt(axes[0] / axes[1]),
        "middle over shortest axis": np.sqrt(axes[1] / axes[2]),
    }
    result |= {
        f"occupied share of the shell at {part:g} radius": float(
            (solid[np.abs(distance - part * reach) < voxel_size] > MASK_LEVEL).mean()
        )
        for part in SHELLS
    }
    power = rotational_power(solid, reach / voxel_size)
    result |= {f"rotational power, degree {degree}": power[degree] for degree in range(1, DEGREES + 1)}
    return result | symmetry(density, tensor)


def rotational_power(density: np.ndarray, reach: float) -> np.ndarray:
    """Share (DEGREES + 1,) of the power, on shells weighted by their area, in each degree of spherical harmonics."""
    index = np.arange(DIRECTIONS) + 0.5
    theta, phi = np.arccos(1 - 2 * index / DIRECTIONS), (np.pi * (1 + 5**0.5) * index) % (2 * np.pi)
    unit = np.stack([np.cos(theta), np.sin(theta) * np.sin(phi), np.sin(theta) * np.cos(phi)])  # z, y, x
    power = np.zeros(DEGREES + 1)
    for shell in np.arange(1.0, reach + 1):
        values = map_coordinates(density, unit * shell + (density.shape[0] - 1) / 2, order=1)
        for degree in range(DEGREES + 1):
            for order in range(-degree, degree + 1):
                harmonic = sph_harm_y(degree, order, theta, phi)
                power[degree] += shell**2 * abs((values * harmonic.conj()).mean() * 4 * np.pi) ** 2
    return power / power.sum()


def symmetry(density: np.ndarray, tensor: np.ndarray) -> dict[str, float]:
    """Correlation with itself after a turn by 1/n, about the best of its principal axes and those of the box."""
    principal = np.linalg.eigh(tensor)[1].T[:, ::-1]  # (3, 3): rows z, y, x -> x, y, z
    axes = np.concatenate([principal, np.eye(3)])
    fine = posing_grid(torch.from_numpy(density)[None])
    flat = density.ravel() - density.mean()
    result = {}
    for n in (2, 3, 4):
        half = np.pi / n
        turns = np.concatenate([np.full((len(axes), 1), np.cos(half)), np.sin(half) * axes], axis=1)
        quaternions = torch.from_numpy(turns).float()
        zeros = torch.zeros(len(quaternions), dtype=torch.long)
        turned = pose(fine, zeros, quaternions, torch.zeros(len(quaternions), 3), density.shape[0]).numpy()
        turned = turned.reshape(len(turned), -1)
        turned = turned - turned.mean(axis=1, keepdims=True)
        correlation = turned @ flat / np.linalg.norm(turned, axis=1) / np.linalg.norm(flat)
        result[f"best agreement after a turn by 1/{n}"] = float(correlation.max())
    return result


def compare(name: str, real: list[float], procedural: list[float]) -> dict:
    """One row of the table."""
    test = ks_2samp(real, procedural)
    quartiles = {
        kind: [float(value) for value in np.quantile(values, (0.25, 0.5, 0.75))]
        for kind, values in (("real", real), ("procedural", procedural))
    }
    return {"measure": name, **quartiles, "distance": float(test.statistic), "p": float(test.pvalue)}


def page(content: dict) -> str:
    """The table, with what it was measured on."""

    def cell(quartiles: list[float]) -> str:
        low, middle, high = (f"{value:,.0f}" if quartiles[1] >= 100 else f"{value:.3g}" for value in quartiles)
        return f"{middle} ({low} to {high})"

    rows = [
        [row["measure"], cell(row["real"]), cell(row["procedural"]), f"{row['distance']:.2f}", f"{row['p']:.2g}"]
        for row in content["rows"]
    ]
    n = len(content["real"]), content["procedural"]
    head = ["median (quartiles)", f"real (n = {n[0]})", f"procedural (n = {n[1]})", "KS distance", "p"]
    lines = ["# Shapes of real and of procedural complexes", ""]
    box = f"{content['box']}^3 voxels of {content['voxel_size']:g} A, {content['resolution']:g} A resolution"
    lines += [f"Densities of {box}; real: {', '.join(content['real'])}."]
    lines += [f"{machine.text(content)}."]
    lines += ["`python -m benchmarks.shapes --structures structures`"]
    return "\n".join([*lines, "", *markdown_table(head, rows)]) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
