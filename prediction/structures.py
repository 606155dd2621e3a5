"""Classes to be enrolled from structures alone: simulated in many poses and embedded, beside a cohort of their size."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.progress import progress
from evaluation.enrolled import NewClass
from evaluation.rejection import prototypes, unit
from loader.volume import MRC_SUFFIXES
from simulation.as_trained import AsTrained
from simulation.cohort import SOLID, Pool, protein_volume
from simulation.structures import density_from_atoms, density_from_map

Embed = Callable[[torch.Tensor], np.ndarray]  # volumes (N, 1, D, H, W) -> embeddings (N, E) of length 1

POSES = 200  # volumes of a structure
SHAPES, PER_SHAPE = 12, 8  # shapes of a structure's size that it is compared with, and volumes of each
AT_ONCE = 8  # structures that share conditions; their densities, with their cohorts', are in memory at once
ALL_SIZES, ALIKE = 32, 8  # shapes of every size that examples are compared with: the most alike among them
LEAST_SHAPES = 3  # of a structure's size that fit the box


def read_structure(path: Path, imaging: AsTrained) -> torch.Tensor:
    """The density (D, H, W) of a structure file on the grid; errors as `density_from_atoms`, `density_from_map`."""
    read = density_from_map if path.name.lower().endswith(MRC_SUFFIXES) else density_from_atoms
    return torch.from_numpy(read(path, imaging.grid))


@dataclass(frozen=True)
class Bench:
    """What volumes are simulated and embedded with; the seed is of poses, conditions and noise."""

    imaging: AsTrained
    pool: Pool
    embed: Embed
    device: torch.device
    seed: int


def structure_classes(files: dict[str, Path], bench: Bench) -> list[NewClass]:
    """Structures (name -> file) under an imaging, each POSES times, and as many volumes of shapes of its size.

    All files are read before anything is simulated. Raises InputError as `read_structure`.
    """
    imaging = bench.imaging
    densities = {name: read_structure(path, imaging) for name, path in files.items()}
    names, found = list(files), []
    with progress("simulating structures", total=len(names), unit="structure") as bar:
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            volumes = [protein_volume(densities[name], imaging.grid.voxel_size) for name in part]
            cohorts = [bench.pool.of_size(volume, SHAPES) for volume in volumes]
            stack = torch.cat([torch.stack([densities[name] for name in part]), *cohorts])
            owners = np.repeat(np.arange(len(part)), [len(cohort) for cohort in cohorts])  # of the cohorts' shapes
            counts = torch.tensor([POSES] * len(part) + [PER_SHAPE] * len(owners))
            embeddings, labels = embed_densities(stack, counts, bench, start)
            for number, name in enumerate(part):
                own = embeddings[labels == number]
                shapes = len(part) + np.flatnonzero(owners == number)
                enough = len(shapes) >= LEAST_SHAPES
                others = embeddings[np.isin(labels, shapes)] if enough else embeddings[:0]
                text = f"{len(shapes)} made-up shapes of its size, {volumes[number] / SOLID:.0f} kDa"
                source = f"{len(own)} simulated volumes of {files[name].name}"
                found.append(NewClass(name, source, own, np.arange(len(own)), others, text if enough else "none"))
                bar.update()
    return found


def embed_densities(
    densities: torch.Tensor, counts: torch.Tensor, bench: Bench, number: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of volumes of densities (C, D, H, W), (C,) of each: (N, E), and their labels (N,).

    Another number gives other poses, conditions and noise.
    """
    imaging, embed, seed = bench.imaging, bench.embed, bench.seed + number
    simulator = imaging.simulator(densities.to(bench.device))
    labels = torch.arange(len(densities)).repeat_interleave(counts)
    parts = [(embed(volumes), found.cpu()) for volumes, found in imaging.volumes(simulator, labels, seed)]
    return np.concatenate([part[0] for part in parts]), torch.cat([part[1] for part in parts]).numpy()


def with_alike_shapes(new: list[NewClass], bench: Bench) -> list[NewClass]:
    """The same classes, of examples whose size nobody knows, compared with the shapes most alike to the network.

    Shapes are simulated in every size; for each class those count whose mean embedding is nearest to its own.
    """
    densities = bench.pool.of_all_sizes(ALL_SIZES)
    counts = torch.full((len(densities),), PER_SHAPE)
    embeddings, labels = embed_densities(densities, counts, bench)
    means = prototypes(embeddings, labels, len(densities))
    found = []
    for one in new:
        likeness = means @ unit(unit(one.embeddings).mean(axis=0, keepdims=True))[0]
        nearest = np.argsort(-likeness)[:ALIKE]
        text = f"the {len(nearest)} most alike of {len(densities)} made-up shapes"
        cohort = embeddings[np.isin(labels, nearest)]
        found.append(NewClass(one.name, one.source, one.embeddings, one.particles, cohort, text))
    return found
