"""Embedded particles, as the parts of an open-set report take them."""

from dataclasses import dataclass

import numpy as np

from evaluation.rejection import prototypes
from loader.columns import snr_order


@dataclass(frozen=True)
class Embedded:
    """Embedded particles: embeddings (N, E), and of each its class name, particle and SNR level, all (N,).

    Particles are names, or their numbers (`number_particles`), which save time.
    """

    embeddings: np.ndarray
    classes: np.ndarray
    particles: np.ndarray
    snr: np.ndarray

    def __len__(self) -> int:
        return len(self.embeddings)

    def keep(self, chosen: np.ndarray) -> "Embedded":
        """Only the chosen rows."""
        return Embedded(self.embeddings[chosen], self.classes[chosen], self.particles[chosen], self.snr[chosen])

    def join(self, other: "Embedded") -> "Embedded":
        """These rows, then the other's."""
        fields = ("embeddings", "classes", "particles", "snr")
        return Embedded(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in fields))

    def levels(self) -> list[str]:
        """The SNR levels, in order; empty when there is only one."""
        levels = sorted(np.unique(self.snr), key=snr_order)
        return levels if len(levels) > 1 else []


@dataclass(frozen=True)
class Scored:
    """Embedded particles, and every score of theirs by name, each (N,), as rejection.all_scores gives them."""

    rows: Embedded
    scores: dict[str, np.ndarray]


@dataclass(frozen=True)
class View:
    """All sets of particles as one embedding sees them: the network's, or a floor's.

    sets: train, test and the unseen sets.
    prepare: whether pairs are compared as the authors do; not where all components hold meaning.
    """

    name: str
    sets: dict[str, Embedded]
    prepare: bool


def class_means(rows: Embedded) -> tuple[list[str], np.ndarray]:
    """The class names, sorted, and their mean directions (K, E), length 1."""
    names, numbers = np.unique(rows.classes, return_inverse=True)
    return [str(name) for name in names], prototypes(rows.embeddings, numbers, len(names))
