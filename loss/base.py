"""What every loss shares: its checks, float32 under autocast, and the same figures on one process and on several."""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class LossTerms(NamedTuple):
    """Scalar float32 tensors: the weighted sum that is minimised, and its terms before weighting (zero where absent).

    `margin` also holds the one term of the losses over pairs and triplets.
    """

    total: Tensor
    softmax: Tensor
    margin: Tensor
    center: Tensor


class Loss(nn.Module):
    """A loss on raw (not normalised) embeddings.

    A subclass defines `terms`, and may define `after_step` and `start_epoch`. One that sets `takes_margins` has a third
    argument of `terms`, the shares (N,) of the margin, or None for the whole.

    On several processes, in training mode, every process must call `forward` equally often, each with its own part of
    the global batch. Parts may differ in size. Each process then returns the loss of the global batch, and gradients
    that are right once averaged over processes, as DistributedDataParallel does. In eval mode nothing is exchanged.

    Args:
        embedding_dim: E, the width of the embeddings.
        num_classes: C, the number of classes.
        validate: check labels and embeddings for their values; on a GPU this waits for the device at every call.

    Raises:
        ValueError: sizes below 1.
    """

    term_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of softmax, margin, center in the total
    takes_margins = False  # whether each embedding may take a share of the margin of its own

    def __init__(self, embedding_dim: int, num_classes: int, *, validate: bool = True):
        super().__init__()
        if embedding_dim < 1 or num_classes < 1:
            raise ValueError(f"embedding_dim {embedding_dim}, num_classes {num_classes}: expected at least 1")
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.validate = validate

    def forward(self, embeddings: Tensor, labels: Tensor, margins: Tensor | None = None) -> LossTerms:
        """The loss of embeddings (N, E) with labels (N,), int64 in [0, C).

        `margins` (N,), 0 to 1, are the shares of the margin that each takes; all take the whole where none are given.

        Raises:
            ValueError: wrong shape or dtype; margins for a loss that takes none; with `validate`, labels out of range
                or embeddings that are not finite.
        """
        check_batch(embeddings, labels, self.embedding_dim)
        if margins is not None and not (self.takes_margins and margins.shape == labels.shape):
            expected = f"({len(labels)},)" if self.takes_margins else f"none, by {type(self).__name__}"
            raise ValueError(f"margins have shape {tuple(margins.shape)}, expected {expected}")
        if self.validate:
            check_values(embeddings, labels, self.num_classes)
        with torch.autocast(embeddings.device.type, enabled=False):
            shares = () if margins is None else (margins.float(),)
            terms = torch.stack(self.terms(embeddings.float(), labels, *shares))  # (3,)
            if self.training:
                terms = with_global_value(terms)
            weights = zip(self.term_weights, terms, strict=True)
            return LossTerms(sum(weight * term for weight, term in weights), *terms)

    def terms(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The softmax, margin and centre terms of float32 embeddings (N, E), scaled for averaging over processes."""
        raise NotImplementedError

    def twin(self, embeddings: Tensor, twins: Tensor) -> Tensor:
        """The mean over pairs of 1 minus the cosine between embeddings and those of their twins, (n, E) both: a scalar.

        The twins are what is aimed at: no gradient goes to them. On several processes as `forward`.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = F.cosine_similarity(embeddings.float(), twins.detach().float())  # (n, E) -> (n,)
            term = (1 - cosines).mean() * self.share(embeddings)
            return with_global_value(term) if self.training else term

    def after_step(self) -> None:
        """To be called once after each `optimizer.step()`, on every process."""

    def start_epoch(self, epoch: int) -> None:
        """To be called before each epoch; the first is 0."""

    def share(self, labels: Tensor) -> Tensor | float:
        """What to multiply a mean over this process's part with, so that averaging gives the mean over all parts."""
        if not (self.training and processes() > 1):
            return 1.0
        count = torch.full((), float(len(labels)), device=labels.device)
        total = count.clone()
        dist.all_reduce(total)
        return count * processes() / total

    def sum_scale(self) -> int:
        """What to multiply a sum over this process's part with, so that averaging gives the sum over all parts."""
        return processes() if self.training else 1


def check_batch(embeddings: Tensor, labels: Tensor, embedding_dim: int) -> None:
    """Raise ValueError for a wrong shape or dtype; the device need not wait for this."""
    if embeddings.ndim != 2 or embeddings.shape[1] != embedding_dim:
        raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}, expected (N, {embedding_dim})")
    if not embeddings.is_floating_point():
        raise ValueError(f"embeddings have dtype {embeddings.dtype}, expected floating point")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected ({len(embeddings)},)")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels have dtype {labels.dtype}, expected torch.int64")
    if len(labels) == 0:
        raise ValueError("the batch is empty: expected at least one embedding")


def check_values(embeddings: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raise ValueError for labels out of range and for embeddings that are not finite."""
    low, high = (int(value) for value in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels run from {low} to {high}, expected 0 to {num_classes - 1}")
    if not embeddings.isfinite().all():
        bad = int((~embeddings.isfinite().all(dim=1)).sum())
        raise ValueError(f"{bad} of {len(embeddings)} embeddings are not finite (NaN or infinity)")


def processes() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def with_global_value(terms: Tensor) -> Tensor:
    """`terms` with their mean over processes as value and their own gradient."""
    if processes() == 1:
        return terms
    mean = terms.detach().clone()
    dist.all_reduce(mean)
    return terms + (mean / processes() - terms.detach())


class _GatherBatch(torch.autograd.Function):
    """All parts of a batch, (n, E) -> (N, E). Every process computes the same loss from it, so each keeps the gradient
    of its own rows, times the number of processes because that gradient will be averaged."""

    @staticmethod
    def forward(ctx, part: Tensor, sizes: list[int]) -> Tensor:
        rank = dist.get_rank()
        ctx.start, ctx.size = sum(sizes[:rank]), sizes[rank]
        return gather_rows(part, sizes)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.start : ctx.start + ctx.size] * processes(), None


def gather_rows(part: Tensor, sizes: list[int]) -> Tensor:
    """The rows of all processes in their order; parts are padded to the largest, for the exchange only."""
    padded = part.new_zeros(max(sizes), *part.shape[1:])
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([rows[:size] for rows, size in zip(parts, sizes, strict=True)])


def gather_batch(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The global batch, (n, E) and (n,) -> (N, E) and (N,), with the gradient of this process's own rows."""
    if processes() == 1:
        return embeddings, labels
    size = torch.tensor([len(labels)], device=labels.device)
    sizes = gather_rows(size, [1] * processes()).tolist()
    return _GatherBatch.apply(embeddings, sizes), gather_rows(labels, sizes)
