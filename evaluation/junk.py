"""Particle or junk: whether a volume shows a particle at all, known or not.

Cosines decide: to the directions of junk that training had as classes, and to those of particles, the known classes and
all auxiliary ones. Higher is more like junk. Which known class a particle is, or none, is decided apart from it.
"""

from dataclasses import dataclass

import numpy as np

from evaluation.rejection import unit

FALSE_JUNK_RATE = 0.01  # share of validation knowns that the threshold may call junk


@dataclass(frozen=True)
class JunkCalibration:
    """What volumes are compared with, and from which score on they are junk; a checkpoint keeps it as a dictionary."""

    particles: np.ndarray  # (P, E) unit directions
    junk: np.ndarray  # (J, E) unit directions
    threshold: float

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """The cosine to the nearest junk less that to the nearest particle, (N, E) -> (N,)."""
        return junk_score(embeddings, self.particles, self.junk)

    def is_junk(self, embeddings: np.ndarray) -> np.ndarray:
        """Whether volumes show no particle, (N, E) -> (N,) bool."""
        return self.score(embeddings) >= self.threshold


def junk_score(embeddings: np.ndarray, particles: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """The cosine to the nearest of the junk directions (J, E) less that to the nearest of particles (P, E): (N,)."""
    embeddings = unit(embeddings)
    return (embeddings @ unit(junk).T).max(axis=1) - (embeddings @ unit(particles).T).max(axis=1)


def calibrate_junk(
    particles: np.ndarray, junk: np.ndarray, known: np.ndarray, rate: float = FALSE_JUNK_RATE
) -> JunkCalibration:
    """The threshold that the share `rate` of known validation particles reaches.

    Args:
        particles: (P, E) directions of particles: the loss's weights of known and auxiliary classes.
        junk: (J, E) directions of junk: the loss's weights of its kinds; or, where training had none, the prototypes
            of embeddings of junk.
        known: (M, E) embeddings of validation volumes of known classes.
    """
    threshold = float(np.quantile(junk_score(known, particles, junk), 1 - rate, method="higher"))
    return JunkCalibration(unit(particles), unit(junk), threshold)
