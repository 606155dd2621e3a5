"""Embeddings kept on the disk, some thousand volumes to a file, until all are there: a run that was ended goes on."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import torch

from common.files import atomic_path, write_json
from common.machine import release
from loader.columns import INPUT
from loader.prepare import Preprocessing
from loader.sources import file_states
from prediction.inputs import Inputs

PARTS_FOLDER, RECORD_FILE, WHOLE_FILE = "parts", "record.json", "embeddings.npy"
MEASURES = ("brightness", "skewness", "noise")  # of each volume, beside its embedding
ROWS = 2**15  # embeddings in memory at once


@dataclass(frozen=True)
class Embedded:
    """What became of volumes.

    rows: (n,) the numbers of those that could be read, among the inputs. embeddings: (n, E) float32, length 1.
    brightness: (n,) of their centres, as `central_brightness`. skewness: (n,), as the function of that name, of many
        NaN for most. noise: (n,), as `outer_spread`.
    notes: how often each thing was done to one, in words.
    failed: for each that could not be read, by its number, why.
    """

    rows: np.ndarray
    embeddings: np.ndarray
    brightness: np.ndarray
    skewness: np.ndarray
    noise: np.ndarray
    notes: Counter = field(default_factory=Counter)
    failed: dict[int, str] = field(default_factory=dict)


def in_chunks(embeddings: np.ndarray) -> Iterator[np.ndarray]:
    """Embeddings (N, E), ROWS at a time, in memory; of a mapped file no more are in memory than that."""
    for start in range(0, len(embeddings), ROWS):
        yield np.array(embeddings[start : start + ROWS])
        release(embeddings)


def write_rows(file: IO[bytes], shape: tuple[int, int], chunks: Iterable[np.ndarray]) -> None:
    """Write embeddings, (N, E) float32, as np.save does, from chunks of their rows."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for chunk in chunks:
        file.write(chunk.tobytes())


def fingerprint(inputs: Inputs, preprocessing: Preprocessing, checkpoint: Path | str, settings: dict) -> dict:
    """What embeddings follow from: the inputs and their files' states, the checkpoint, and how volumes are prepared.

    Args:
        settings: what else embeddings follow from, to the last digit.
    """
    addresses = inputs.table[INPUT].tolist()
    digest = hashlib.sha256("\0".join(addresses).encode("utf-8", "surrogateescape"))
    digest.update(inputs.voxel_sizes.tobytes())
    digest.update(file_states(addresses).tobytes())
    return {
        "volumes": len(inputs),
        "inputs": digest.hexdigest(),
        "checkpoint": hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest(),
        "preprocessing": preprocessing.content(),
        "torch": torch.__version__,
        "measures": MEASURES,
        **settings,
    }


class Parts:
    """The folder of the embeddings so far.

    Args:
        folder: need not be there.
        record: what the embeddings follow from; parts of another record are not taken.
    """

    def __init__(self, folder: Path, record: dict):
        self.folder, self.record = folder, json.loads(json.dumps(record))

    def open(self) -> bool:
        """Make the folder ready; says whether it held parts of another record, which are removed."""
        try:
            before = json.loads((self.folder / RECORD_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if before == self.record:
            return False
        others = self.folder.is_dir() and any(self.folder.glob("part_*.npz"))
        self.remove()
        write_json(self.folder / RECORD_FILE, self.record)
        return others

    def has(self, number: int) -> bool:
        """Whether a part is there."""
        return self._path(number).is_file()

    def save(self, number: int, part: Embedded) -> None:
        """Write a part in one step."""
        told = json.dumps({"notes": part.notes, "failed": part.failed})
        with atomic_path(self._path(number)) as temporary:
            arrays = {name: getattr(part, name) for name in ("rows", "embeddings", *MEASURES)}
            np.savez(temporary, told=told, **arrays)

    def merged(self, count: int, width: int) -> Embedded:
        """All of `count` parts in their order; the embeddings, (n, width), are a file that is mapped."""
        rows, measures, notes, failed = [], [], Counter(), {}
        for number in range(count):
            with np.load(self._path(number)) as part:
                rows.append(part["rows"])
                measures.append([part[name] for name in MEASURES])
                told = json.loads(str(part["told"]))
            notes.update(told["notes"])
            failed |= {int(row): reason for row, reason in told["failed"].items()}
        rows = np.concatenate(rows)
        shape = (len(rows), width)
        if not len(rows):
            return Embedded(rows, np.empty(shape, np.float32), *np.empty((len(MEASURES), 0)), notes, failed)
        with (self.folder / WHOLE_FILE).open("wb") as file:
            write_rows(file, shape, map(self._embeddings, range(count)))
        whole = np.load(self.folder / WHOLE_FILE, mmap_mode="c")  # a change stays in memory, and is lost with its page
        return Embedded(rows, whole, *np.concatenate(measures, axis=1), notes, failed)

    def _embeddings(self, number: int) -> np.ndarray:
        with np.load(self._path(number)) as part:
            return part["embeddings"]

    def remove(self) -> None:
        """Remove the folder; what of it is mapped stays readable."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"part_{number:06d}.npz"
