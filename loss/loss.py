"""Soft Large Margin Centralized Cosine Loss (Du et al., BMVC 2019), its parts, and the table of all losses.

A loss is a module, `Loss(embedding_dim, num_classes, **options)`; `forward(embeddings (N, E), labels (N,))` gives
`LossTerms`. Its parameters belong in the optimiser, without weight decay, and its `state_dict` in the checkpoint:

    optimizer.step()
    criterion.after_step()  # moves the class centres

The formulas and the sources of all options are in docs/loss.md.
"""

import math
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from loss.base import Loss, LossTerms, processes
from loss.baselines import ArcFace, SubCenterArcFace, SupervisedContrastive, Triplet

__all__ = ["AUTHORS", "LMCL", "LOSSES", "ORIGINAL", "CenterLoss", "LossTerms", "SoftLMCCL", "Softmax", "SoftmaxCenter"]

POSTERIOR = 0.999  # the probability that a perfect embedding is to reach, for s = "auto"

# Options of SoftLMCCL as in the paper's own code, and as in the public repository that followed it.
AUTHORS = {
    "s": 64.0,
    "m": 0.35,
    "margin_weight": 1.0,
    "center_weight": 1.0,
    "bias": False,
    "center_features": "raw",
    "center_reduction": "half_sum",
    "center_update": "rule",
    "center_rate": 0.05,
    "center_init_std": 0.0,
}
ORIGINAL = {
    "s": 64.0,
    "m": 1.25,
    "margin_weight": 0.1,
    "center_weight": 1.0,
    "bias": True,
    "center_features": "raw",
    "center_reduction": "mean",
    "center_update": "sgd",
    "center_rate": 0.05,
    "center_momentum": 0.9,
    "center_init_std": 1.0,
}


def scale_bound(num_classes: int, m: float, posterior: float = POSTERIOR) -> float:
    """The smallest s with which a perfect embedding of C classes reaches `posterior` at margin m.

    CosFace (arXiv 1801.09414), section 3.3, with the margin put in: ln((C - 1) P / (1 - P)) / (C / (C - 1) - m).

    Raises:
        ValueError: fewer than two classes, or a margin that C classes cannot keep, m >= C / (C - 1).
    """
    if num_classes < 2:
        raise ValueError(f's = "auto" needs at least 2 classes, found {num_classes}')
    widest = num_classes / (num_classes - 1)
    if m >= widest:
        raise ValueError(f's = "auto" needs m < C / (C - 1) = {widest:.4g} for {num_classes} classes, found m = {m}')
    return math.log((num_classes - 1) * posterior / (1 - posterior)) / (widest - m)


class Softmax(Loss):
    """Cross entropy of an affine head: mean_i -log softmax(W f_i + b)[y_i]."""

    def __init__(self, embedding_dim: int, num_classes: int, *, validate: bool = True):
        super().__init__(embedding_dim, num_classes, validate=validate)
        self.head = nn.Linear(embedding_dim, num_classes)

    def terms(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        softmax = F.cross_entropy(self.head(embeddings), labels) * self.share(labels)
        zero = softmax.new_zeros(())
        return softmax, zero, zero


class LMCL(Loss):
    """Large margin cosine loss (CosFace, arXiv 1801.09414, eq. 4).

    mean_i -log( e^{s(cos_y - m)} / (e^{s(cos_y - m)} + sum_{j != y} e^{s cos_j}) ), cos_j between f_i and weight j.

    Args:
        s: scale of the cosines, or "auto" for `scale_bound`.
        m: margin, taken from the cosine of the right class.
        bias: add a trainable b_j to every cosine (the original repository); CosFace and the authors have none.
        warmup_epochs: raise the margin linearly from 0 in the first epoch to m in epoch `warmup_epochs`.

    An embedding may take a share of the margin of its own, see `Loss.forward`.

    Raises:
        ValueError: s not above 0, m below 0, or an "auto" scale that the margin does not allow.
    """

    takes_margins = True

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        s: float | Literal["auto"] = 30.0,
        m: float = 0.35,
        bias: bool = False,
        warmup_epochs: int = 0,
        validate: bool = True,
    ):
        super().__init__(embedding_dim, num_classes, validate=validate)
        self.s = scale_bound(num_classes, m) if s == "auto" else float(s)
        if not self.s > 0 or m < 0:
            raise ValueError(f"s = {self.s}, m = {m}: expected s above 0 and m of at least 0")
        self.m = m
        self.margin = m  # that of this epoch
        self.warmup_epochs = warmup_epochs
        # Rows of about unit length, so that the optimiser turns them equally fast for every E and C.
        self.weight = nn.Parameter(torch.randn(num_classes, embedding_dim) / math.sqrt(embedding_dim))
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None

    def logits(self, embeddings: Tensor, labels: Tensor, margins: Tensor | None = None) -> Tensor:
        """s cos, with s m, or the share `margins` (N,) of it, taken from the right class: (N, E) -> (N, C)."""
        bias = None if self.bias is None else self.s * self.bias
        logits = F.linear(with_length(embeddings, self.s), with_length(self.weight, 1.0), bias)  # (N, E) -> (N, C)
        taken = logits.new_full((len(labels), 1), -self.s * self.margin)
        if margins is not None:
            taken = taken * margins[:, None]
        return logits.scatter_add_(1, labels[:, None], taken)

    def terms(self, embeddings: Tensor, labels: Tensor, margins: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        margin = F.cross_entropy(self.logits(embeddings, labels, margins), labels) * self.share(labels)
        zero = margin.new_zeros(())
        return zero, margin, zero

    def start_epoch(self, epoch: int) -> None:
        if self.warmup_epochs:
            self.margin = self.m * min(1.0, epoch / self.warmup_epochs)


class CenterLoss(Loss):
    """Distance of each embedding to the centre of its class (Wen et al., ECCV 2016), 1/2 sum_i |f_i - c_{y_i}|^2.

    Centres have no gradient. `forward` in training mode adds the embeddings to sums of their classes, and `after_step`
    moves the centres by these sums, over all processes:
    "rule" is c_k <- c_k - rate * sum_{i in k} (c_k - f_i) / (1 + n_k); "sgd" is a step of SGD on this loss itself.

    Args:
        features: "raw", or "normalized" to unit length before the distance is taken.
        reduction: "half_sum", 1/2 of the sum over the batch (authors), or "mean" over the batch (original repository).
        update: "rule" (authors) or "sgd" (original repository).
        rate: a of the rule, or the learning rate of SGD.
        momentum: of SGD.
        init_std: standard deviation of the first centres; 0 starts them at the origin.

    Raises:
        ValueError: an option that is not one of those above.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        features: Literal["raw", "normalized"] = "raw",
        reduction: Literal["half_sum", "mean"] = "half_sum",
        update: Literal["rule", "sgd"] = "rule",
        rate: float = 0.05,
        momentum: float = 0.0,
        init_std: float = 0.0,
        validate: bool = True,
    ):
        super().__init__(embedding_dim, num_classes, validate=validate)
        expect_one_of("center features", features, ("raw", "normalized"))
        expect_one_of("center reduction", reduction, ("half_sum", "mean"))
        expect_one_of("center update", update, ("rule", "sgd"))
        self.features, self.reduction, self.update = features, reduction, update
        self.rate, self.momentum = rate, momentum
        self.register_buffer("centers", init_std * torch.randn(num_classes, embedding_dim))
        if update == "sgd" and momentum:
            self.register_buffer("velocity", torch.zeros(num_classes, embedding_dim))
        # Not buffers: DistributedDataParallel would overwrite them with those of the first process.
        self.sums: Tensor | None = None  # (C, E), of the embeddings since the last step
        self.counts: Tensor | None = None  # (C,)

    def terms(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.features == "normalized":
            embeddings = with_length(embeddings, 1.0)
        if self.training and torch.is_grad_enabled():
            self.note(embeddings.detach(), labels)
        squared = F.mse_loss(embeddings, self.centers[labels], reduction="sum")
        if self.reduction == "half_sum":
            center = squared / 2 * self.sum_scale()
        else:
            center = squared / len(labels) * self.share(labels)
        zero = center.new_zeros(())
        return zero, zero, center

    @torch.no_grad()
    def note(self, embeddings: Tensor, labels: Tensor) -> None:
        """Add embeddings (N, E) to the sums of their classes."""
        if self.sums is None:
            self.sums = torch.zeros_like(self.centers)
            self.counts = self.centers.new_zeros(self.num_classes)
        self.sums.index_add_(0, labels, embeddings)
        self.counts.index_add_(0, labels, embeddings.new_ones(len(labels)))

    @torch.no_grad()
    def after_step(self) -> None:
        if self.sums is None:
            return
        if processes() > 1:
            dist.all_reduce(self.sums)
            dist.all_reduce(self.counts)
        counts = self.counts[:, None]
        step = counts * self.centers - self.sums  # (C, E), sum of c_k - f_i
        if self.update == "rule":
            step /= 1 + counts
        elif self.reduction == "mean":
            step *= 2 / counts.sum()
        if self.update == "sgd" and self.momentum:
            step = self.velocity.mul_(self.momentum).add_(step)
        self.centers -= self.rate * step
        self.sums = self.counts = None


class SoftmaxCenter(Softmax):
    """Softmax + center_weight * centre loss (Wen et al., ECCV 2016); options `center_*` are those of `CenterLoss`."""

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        center_weight: float = 0.003,
        center_features: Literal["raw", "normalized"] = "normalized",
        center_reduction: Literal["half_sum", "mean"] = "half_sum",
        center_update: Literal["rule", "sgd"] = "rule",
        center_rate: float = 0.05,
        center_momentum: float = 0.0,
        center_init_std: float = 0.0,
        validate: bool = True,
    ):
        super().__init__(embedding_dim, num_classes, validate=validate)
        self.term_weights = (1.0, 0.0, center_weight)
        self.center = CenterLoss(
            embedding_dim,
            num_classes,
            features=center_features,
            reduction=center_reduction,
            update=center_update,
            rate=center_rate,
            momentum=center_momentum,
            init_std=center_init_std,
        )

    def terms(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        softmax, zero, _ = super().terms(embeddings, labels)
        return softmax, zero, self.center.terms(embeddings, labels)[2]

    def after_step(self) -> None:
        self.center.after_step()


class SoftLMCCL(SoftmaxCenter):
    """Softmax + margin_weight * LMCL + center_weight * centre loss (Du et al., BMVC 2019).

    Args:
        s, m, bias, warmup_epochs: as in `LMCL`.
        margin_weight, center_weight: weights of the terms.
        center_features, center_reduction, center_update, center_rate, center_momentum, center_init_std: as
            `features`, `reduction`, `update`, `rate`, `momentum`, `init_std` in `CenterLoss`.
    """

    takes_margins = True

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        s: float | Literal["auto"] = 30.0,
        m: float = 0.35,
        bias: bool = False,
        warmup_epochs: int = 0,
        margin_weight: float = 1.0,
        center_weight: float = 0.003,
        center_features: Literal["raw", "normalized"] = "normalized",
        center_reduction: Literal["half_sum", "mean"] = "half_sum",
        center_update: Literal["rule", "sgd"] = "rule",
        center_rate: float = 0.05,
        center_momentum: float = 0.0,
        center_init_std: float = 0.0,
        validate: bool = True,
    ):
        super().__init__(
            embedding_dim,
            num_classes,
            center_weight=center_weight,
            center_features=center_features,
            center_reduction=center_reduction,
            center_update=center_update,
            center_rate=center_rate,
            center_momentum=center_momentum,
            center_init_std=center_init_std,
            validate=validate,
        )
        self.term_weights = (1.0, margin_weight, center_weight)
        self.lmcl = LMCL(embedding_dim, num_classes, s=s, m=m, bias=bias, warmup_epochs=warmup_epochs)

    def terms(self, embeddings: Tensor, labels: Tensor, margins: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        softmax, _, center = super().terms(embeddings, labels)
        return softmax, self.lmcl.terms(embeddings, labels, margins)[1], center

    def start_epoch(self, epoch: int) -> None:
        self.lmcl.start_epoch(epoch)


def with_length(rows: Tensor, length: float) -> Tensor:
    """Rows (N, E) scaled to `length`: length * F.normalize(rows) with fewer passes over memory."""
    return rows * (length / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1e-12))


def expect_one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{what} {value!r}: expected one of {', '.join(choices)}")


LOSSES: dict[str, type[Loss]] = {
    "soft_lmccl": SoftLMCCL,
    "softmax": Softmax,
    "softmax_center": SoftmaxCenter,
    "lmcl": LMCL,
    "arcface": ArcFace,
    "subcenter_arcface": SubCenterArcFace,
    "triplet": Triplet,
    "supcon": SupervisedContrastive,
}
