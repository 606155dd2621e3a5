"""A tomogram of many complexes: places without overlap, their density, and the level of its noise.

A place is (z, y, x) in voxels from the centre of the tomogram's first voxel. Quaternions act on (x, y, z) about the
centre of a complex's own density, as everywhere.
"""

import math
from dataclasses import dataclass

import torch

from common.cli import InputError
from physics.filters import noise_variance
from physics.imaging import Imaging
from physics.pose import Poses, pose, random_rotations, rotation_matrices
from simulation.crowd import DIRECTIONS, GAP, spiral
from simulation.simulator import Simulator

JUNK = -1  # the label of a place where nothing is
CLEAR = 0.25  # of the box: radius of the ball around such a place that no complex reaches into
TRIES, ROUNDS = 64, 40  # places tried at once for a complex, and how often
BATCH = 16  # complexes imaged at once
OF_PARTICLES = ("tilt_step", "dose", "neighbours", "common_noise")  # fields of Imaging
SLACK = 0.5  # voxels between a pick's box and the tomogram's face


@dataclass(frozen=True)
class Content:
    """What is wanted in a tomogram: `per_class` of each of the first `classes` densities, `crowd` of those after them,
    and `junk` places of nothing."""

    classes: int
    per_class: int
    crowd: int
    junk: int


@dataclass(frozen=True)
class Scene:
    """The complexes of a tomogram, and its places of nothing; first the `picks`, in random order, then the crowd.

    labels: (N,) into the densities, or JUNK. quaternions: (N, 4) w, x, y, z. places: (N, 3). picks: how many are not
    of the crowd.
    """

    labels: torch.Tensor
    quaternions: torch.Tensor
    places: torch.Tensor
    picks: int


def draw_scene(size: tuple[int, int, int], content: Content, simulator: Simulator, generator: torch.Generator) -> Scene:
    """Uniform rotations, and places without overlap, uniform but for that.

    The boxes of the simulator's side about what is to be picked lie inside the tomogram, wherever within the imaging's
    largest shift they are picked; of the crowd all complexes lie inside.

    Raises InputError for a tomogram without room for a box, or for all that is wanted.
    """
    reach = simulator.side / 2 + simulator.imaging.shift + SLACK
    if min(size) <= 2 * reach:
        raise InputError(
            f"--size {' '.join(map(str, size))}: expected more than {2 * reach:g} voxels along each axis, room for a "
            "box (--box) and the shift of its pick (--shift)"
        )
    labels = _labels(content, len(simulator.fine), generator)
    quaternions = random_rotations(len(labels), generator)
    outlines = torch.einsum("nij,npj->npi", rotation_matrices(quaternions), simulator.outlines[labels])  # (N, P, 3)
    outlines[labels == JUNK] = spiral(DIRECTIONS) * CLEAR * simulator.side
    inside = outlines.norm(dim=2).amax(dim=1)  # (N,)
    picks = len(labels) - content.crowd
    inside[:picks] = reach - 0.5  # of the voxel's centre from the first voxel's
    places = place(outlines.flip(2), inside, size, generator)
    return Scene(labels, quaternions, places, picks)


def _labels(content: Content, densities: int, generator: torch.Generator) -> torch.Tensor:
    """The labels of a scene, in the order of `Scene`."""
    picked = torch.arange(content.classes).repeat_interleave(content.per_class)
    picked = torch.cat([picked, torch.full((content.junk,), JUNK)])
    picked = picked[torch.randperm(len(picked), generator=generator)]
    if not content.crowd:
        return picked
    return torch.cat([picked, torch.randint(content.classes, densities, (content.crowd,), generator=generator)])


def place(
    outlines: torch.Tensor, inside: torch.Tensor, size: tuple[int, int, int], generator: torch.Generator
) -> torch.Tensor:
    """Places (N, 3) of complexes that touch neither each other nor the faces, the largest placed first.

    Two are kept apart by a plane across the line between their centres (simulation/crowd.py).

    Args:
        outlines: (N, P, 3) as z, y, x in voxels, turned. inside: (N,) least distance of each place from the centres of
            the outermost voxels.

    Raises InputError where no room is found.
    """
    radii = outlines.norm(dim=2).amax(dim=1)
    places = torch.zeros(len(outlines), 3)
    done = torch.zeros(0, dtype=torch.long)
    last = torch.tensor(size) - 1.0
    for number in radii.argsort(descending=True, stable=True):
        low, high = inside[number].expand(3), last - inside[number]
        for _ in range(ROUNDS):
            tried = low + (high - low) * torch.rand(TRIES, 3, generator=generator)
            free = _free(tried, number, outlines, radii, places, done)
            if len(free):
                places[number] = tried[free[0]]
                done = torch.cat([done, number[None]])
                break
        else:
            raise InputError(
                f"--size {' '.join(map(str, size))}: room was found for {len(done)} of {len(outlines)} complexes and "
                "places of junk; expected fewer (--per-class, --crowd, --junk), or a larger tomogram"
            )
    return places


def _free(
    tried: torch.Tensor,
    number: torch.Tensor,
    outlines: torch.Tensor,
    radii: torch.Tensor,
    places: torch.Tensor,
    done: torch.Tensor,
) -> torch.Tensor:
    """Which of the places (T, 3) for a complex touch none of those that are done: their numbers, in order."""
    between = tried[:, None] - places[done]  # (T, M, 3)
    distance = between.norm(dim=2)
    near = distance < radii[number] + radii[done] + GAP
    rows, columns = near.nonzero(as_tuple=True)  # (K,)
    ways = between[rows, columns] / distance[rows, columns, None].clamp(min=1e-6)
    theirs = torch.einsum("kpi,ki->kp", outlines[done[columns]], ways).amax(dim=1)
    own = (outlines[number] @ -ways.T).amax(dim=0)
    touching = distance[rows, columns] < theirs + own + GAP
    taken = torch.zeros(len(tried), dtype=torch.bool)
    taken[rows[touching]] = True
    return (~taken).nonzero().squeeze(1)


def paint(scene: Scene, size: tuple[int, int, int], simulator: Simulator) -> torch.Tensor:
    """The density (z, y, x) of all complexes, bright."""
    volume = torch.zeros(size)
    inner = max(simulator.inner)
    for rows in (scene.labels != JUNK).nonzero().squeeze(1).split(BATCH):
        corners = (scene.places[rows] - (inner - 1) / 2).round()
        shifts = (scene.places[rows] - (inner - 1) / 2 - corners).flip(1)  # (R, 3) as x, y, z
        cubes = pose(simulator.fine, scene.labels[rows], scene.quaternions[rows], shifts, inner)
        for cube, corner in zip(cubes, corners.long().tolist(), strict=True):
            ends = [(max(0, -at), min(inner, length - at)) for at, length in zip(corner, size, strict=True)]
            part = cube[tuple(slice(*end) for end in ends)]  # a cube may leave the tomogram, where it is empty
            volume[tuple(slice(at + a, at + b) for at, (a, b) in zip(corner, ends, strict=True))] += part
    return volume


def noise_level(scene: Scene, simulator: Simulator, defocus: float, snr: float) -> float:
    """The noise's standard deviation, at which the median of what is picked and is no junk has this SNR in its box.

    As simulate.py's SNR: of a particle alone in its box, by the imaging's convention.
    """
    if math.isinf(snr):
        return 0.0
    target, _ = simulator.filters(torch.tensor([defocus]))
    picked = (scene.labels[: scene.picks] != JUNK).nonzero().squeeze(1)
    variances = []
    for rows in picked.split(BATCH):
        poses = Poses(scene.quaternions[rows], torch.zeros(len(rows), 3), torch.full((len(rows),), defocus))
        signal = simulator.signal(simulator.pose(scene.labels[rows], poses), target)
        variances.append(signal.var(dim=(1, 2, 3), correction=0))
    median = torch.cat(variances).median()
    return float(noise_variance(median, snr, simulator.imaging.snr_convention).sqrt())


def picked_places(scene: Scene, shift: float, generator: torch.Generator) -> torch.Tensor:
    """Where a picking program has the picks, (P, 3): up to `shift` voxels off along each axis."""
    return scene.places[: scene.picks] + shift * (2 * torch.rand(scene.picks, 3, generator=generator) - 1)


def check_imaging(imaging: Imaging) -> None:
    """Raises InputError for options that a tomogram does not know."""
    unlike = [name for name in OF_PARTICLES if getattr(imaging, name) != getattr(Imaging(), name)]
    if unlike:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in unlike)
        raise InputError(f"{names}: of single particles; a tomogram has one noise, --crowd, and the ideal wedge alone")
