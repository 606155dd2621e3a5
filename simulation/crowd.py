"""Neighbours: other complexes packed around a target, touching none of it and none of each other.

Two complexes are kept apart by a plane across the line between their centres: their distance is at least the sum of
their reaches towards each other. Convex complexes touch so; others keep some distance.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from physics.pose import pose, random_rotations, rotation_matrices

DIRECTIONS = 200  # along which a complex's reach is known
TRIES = 24  # places tried for a neighbour before it is left out
GAP = 1.0  # voxels, least distance
SLACK = 2.0  # voxels, mean of what is added to it


class Crowd(NamedTuple):
    """The neighbours of N targets."""

    labels: torch.Tensor  # (N, n) long, into the neighbours' densities
    quaternions: torch.Tensor  # (N, n, 4)
    positions: torch.Tensor  # (N, n, 3) as x, y, z in voxels from the box's centre
    present: torch.Tensor  # (N, n) bool: False where there was no room


def outline(densities: torch.Tensor, level: float) -> torch.Tensor:
    """Of each density (C, D, H, W) the voxels at or above `level` that reach farthest, one a direction: (C, P, 3).

    As x, y, z in voxels from the centre.
    """
    offset = torch.arange(densities.shape[-1], device=densities.device) - (densities.shape[-1] - 1) / 2
    z, y, x = torch.meshgrid(offset, offset, offset, indexing="ij")
    points = torch.stack((x, y, z), dim=-1)
    along = spiral(DIRECTIONS).to(points)
    outlines = []
    for density in densities:
        inside = points[density >= min(level, density.max())]  # (V, 3)
        outlines.append(inside[(inside @ along.T).argmax(dim=0)])
    return torch.stack(outlines)


def spiral(n: int) -> torch.Tensor:
    """n directions (n, 3), evenly spread over the sphere."""
    at = (torch.arange(n) + 0.5) / n
    height, turn = 1 - 2 * at, torch.pi * (1 + 5**0.5) * (torch.arange(n) + 0.5)
    radius = (1 - height**2).sqrt()
    return torch.stack((radius * turn.cos(), radius * turn.sin(), height), dim=1)


def reach(points: torch.Tensor, quaternions: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """How far turned complexes extend: outlines (N, P, 3), quaternions (N, 4), ways (N, T, 3) -> (N, T) in voxels."""
    turned = torch.einsum("nij,npj->npi", rotation_matrices(quaternions), points)
    return torch.einsum("npi,nti->ntp", turned, directions).amax(dim=2)


def draw_crowd(
    target: torch.Tensor,
    quaternions: torch.Tensor,
    shifts: torch.Tensor,
    others: torch.Tensor,
    n: int,
    generator: torch.Generator | None,
) -> Crowd:
    """Place 0 to n neighbours, each number as likely, around each of N targets.

    Args:
        target: (N, P, 3), outlines of the targets before their rotation.
        quaternions, shifts: the targets' poses, (N, 4) and (N, 3).
        others: (C, P, 3), outlines of the complexes that neighbours are drawn from.
        n: neighbours at most; those that find no room in TRIES places are absent too.
        generator: on the outlines' device.
    """
    count, device = len(target), target.device
    labels = torch.randint(len(others), (count, n), generator=generator, device=device)
    turns = random_rotations(count * n, generator, device).reshape(count, n, 4)
    ways = F.normalize(torch.randn(count, n, TRIES, 3, generator=generator, device=device), dim=3)
    slack = torch.empty(count, n, TRIES, device=device).exponential_(1 / SLACK, generator=generator) + GAP
    positions = torch.zeros(count, n, 3, device=device)
    present = torch.zeros(count, n, dtype=torch.bool, device=device)
    wanted = torch.randint(n + 1, (count,), generator=generator, device=device)
    for j in range(n):
        own, turn, way = others[labels[:, j]], turns[:, j], ways[:, j]
        distance = reach(target, quaternions, way) + reach(own, turn, -way) + slack[:, j]
        places = shifts[:, None] + distance[..., None] * way  # (N, TRIES, 3)
        room = torch.ones(count, TRIES, dtype=torch.bool, device=device)
        for i in range(j):
            between = places - positions[:, i, None]
            towards = F.normalize(between, dim=2)
            needed = reach(others[labels[:, i]], turns[:, i], towards) + reach(own, turn, -towards) + GAP
            room &= (between.norm(dim=2) >= needed) | ~present[:, i, None]
        first = room.int().argmax(dim=1)  # the first place with room, or 0
        rows = torch.arange(count, device=device)
        positions[:, j], present[:, j] = places[rows, first], room[rows, first] & (j < wanted)
    return Crowd(labels, turns, positions, present)


def scene(fine: torch.Tensor, crowd: Crowd, inner: int, side: int) -> torch.Tensor:
    """The neighbours alone, as far as they reach into a box: (N, side, side, side).

    Args:
        fine: (C, 2D, 2H, 2W), of `posing_grid`.
        inner: side in voxels of a cube that holds any of them; side: of the box. Both even, or both odd.
    """
    count, n = crowd.labels.shape
    wide = side + 2  # what lies outside ends in a border that is cut off
    volume = fine.new_zeros(count, wide**3)
    steps = torch.arange(inner, device=fine.device)
    for j in range(n):
        rows = crowd.present[:, j].nonzero().squeeze(1)  # (R,)
        positions = crowd.positions[rows, j]
        whole = positions.round()
        cube = pose(fine, crowd.labels[rows, j], crowd.quaternions[rows, j], positions - whole, inner)
        corner = whole.long() + (wide - inner) // 2  # (R, 3) as x, y, z
        x, y, z = ((corner[:, axis, None] + steps).clamp(0, wide - 1) for axis in range(3))  # (R, inner)
        at = (z[:, :, None, None] * wide + y[:, None, :, None]) * wide + x[:, None, None, :]
        at += (rows * wide**3)[:, None, None, None]
        volume.view(-1).scatter_add_(0, at.flatten(), cube.flatten())
    return volume.reshape(count, wide, wide, wide)[:, 1:-1, 1:-1, 1:-1]
