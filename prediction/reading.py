"""Volumes read in threads ahead of whoever takes them, some batches at a time."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from common.cli import InputError
from common.machine import processors
from common.threads import READERS
from loader.prepare import Preprocessing, prepare
from prediction.inputs import Inputs

AHEAD = 3  # batches that are read, or wait, while one is embedded
AT_ONCE = 16  # volumes that a thread reads before it takes others
SKEWED = 2000  # volumes, at least and where there are so many, whose skewness is told: it takes as long as reading two
MOST_READERS = 16  # threads
BESIDE_NETWORK = 1  # thread, where the network is on the CPU: more take its processors, and wait for one another


@dataclass(frozen=True)
class Batch:
    """Volumes that were read.

    rows: (n,) their numbers among the inputs. images: (n, 1, D, D, D) float16, as the network wants them; of one that
    could not be read, zeros. brightness, skewness, noise: (n,) as of `Prepared`; of many inputs skewness is NaN for
    most. notes: (n,) what was done to each, in words. reasons: (n,) why it could not be read; empty where it could.
    """

    rows: np.ndarray
    images: torch.Tensor
    brightness: np.ndarray
    skewness: np.ndarray
    noise: np.ndarray
    notes: list[str]
    reasons: list[str]


def read_batches(
    inputs: Inputs, spans: Sequence[range], preprocessing: Preprocessing, on_gpu: bool = False
) -> Iterator[Batch]:
    """Batches of volumes, in order; while one is taken, AHEAD more are read or wait.

    Args:
        spans: the rows of each batch.
        on_gpu: the network is on a GPU: read in more threads, into memory that it reads without a copy.
    """
    pool = ThreadPoolExecutor(max(READERS, min(MOST_READERS, processors())) if on_gpu else BESIDE_NETWORK)
    waiting: deque[tuple[Batch, list[Future]]] = deque()
    try:
        for span in spans:
            waiting.append(_begin(pool, inputs, span, preprocessing, on_gpu))
            if len(waiting) > AHEAD:
                yield _finish(*waiting.popleft())
        while waiting:
            yield _finish(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(
    pool: ThreadPoolExecutor, inputs: Inputs, span: range, preprocessing: Preprocessing, on_gpu: bool
) -> tuple[Batch, list[Future]]:
    """A batch that threads begin to fill, and their jobs."""
    count, box = len(span), preprocessing.box
    images = torch.empty(count, 1, box, box, box, dtype=torch.float16, pin_memory=on_gpu)  # as load_split keeps them
    batch = Batch(np.array(span), images, *np.full((3, count), np.nan), [""] * count, [""] * count)
    places = [range(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE)]
    return batch, [pool.submit(_fill, batch, some, inputs, preprocessing) for some in places]


def _fill(batch: Batch, places: range, inputs: Inputs, preprocessing: Preprocessing) -> None:
    """Read the volumes of some places in a batch."""
    rows = slice(batch.rows[places.start], batch.rows[places.stop - 1] + 1)  # a range: far quicker than a list of rows
    for place, given in zip(places, inputs.several(rows), strict=True):
        try:
            volume = prepare(given, preprocessing)
        except InputError as error:
            batch.reasons[place] = str(error)
            batch.images[place] = 0
            continue
        batch.images[place, 0] = torch.from_numpy(volume.image)
        batch.brightness[place], batch.noise[place] = volume.brightness, volume.noise
        if batch.rows[place] % max(1, len(inputs) // SKEWED) == 0:
            batch.skewness[place] = volume.skewness
        batch.notes[place] = volume.note


def _finish(batch: Batch, jobs: list[Future]) -> Batch:
    """The batch, once it is filled."""
    for job in jobs:
        job.result()
    return batch
