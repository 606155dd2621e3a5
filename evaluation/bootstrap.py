"""What is drawn at random: some rows of each class; and particles, not rows, as SNR copies are not independent."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from evaluation.figures import NO_FIGURE, Figure

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Resampling:
    """How often the particles are drawn again for an interval, and the seed of these and all other draws."""

    n_boot: int = 200
    seed: int = 0


def number_particles(*sets: np.ndarray) -> list[np.ndarray]:
    """The names of the particles of several sets of rows, (N,) each, as numbers: the same name, the same number.

    The numbers are in the order of the names. Numbered once, particles are told apart many times without sorting text.
    """
    numbers = np.unique(np.concatenate(sets).astype(str), return_inverse=True)[1]
    return np.split(numbers, np.cumsum([len(names) for names in sets])[:-1])


def rows_per_class(classes: np.ndarray, most: int, seed: int) -> np.ndarray:
    """The rows of at most so many, at random, of each class (N,), in order."""
    order = np.random.default_rng(seed).permutation(len(classes))
    sort = np.argsort(np.asarray(classes)[order], kind="stable")
    _, starts = np.unique(np.asarray(classes)[order][sort], return_index=True)
    rank = np.arange(len(classes)) - np.repeat(starts, np.diff(np.append(starts, len(classes))))
    return np.sort(order[sort[rank < most]])


def particle_weights(particles: np.ndarray, resampling: Resampling) -> Iterator[np.ndarray]:
    """Give `n_boot` times how often each row (N,) occurs when as many particles as there are are drawn with repeats."""
    _, rows = np.unique(particles, return_inverse=True)  # (N,) particle number of each row, without gaps
    count = rows.max() + 1
    rng = np.random.default_rng(resampling.seed)
    for _ in range(resampling.n_boot):
        yield np.bincount(rng.integers(count, size=count), minlength=count)[rows]


def interval(values: list[float] | np.ndarray) -> list[float] | None:
    """The central 95 % of resampled values as [low, high]; None where fewer than two of them are defined."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return None
    tail = 50 * (1 - CONFIDENCE)
    return [float(value) for value in np.percentile(values, [tail, 100 - tail])]


def mean_interval(values: np.ndarray, particles: np.ndarray, resampling: Resampling) -> list[float] | None:
    """The interval of the mean of one value per row (N,)."""
    return interval([np.average(values, weights=weights) for weights in particle_weights(particles, resampling)])


def mean_figure(values: np.ndarray, particles: np.ndarray, resampling: Resampling) -> Figure:
    """The mean of one value per row (N,), with its interval; no figure of no rows."""
    return Figure(float(values.mean()), mean_interval(values, particles, resampling)) if len(values) else NO_FIGURE


def known_unknown_weights(
    known_particles: np.ndarray, unknown_particles: np.ndarray, resampling: Resampling
) -> Iterator[np.ndarray]:
    """Weights (N_known + N_unknown,), both sets resampled, each by its own particles."""
    known = particle_weights(known_particles, resampling)
    unknown = particle_weights(unknown_particles, replace(resampling, seed=resampling.seed + 1))
    return map(np.concatenate, zip(known, unknown, strict=True))
