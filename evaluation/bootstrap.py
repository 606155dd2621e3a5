"""Resampling of particles, not rows: the SNR copies of one particle are not independent."""

from collections.abc import Iterator

import numpy as np

CONFIDENCE = 0.95


def particle_weights(particles: np.ndarray, n_boot: int, seed: int) -> Iterator[np.ndarray]:
    """Give `n_boot` times how often each row (N,) occurs when as many particles as there are are drawn with repeats."""
    _, rows = np.unique(particles, return_inverse=True)  # (N,) particle number of each row
    count = rows.max() + 1
    rng = np.random.default_rng(seed)
    for _ in range(n_boot):
        yield np.bincount(rng.integers(count, size=count), minlength=count)[rows]


def interval(values: list[float] | np.ndarray) -> list[float] | None:
    """The central 95 % of resampled values as [low, high]; None where fewer than two of them are defined."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return None
    tail = 50 * (1 - CONFIDENCE)
    return [float(value) for value in np.percentile(values, [tail, 100 - tail])]


def mean_interval(values: np.ndarray, particles: np.ndarray, n_boot: int, seed: int) -> list[float] | None:
    """The interval of the mean of one value a row (N,)."""
    return interval([np.average(values, weights=weights) for weights in particle_weights(particles, n_boot, seed)])


def known_unknown_weights(
    known_particles: np.ndarray, unknown_particles: np.ndarray, n_boot: int, seed: int
) -> Iterator[np.ndarray]:
    """Weights (N_known + N_unknown,), both sets resampled, each by its own particles."""
    known = particle_weights(known_particles, n_boot, seed)
    unknown = particle_weights(unknown_particles, n_boot, seed + 1)
    return map(np.concatenate, zip(known, unknown, strict=True))
