"""Which part of a split each particle falls into: by class, or by class and whole tomograms."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from common.cli import InputError
from loader.columns import LABEL, PARTICLE, TOMOGRAM

PARTS = ("train", "valid", "test")
EMPTY = 10.0  # what a class without a particle in a part costs, in squares of a fraction
ALL_WAYS = 8  # tomograms, for which each of the 3^8 ways is tried
STARTS = 100  # orders in which more tomograms are dealt out, of which the best result is kept
STARTS_CELLS = 200_000  # fewer orders, where tomograms times classes times orders would be more


def split_particles(particles: pd.DataFrame, fractions: Sequence[float], seed: int) -> dict[str, str]:
    """Particle -> part, at random within each class, at least one of each class in each part.

    Args:
        particles: one row per particle; of each class as many as there are parts, at least.
        fractions: of train, valid and test.
    """
    rng = np.random.default_rng(seed)
    part_of = {}
    for _, names in particles.groupby(LABEL, sort=False)[PARTICLE]:
        n_valid = min(max(1, round(len(names) * fractions[1])), len(names) - 2)
        n_test = min(max(1, round(len(names) * fractions[2])), len(names) - n_valid - 1)
        parts = np.repeat(PARTS, [len(names) - n_valid - n_test, n_valid, n_test])
        part_of |= dict(zip(rng.permutation(names.to_numpy()), parts, strict=True))
    return part_of


def split_tomograms(particles: pd.DataFrame, fractions: Sequence[float], seed: int, source: str) -> dict[str, str]:
    """Particle -> part, whole tomograms in one part, each class as near to the fractions as the tomograms allow.

    Raises InputError where a particle has no tomogram, or a class is in fewer tomograms than there are parts.
    """
    if (particles[TOMOGRAM] == "").any():
        raise InputError(f"{source}: not every particle has a {TOMOGRAM}; expected one with --by-tomogram")
    counts = pd.crosstab(particles[TOMOGRAM], particles[LABEL])
    spread = (counts > 0).sum()
    if spread.min() < len(PARTS):
        found = f"class {spread.idxmin()} is in {spread.min()} of {len(counts)} tomograms"
        raise InputError(f"{source}: {found}; expected at least {len(PARTS)} with --by-tomogram, one for each part")
    part_of = dict(zip(counts.index, deal(counts.to_numpy(), fractions, seed), strict=True))
    return {
        particle: PARTS[part_of[tomogram]]
        for particle, tomogram in zip(particles[PARTICLE], particles[TOMOGRAM], strict=True)
    }


def deal(counts: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """The part of each group, (T,), so that the classes' fractions in the parts come near to those wished.

    Few groups are dealt out in every way. Of more, the largest come first, each to where it is missed most; then single
    groups change their part for as long as that helps; of several such results, from other orders, the best is taken.

    Args:
        counts: (T, C), how many of each class each group holds.
        fractions: (P,), wished for each class.
    """
    rng = np.random.default_rng(seed)
    shares = counts / counts.sum(axis=0)  # (T, C)
    wished = np.asarray(fractions)[:, None]
    order = rng.permutation(len(counts))
    if len(counts) <= ALL_WAYS:
        ways = np.array(list(product(range(len(wished)), repeat=len(counts))))  # (W, T)
        filled = np.stack([(ways == part) @ shares[order] for part in range(len(wished))], axis=1)  # (W, P, C)
        return ways[_cost(filled, wished).sum(axis=1).argmin()][np.argsort(order)]
    best, least = np.zeros(len(counts), dtype=int), np.inf
    for start in range(max(1, min(STARTS, STARTS_CELLS // counts.size))):
        weights = counts.sum(axis=1) * (1 if start == 0 else rng.uniform(0.5, 1.5, len(counts)))
        parts = np.full(len(counts), -1)
        filled = np.zeros((len(wished), counts.shape[1]))
        for group in order[np.argsort(-weights[order], kind="stable")]:
            gains = _cost(filled, wished) - _cost(filled + shares[group], wished)  # (P,)
            parts[group] = gains.argmax()
            filled[parts[group]] += shares[group]
        _improve(parts, filled, shares, wished)
        if _cost(filled, wished).sum() < least:
            best, least = parts, _cost(filled, wished).sum()
    return best


def _improve(parts: np.ndarray, filled: np.ndarray, shares: np.ndarray, wished: np.ndarray) -> None:
    """Move one group after the other to another part, the best move first, until none helps; in place."""
    groups = np.arange(len(parts))
    while True:
        before = _cost(filled, wished)  # (P,)
        left = _cost(filled[parts] - shares, wished[parts]) - before[parts]  # (T,) where the group goes from
        came = np.stack([_cost(row + shares, part) for row, part in zip(filled, wished, strict=True)], axis=1) - before
        change = left[:, None] + came  # (T, P)
        change[groups, parts] = 0
        group, part = np.unravel_index(change.argmin(), change.shape)
        if change[group, part] > -1e-9:
            return
        filled[parts[group]] -= shares[group]
        filled[part] += shares[group]
        parts[group] = part


def _cost(filled: np.ndarray, wished: np.ndarray) -> np.ndarray:
    """How far rows of classes' fractions (..., C) are from those wished: (...)."""
    return ((filled - wished) ** 2 + EMPTY * (filled < 1e-9)).sum(axis=-1)


def reached(particles: pd.DataFrame, part_of: dict[str, str], fractions: Sequence[float]) -> str:
    """The fractions of the particles that the parts have, beside those wished, and the class that is furthest off."""
    found = pd.crosstab(particles[LABEL], particles[PARTICLE].map(part_of), normalize="index")[list(PARTS)]
    off = (found - np.asarray(fractions)).abs().max(axis=1)
    name = off.idxmax()

    def text(values: Sequence[float]) -> str:
        return ", ".join(f"{part} {value:.3g}" for part, value in zip(PARTS, values, strict=True))

    whole = particles[PARTICLE].map(part_of).value_counts(normalize=True)[list(PARTS)]
    return (
        f"fractions with whole tomograms: {text(whole)}; wished: {text(fractions)}; "
        f"furthest off: class {name}, {text(found.loc[name])}"
    )
