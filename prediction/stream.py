"""Volumes read and embedded a part at a time."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from common.threads import READERS
from loader.prepare import Preprocessing, prepare
from model import embed
from prediction.inputs import Inputs

CHUNK = 2**25  # voxels in memory at once: 1,024 volumes of 32^3


@dataclass(frozen=True)
class Embedded:
    """What became of N volumes.

    embeddings: (N, E) float32, length 1. brightness: (N,) of the centres, as `central_brightness`.
    noise: (N,), as `outer_spread`.
    notes: how often each thing was done to a volume, in words.
    """

    embeddings: np.ndarray
    brightness: np.ndarray
    noise: np.ndarray
    notes: Counter


def embed_inputs(
    model: nn.Module, inputs: Inputs, preprocessing: Preprocessing, batch_size: int, device: torch.device
) -> Embedded:
    """Read and embed volumes; as many as make CHUNK voxels are in memory at once."""
    box = preprocessing.box
    size = max(1, CHUNK // box**3)
    embeddings = np.empty((len(inputs), model.embedding_dim), dtype=np.float32)
    (brightness, noise), notes = np.empty((2, len(inputs))), Counter()
    bar = tqdm(total=len(inputs), desc="reading", unit="volume", leave=False)
    with bar, ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(inputs), size):
            chunk = [inputs[number] for number in range(start, min(start + size, len(inputs)))]
            images = torch.empty(len(chunk), 1, box, box, box, dtype=torch.float16)  # as load_split keeps them
            for number, volume in enumerate(pool.map(partial(prepare, preprocessing=preprocessing), chunk)):
                images[number, 0] = torch.from_numpy(volume.image)
                brightness[start + number], noise[start + number] = volume.brightness, volume.noise
                notes[volume.note] += 1
                bar.update()
            rows = slice(start, start + len(chunk))
            embeddings[rows] = embed(model, images, device, batch_size, "embedding")
    del notes[""]
    return Embedded(embeddings, brightness, noise, notes)
