"""Volumes read and embedded in a stream: while the network has one batch, threads read the next ones."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from common.cli import InputError
from common.group import Group
from common.progress import progress
from loader.dataset import on_device
from loader.prepare import Preprocessing
from prediction.inputs import Inputs
from prediction.parts import MEASURES, Embedded, Parts
from prediction.reading import Batch, read_batches

PART = 2048  # volumes, at most about, whose embeddings are kept in a file: no more are lost with a run that is ended
PARTS = 64  # at least, where a part holds a batch or more, so that several processes have their share


@dataclass(frozen=True)
class Work:
    """What is to be embedded, in parts of whole batches: (n,) `inputs`, as `preprocessing` says."""

    inputs: Inputs
    preprocessing: Preprocessing
    batch_size: int

    @property
    def part(self) -> int:
        """Volumes in a part."""
        return max(1, min(PART, len(self.inputs) // PARTS) // self.batch_size) * self.batch_size

    @property
    def parts(self) -> int:
        """How many there are."""
        return -(-len(self.inputs) // self.part)

    def batches(self, part: int) -> list[range]:
        """The rows of each batch of a part."""
        end = min((part + 1) * self.part, len(self.inputs))
        starts = range(part * self.part, end, self.batch_size)
        return [range(start, min(start + self.batch_size, end)) for start in starts]


def embed_inputs(model: nn.Module, work: Work, parts: Parts, group: Group, device: torch.device) -> Embedded | None:
    """Read and embed what is not yet among the parts, and give all of them; None on other processes than the first.

    Of several processes each takes every n-th part that is missing; they must see the same folder of parts.

    Raises InputError, on the first process, where no volume could be read.
    """
    missing = group.share([number for number in range(work.parts) if not parts.has(number)])
    own = missing[group.rank :: group.size]
    volumes = [sum(map(len, work.batches(number))) for number in range(work.parts)]
    begun = sum(volumes) - sum(volumes[number] for number in missing)
    if begun and group.first:
        print(f"{parts.folder}: goes on after {begun} of {len(work.inputs)} volumes, which were embedded before")
    count, start = sum(volumes[number] for number in own), time.perf_counter()
    with progress("embedding", total=begun + count, begun=begun, hidden=not group.first) as bar:
        for number, part in _embedded(model, work, own, device, bar):
            parts.save(number, part)
    group.wait()
    seconds = time.perf_counter() - start
    if not group.first:
        return None
    found = parts.merged(work.parts, model.embedding_dim)
    if not len(found.rows):
        parts.remove()
        reasons = list(found.failed.values())
        more = f" (none of {len(reasons)} volumes can be read)" if len(reasons) > 1 else ""
        raise InputError(f"{reasons[0]}{more}")
    if count:
        print(f"embedding: {seconds:.1f} s, {sum(volumes[number] for number in missing) / seconds:.0f} per second")
    return found


def _embedded(
    model: nn.Module, work: Work, numbers: Sequence[int], device: torch.device, bar: tqdm
) -> Iterator[tuple[int, Embedded]]:
    """Some parts, each when it is ready; the batches of the next one are read meanwhile."""
    spans = [span for number in numbers for span in work.batches(number)]
    batches = read_batches(work.inputs, spans, work.preprocessing, on_gpu=device.type == "cuda")
    embedded = embed_batches(model, batches, device)
    for number in numbers:
        done = []
        for _ in work.batches(number):
            batch, found = next(embedded)
            done.append((replace(batch, images=batch.images[:0].clone()), found))  # the next batch takes their memory
            bar.update(len(batch.rows))
            del batch
        yield number, _joined(done)


@torch.inference_mode()
def _launch(model: nn.Module, batch: Batch, device: torch.device) -> torch.Tensor:
    """The embeddings of a batch, of length 1, still on the device, which may be at work on them."""
    images = on_device(batch.images, device).contiguous(memory_format=torch.channels_last_3d)
    return F.normalize(model(images).float())


def embed_batches(
    model: nn.Module, batches: Iterable[Batch], device: torch.device
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Each batch with its embeddings (n, E). The next one is on its way to a GPU before those of one are fetched."""
    before = None
    for batch in batches:
        launched = batch, _launch(model, batch, device)
        if before is not None:
            yield before[0], before[1].cpu().numpy()
        before = launched
    if before is not None:
        yield before[0], before[1].cpu().numpy()


def _joined(done: list[tuple[Batch, np.ndarray]]) -> Embedded:
    """Batches as one part, less the volumes that could not be read."""
    pairs = [(batch, embeddings, np.array([not reason for reason in batch.reasons])) for batch, embeddings in done]
    told = [entry for batch, _ in done for entry in zip(batch.rows.tolist(), batch.notes, batch.reasons, strict=True)]
    return Embedded(
        np.concatenate([batch.rows[good] for batch, _, good in pairs]),
        np.concatenate([embeddings[good] for _, embeddings, good in pairs]),
        *(np.concatenate([getattr(batch, name)[good] for batch, _, good in pairs]) for name in MEASURES),
        Counter(note for _, note, _ in told if note),
        {row: reason for row, _, reason in told if reason},
    )
