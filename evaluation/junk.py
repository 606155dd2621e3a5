"""Particle or junk: whether a volume shows a particle at all, known or not.

Cosines decide: to the directions of junk that training had as classes, and to those of particles, the known classes and
all auxiliary ones. Higher is more like junk. Which known class a particle is, or none, is decided apart from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.rejection import unit
from evaluation.whitening import Whitening

FALSE_JUNK_RATE = 0.01  # share of validation knowns that the threshold may call junk
CLASS_WEIGHTS = ("head.weight", "weight")  # of losses: (C, E), one row for each class


@dataclass(frozen=True)
class JunkCalibration:
    """What volumes are compared with, and from which score on they are junk; a checkpoint keeps it as a dictionary."""

    particles: np.ndarray  # (P, E) unit directions
    junk: np.ndarray  # (J, E) unit directions
    threshold: float

    @classmethod
    def read(cls, content: dict[str, Any]) -> "JunkCalibration | None":
        """From a checkpoint's dictionary of tensors and a number; None from an empty one, of training without junk."""
        if not content:
            return None
        return cls(content["particles"].numpy(), content["junk"].numpy(), float(content["threshold"]))

    def content(self) -> dict[str, Any]:
        """For a checkpoint: a plain number and tensors alone."""
        import torch

        directions = {name: torch.from_numpy(getattr(self, name)) for name in ("particles", "junk")}
        return directions | {"threshold": self.threshold}

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


def junk_of_loss(
    weights: Mapping[str, Any], kinds: int, known: np.ndarray, whitening: Whitening | None = None
) -> JunkCalibration | None:
    """The same from a loss's weights, whose last `kinds` classes are junk; None for a loss without weights of classes.

    Args:
        weights: by name, tensors; those of the softmax head are taken where there is one.
        known: (M, E) as `calibrate_junk`.
        whitening: of the embeddings, those of `known` too; the weights are whitened alike.
    """
    found = next((weights[name] for name in CLASS_WEIGHTS if name in weights), None)
    if found is None:
        return None
    found = found.detach().float().cpu().numpy()
    found = whitening.apply(found) if whitening else found
    return calibrate_junk(found[:-kinds], found[-kinds:], known)
