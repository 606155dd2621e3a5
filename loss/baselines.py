"""Losses to compare with, computed by pytorch-metric-learning behind the interface of `loss.base.Loss`.

The package is imported where one of them is made: it takes as long as torch, and no other loss needs it.
"""

import math

import torch
from torch import Tensor, nn

from loss.base import Loss, gather_batch


def _bounded(loss: type) -> type:
    """A loss of the package with its cosines kept off +-1, where the gradient of the angle is infinite."""

    class Bounded(loss):
        def get_angles(self, cosines: Tensor) -> Tensor:
            return torch.acos(cosines.clamp(-1 + 1e-6, 1 - 1e-6))

    return Bounded


def _unit_columns(weight: Tensor) -> None:
    """Start class weights (E, C) at about unit length, as LMCL does."""
    nn.init.normal_(weight, std=1 / math.sqrt(len(weight)))


class _ClassLoss(Loss):
    """A loss that takes each embedding by itself: `self.loss(embeddings, labels)` is its mean."""

    def terms(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        margin = self.loss(embeddings, labels) * self.share(labels)
        zero = margin.new_zeros(())
        return zero, margin, zero


class _PairLoss(Loss):
    """A loss that compares embeddings with each other: `value` is computed from the batch of all processes."""

    def terms(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.training:
            embeddings, labels = gather_batch(embeddings, labels)
        margin = self.value(embeddings, labels)
        zero = margin.new_zeros(())
        return zero, margin, zero


class ArcFace(_ClassLoss):
    """Additive angular margin: as CosFace, with cos(angle + m) for the right class (arXiv 1801.07698, eq. 3).

    Args:
        s: scale of the cosines.
        m: margin, radians.
    """

    def __init__(self, embedding_dim: int, num_classes: int, *, s: float = 30.0, m: float = 0.5, validate: bool = True):
        super().__init__(embedding_dim, num_classes, validate=validate)
        from pytorch_metric_learning.losses import ArcFaceLoss

        self.loss = _bounded(ArcFaceLoss)(
            num_classes, embedding_dim, margin=math.degrees(m), scale=s, weight_init_func=_unit_columns
        )


class SubCenterArcFace(_ClassLoss):
    """ArcFace with several weights per class, of which the nearest counts (Deng et al., ECCV 2020).

    Args:
        s: scale of the cosines.
        m: margin, radians.
        sub_centers: weights per class.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        s: float = 30.0,
        m: float = 0.5,
        sub_centers: int = 3,
        validate: bool = True,
    ):
        super().__init__(embedding_dim, num_classes, validate=validate)
        from pytorch_metric_learning.losses import SubCenterArcFaceLoss

        self.loss = _bounded(SubCenterArcFaceLoss)(
            num_classes=num_classes,
            embedding_size=embedding_dim,
            margin=math.degrees(m),
            scale=s,
            sub_centers=sub_centers,
            weight_init_func=_unit_columns,
        )


class Triplet(_PairLoss):
    """Farthest same-class and nearest other-class partner of each embedding, on the unit sphere (arXiv 1703.07737).

    mean_i max(0, |f_i - p_i| - |f_i - n_i| + m) over the embeddings that have both partners; 0 where none has.
    """

    def __init__(self, embedding_dim: int, num_classes: int, *, m: float = 0.2, validate: bool = True):
        super().__init__(embedding_dim, num_classes, validate=validate)
        from pytorch_metric_learning import losses, miners, reducers

        self.miner = miners.BatchHardMiner()
        self.loss = losses.TripletMarginLoss(margin=m, reducer=reducers.MeanReducer())

    def value(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.loss(embeddings, labels, self.miner(embeddings, labels))


class SupervisedContrastive(_PairLoss):
    """Supervised contrastive loss (arXiv 2004.11362, eq. 2), mean over embeddings with a partner; 0 where none has."""

    def __init__(self, embedding_dim: int, num_classes: int, *, temperature: float = 0.1, validate: bool = True):
        super().__init__(embedding_dim, num_classes, validate=validate)
        from pytorch_metric_learning import losses

        self.loss = losses.SupConLoss(temperature=temperature)

    def value(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.loss(embeddings, labels)
