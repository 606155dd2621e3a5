"""Within-class whitening: what volumes of one class differ in counts less, and what they share counts more.

Noise, pose and imaging spread the embeddings of a class in some directions more than in others. Whitening takes the
mean off unit embeddings and shrinks each direction by a power of its standard deviation within classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.rejection import fit_gaussian, unit


@dataclass(frozen=True)
class Whitening:
    """x -> (x / |x| - mean) matrix; a checkpoint keeps it as a dictionary."""

    mean: np.ndarray  # (E,) float32
    matrix: np.ndarray  # (E, E) float32, symmetric

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Whitening | None":
        """From a checkpoint's dictionary of tensors; None from an empty one."""
        return cls(content["mean"].numpy(), content["matrix"].numpy()) if content else None

    def content(self) -> dict[str, Any]:
        """For a checkpoint: tensors alone."""
        import torch

        return {"mean": torch.from_numpy(self.mean), "matrix": torch.from_numpy(self.matrix)}

    def apply(self, embeddings: np.ndarray) -> np.ndarray:
        """Whitened embeddings of any length, (N, E) -> (N, E); not normalised."""
        return (unit(embeddings) - self.mean) @ self.matrix


def fit_whitening(embeddings: np.ndarray, labels: np.ndarray, num_classes: int, strength: float) -> Whitening:
    """Of training embeddings (N, E) with labels (N,): the covariance S within classes, to the power -strength / 2.

    S is that of unit embeddings, shrunk by the rule of Ledoit and Wolf (`fit_gaussian`). At a strength of 1 the classes
    have the same spread in all directions; at 0 nothing is scaled.
    """
    embeddings = unit(embeddings)
    values, directions = np.linalg.eigh(fit_gaussian(embeddings, labels, num_classes).precision)
    powers = np.clip(values, 0, None) ** (strength / 2)
    matrix = (directions * powers) @ directions.T  # (E, E)
    return Whitening(embeddings.mean(axis=0).astype(np.float32), matrix.astype(np.float32))
