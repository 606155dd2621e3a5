"""Procedural complexes: shapes that never existed, as varied in size, form and symmetry as real complexes.

A subunit is a chain of ellipsoidal domains; a complex is one subunit, or several under cyclic or dihedral symmetry,
moved towards the axis until they touch. Both end as a list of residues: points on a disturbed lattice at the density of
protein.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

VERSION = 1  # of this generator: kept densities of another version are made anew
RESIDUE_VOLUME = 133.0  # A^3: 110 Da at 1.21 A^3 a Da
ROOM = 1.15  # volume of a domain over that of its residues: clefts, cavities, loose surface
RESIDUES = (250, 14000)  # in a complex: 28 kDa to 1.5 MDa
LARGEST_RADIUS = 130.0  # A, from the centre of mass: fits 32 voxels of 10 A with a shift of 2
TOUCH = 0.8  # distance of two domains of a chain over the sum of their radii
STRETCH = 0.4  # spread of the logarithms of a domain's half axes
CONTACT = 8.0  # A: residues of two subunits nearer than this touch
CONTACT_SHARE = 0.04  # of a subunit's residues, that touch another subunit
SYMMETRIES = {  # share among the complexes
    ("C", 1): 0.40, ("C", 2): 0.20, ("C", 3): 0.07, ("C", 4): 0.04, ("C", 5): 0.05, ("C", 6): 0.05, ("C", 7): 0.02,
    ("D", 2): 0.13, ("D", 3): 0.07, ("D", 4): 0.04, ("D", 5): 0.02, ("D", 6): 0.02, ("D", 7): 0.01,
}  # fmt: skip
DOMAIN_RESIDUES = (60, 400)


def procedural_residues(index: int, seed: int) -> np.ndarray:
    """Residue positions (P, 3) as x, y, z in A of complex `index`; it depends on (seed, index) alone."""
    rng = np.random.default_rng([seed, index])
    while True:
        residues = _complex(rng)
        residues = residues - residues.mean(axis=0)
        if np.linalg.norm(residues, axis=1).max() <= LARGEST_RADIUS:
            return residues


def _complex(rng: np.random.Generator) -> np.ndarray:
    """Residues of one complex of random size and symmetry, not centred."""
    operations, dihedral = _symmetry(rng)
    least = max(RESIDUES[0], 100 * len(operations))
    total = np.exp(rng.uniform(np.log(least), np.log(RESIDUES[1])))
    # Large complexes are made of many chains: a lone chain seldom passes 3,000 residues.
    subunit = _subunit(min(total / len(operations), 3000 * rng.uniform(0.5, 1.5)), rng)
    if len(operations) == 1:
        return subunit
    return _assemble(subunit, operations, dihedral, rng)


def _symmetry(rng: np.random.Generator) -> tuple["Rotation", bool]:
    """The rotations of a random cyclic or dihedral group about z, the identity first."""
    from scipy.spatial.transform import Rotation  # slow to import: only where a complex is made

    groups, shares = list(SYMMETRIES), np.array(list(SYMMETRIES.values()))
    kind, order = groups[rng.choice(len(groups), p=shares / shares.sum())]
    turns = Rotation.from_euler("z", 360 / order * np.arange(order)[:, None], degrees=True)
    if kind == "C":
        return turns, False
    return Rotation.concatenate([turns, turns * Rotation.from_euler("x", 180, degrees=True)]), True


def _subunit(residues: float, rng: np.random.Generator) -> np.ndarray:
    """Residues (P, 3) of a chain of about `residues` residues: ellipsoidal domains, each touching the one before."""
    from scipy.spatial.transform import Rotation

    size = np.exp(rng.uniform(np.log(DOMAIN_RESIDUES[0]), np.log(DOMAIN_RESIDUES[1])))
    count = max(1, round(residues / size))
    shares = rng.gamma(4.0, size=count) + 0.3
    compact = rng.uniform(0.3, 1)  # 0.3 grows a random walk, 1 a ball
    centres, turns, axes = np.zeros((count, 3)), Rotation.random(count, rng), np.empty((count, 3))
    for i, volume in enumerate(shares / shares.sum() * residues * RESIDUE_VOLUME * ROOM):
        ratios = np.exp(rng.normal(0, STRETCH, 3))
        axes[i] = ratios * (volume / (4 / 3 * np.pi * ratios.prod())) ** (1 / 3)
        if i:
            centres[i] = _place(i, centres, axes, compact, rng)
    return _fill(centres, turns, axes, rng)


def _place(i: int, centres: np.ndarray, axes: np.ndarray, compact: float, rng: np.random.Generator) -> np.ndarray:
    """Where domain i goes: beside the one before, off the others, and the nearer to their middle the more `compact`."""
    directions = rng.normal(size=(16, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radii = np.cbrt(axes[: i + 1].prod(axis=1))
    places = centres[i - 1] + directions * (radii[i - 1] + radii[i]) * TOUCH  # (16, 3)
    gaps = np.linalg.norm(places[:, None] - centres[:i], axis=2) - TOUCH * (radii[:i] + radii[i])  # (16, i)
    overlap = np.clip(-gaps, 0, None).sum(axis=1)
    spread = np.linalg.norm(places - centres[:i].mean(axis=0), axis=1)
    return places[np.argmin(4 * overlap + (2 * compact - 0.6) * spread + rng.normal(0, 3, 16))]


def _fill(centres: np.ndarray, turns: "Rotation", axes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points of a disturbed lattice, one a residue, in the union of ellipsoids."""
    spacing = (RESIDUE_VOLUME * ROOM) ** (1 / 3)
    reach = axes.max(axis=1, keepdims=True)
    low, high = (centres - reach).min(axis=0), (centres + reach).max(axis=0)
    lattice = np.stack(np.meshgrid(*(np.arange(a, b, spacing) for a, b in zip(low, high, strict=True))), axis=-1)
    lattice = lattice.reshape(-1, 3) + rng.uniform(0, spacing, 3)
    inside = np.zeros(len(lattice), dtype=bool)
    for centre, turn, axis in zip(centres, turns, axes, strict=True):
        near = np.flatnonzero((np.abs(lattice - centre) <= axis.max()).all(axis=1) & ~inside)
        inside[near] = ((turn.inv().apply(lattice[near] - centre) / axis) ** 2).sum(axis=1) <= 1
    points = lattice[inside]
    return points + rng.normal(0, 0.25 * spacing, points.shape)


def _assemble(subunit: np.ndarray, operations: "Rotation", dihedral: bool, rng: np.random.Generator) -> np.ndarray:
    """The tightest of a few ways to put copies of the subunit together: real interfaces are wide, not a lone point."""
    ways = [_draw_together(subunit, operations, dihedral, rng) for _ in range(rng.integers(3, 10))]
    return min(ways, key=lambda residues: residues.var(axis=0).sum())


def _draw_together(subunit: np.ndarray, operations: "Rotation", dihedral: bool, rng: np.random.Generator) -> np.ndarray:
    """Copies of the subunit, turned at random, moved towards the axis, or the centre, until two of them touch."""
    from scipy.spatial import cKDTree
    from scipy.spatial.transform import Rotation

    subunit = Rotation.random(rng=rng).apply(subunit - subunit.mean(axis=0))
    climb = rng.uniform(-1.2, 1.2) if dihedral else 0.0  # above the plane of the two-fold axes
    turn = rng.uniform(0, 2 * np.pi)  # and between them
    way = np.array([np.cos(climb) * np.cos(turn), np.cos(climb) * np.sin(turn), np.sin(climb)])
    surface = subunit[:: max(1, len(subunit) // 300)]
    allowed = max(2, round(CONTACT_SHARE * len(surface)))  # residues that may come that near: proteins interlock
    low, high = 0.0, 2 * np.linalg.norm(subunit, axis=1).max() * len(operations)
    for _ in range(12):
        middle = (low + high) / 2
        moved = surface + middle * way
        copies = np.concatenate([turned.apply(moved) for turned in operations[1:]])
        near = np.isfinite(cKDTree(copies).query(moved, distance_upper_bound=CONTACT)[0]).sum()
        low, high = (low, middle) if near <= allowed else (middle, high)
    moved = subunit + high * way
    return np.concatenate([turned.apply(moved) for turned in operations])
