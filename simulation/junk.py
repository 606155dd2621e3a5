"""What is picked in tomograms and is no particle: noise, particles off the centre, membrane, gold beads, carbon.

All of it as densities (N, W, W, W) = (z, y, x) on the scale of the complexes, 1 for solid protein, W the side of a box
about that of the finished volumes: what lies just outside of it reaches in through the microscope.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from physics.pose import pose, random_rotations
from simulation.simulator import Simulator

BILAYER = 40.0  # A between the middles of a membrane's two layers of head groups
HEADS, TAILS = 0.8, -0.15  # density of the head groups, and of what lies between them, against the solvent's
BLUR = 8.0  # A: width of every edge
GOLD = 8.0  # density of gold against protein's: more, but for the resolution
CARBON = 0.5  # mean density of the film, about which its grains scatter by as much
CLEAR = 1.0  # voxels, least distance between a particle and what lies beside it


def noise_alone(n: int, simulator: Simulator, generator: torch.Generator) -> torch.Tensor:
    """No density at all."""
    return torch.zeros(n, *[simulator.wide_side] * 3, device=simulator.device)


def off_centre(n: int, simulator: Simulator, generator: torch.Generator) -> torch.Tensor:
    """A particle 0.35 to 0.6 of the box away from the centre, in any direction."""
    return _aside(n, simulator, _directions(n, simulator, generator), generator)


def between(n: int, simulator: Simulator, generator: torch.Generator) -> torch.Tensor:
    """Two particles on either side of the centre, as far away."""
    way = _directions(n, simulator, generator)
    return sum(_aside(n, simulator, sign * way, generator) for sign in (1, -1))


def membrane(n: int, simulator: Simulator, generator: torch.Generator) -> torch.Tensor:
    """A piece of a vesicle, which passes the centre within a sixth of the box."""
    way = _directions(n, simulator, generator)
    return _bilayer(way, _uniform(-1, 1, n, simulator, generator) * simulator.side / 6, simulator, generator)


def bead(n: int, simulator: Simulator, generator: torch.Generator) -> torch.Tensor:
    """A gold bead of 5 to 15 nm, near the centre."""
    centre = _uniform(-1, 1, (n, 3), simulator, generator) * simulator.side / 12
    return _ball(centre, _bead_radius(n, simulator, generator), simulator)


def carbon(n: int, simulator: Simulator, generator: torch.Generator) -> torch.Tensor:
    """The edge of a carbon film of 10 to 20 nm, upright, near the centre; its grains are random."""
    x, y, z = _places(simulator)
    angle = _uniform(0, 2 * torch.pi, n, simulator, generator)[:, None, None, None]
    at = (_uniform(-1, 1, n, simulator, generator) * simulator.side / 6)[:, None, None, None]
    half = (_uniform(50, 100, n, simulator, generator) / simulator.imaging.voxel_size)[:, None, None, None]
    middle = (_uniform(-1, 1, n, simulator, generator) * simulator.side / 8)[:, None, None, None]
    inside = _edge(x * angle.cos() + y * angle.sin() - at, simulator) * _edge(half - (z - middle).abs(), simulator)
    grains = torch.randn(inside.shape, generator=generator, device=simulator.device)
    return CARBON * inside * (1 + grains)


Maker = Callable[[int, Simulator, torch.Generator], torch.Tensor]  # how many -> densities (n, W, W, W)

JUNK: dict[str, Maker] = {
    "junk_noise": noise_alone,
    "junk_off_centre": off_centre,
    "junk_between": between,
    "junk_membrane": membrane,
    "junk_bead": bead,
    "junk_carbon": carbon,
}


def made_densities(
    kinds: torch.Tensor, makers: Sequence[Maker], simulator: Simulator, generator: torch.Generator
) -> torch.Tensor:
    """What the `makers` of the kinds (N,), indices into them, make: (N, W, W, W); a generator on their device."""
    densities = torch.empty(len(kinds), *[simulator.wide_side] * 3, device=simulator.device)
    for kind, make in enumerate(makers):
        rows = (kinds == kind).nonzero().squeeze(1)
        if len(rows):
            densities[rows] = make(len(rows), simulator, generator)
    return densities


def beside(
    reaches: Callable[[torch.Tensor], torch.Tensor],
    membranes: torch.Tensor,
    beads: torch.Tensor,
    simulator: Simulator,
    generator: torch.Generator,
) -> torch.Tensor:
    """Pieces of membrane and gold beads beside particles, (N, W, W, W).

    Args:
        reaches: directions (N, 3) -> how far the particles extend that way from the box's centre, (N,) voxels.
        membranes, beads: (N,) bool, which particles have them.
    """
    n, voxel_size = len(membranes), simulator.imaging.voxel_size
    gap = CLEAR + _uniform(0, 4, (2, n), simulator, generator)
    way, other_way = (_directions(n, simulator, generator) for _ in range(2))
    radius = _bead_radius(n, simulator, generator)
    distance = reaches(way) + gap[0] + (BILAYER / 2 + BLUR) / voxel_size
    centre = other_way * (reaches(other_way) + gap[1] + radius)[:, None]
    volume = torch.zeros(n, *[simulator.wide_side] * 3, device=simulator.device)
    rows = membranes.nonzero().squeeze(1)
    volume[rows] += _bilayer(way[rows], distance[rows], simulator, generator)
    rows = beads.nonzero().squeeze(1)
    volume[rows] += _ball(centre[rows], radius[rows], simulator)
    return volume


def _aside(n: int, simulator: Simulator, way: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A particle of any class off the centre, along directions (n, 3)."""
    labels = torch.randint(len(simulator.fine), (n,), generator=generator, device=simulator.device)
    shifts = way * _uniform(0.35, 0.6, (n, 1), simulator, generator) * simulator.side
    turns = random_rotations(n, generator, simulator.device)
    return pose(simulator.fine, labels, turns, shifts, simulator.wide_side, simulator.scale)


def _bilayer(
    way: torch.Tensor, distance: torch.Tensor, simulator: Simulator, generator: torch.Generator
) -> torch.Tensor:
    """Spheres of 200 to 2,000 A radius that come within `distance` (n,) voxels of the centre, along directions (n, 3).

    The centre is outside of the sphere, or inside.
    """
    n, voxel_size = len(way), simulator.imaging.voxel_size
    radius = 200 * 10 ** _uniform(0, 1, n, simulator, generator) / voxel_size
    outside = torch.rand(n, generator=generator, device=simulator.device) < 0.5
    centre = way * torch.where(outside, distance + radius, distance - radius)[:, None]
    off = (_distance(centre, simulator) - radius[:, None, None, None]) * voxel_size  # A from the middle of the bilayer
    heads = torch.exp(-(((off.abs() - BILAYER / 2) / BLUR) ** 2) / 2)
    return HEADS * heads + TAILS * torch.exp(-((off / BLUR) ** 2) / 2)


def _ball(centre: torch.Tensor, radius: torch.Tensor, simulator: Simulator) -> torch.Tensor:
    return GOLD * _edge(radius[:, None, None, None] - _distance(centre, simulator), simulator)


def _edge(depth: torch.Tensor, simulator: Simulator) -> torch.Tensor:
    """1 inside and 0 outside, for a depth in voxels below a blurred surface."""
    return torch.sigmoid(depth * simulator.imaging.voxel_size / BLUR * 2)


def _places(simulator: Simulator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, y, z of the wide box's voxels from its centre, each to be broadcast to (W, W, W)."""
    offset = torch.arange(simulator.wide_side, device=simulator.device) - (simulator.wide_side - 1) / 2
    return offset, offset[:, None], offset[:, None, None]


def _distance(centre: torch.Tensor, simulator: Simulator) -> torch.Tensor:
    """Of every voxel from points (n, 3), x, y, z in voxels: (n, W, W, W)."""
    squares = [
        (place - at[:, None, None, None]).square()
        for place, at in zip(_places(simulator), centre.unbind(1), strict=True)
    ]
    return (squares[0] + squares[1] + squares[2]).sqrt()


def _directions(n: int, simulator: Simulator, generator: torch.Generator) -> torch.Tensor:
    return F.normalize(torch.randn(n, 3, generator=generator, device=simulator.device), dim=1)


def _bead_radius(n: int, simulator: Simulator, generator: torch.Generator) -> torch.Tensor:
    return _uniform(25, 75, n, simulator, generator) / simulator.imaging.voxel_size


def _uniform(
    low: float, high: float, shape: int | tuple[int, ...], simulator: Simulator, generator: torch.Generator
) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, device=simulator.device)
