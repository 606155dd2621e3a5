"""The one packed file of a split: its volumes as float16, written once beside its CSV, mapped by all that need them.

    train.csv
    train.packed.f16     volumes (N, 1, D, H, W); of each its intensity and voxel size; the digest of the JSON
    train.packed.json    what they were made from: the CSV, the files' sizes and times, the preprocessing

The file is made anew where the CSV or a volume's file has changed. All processes of a machine share its pages in
memory, which the system takes back where it needs them.
"""

import errno
import fcntl
import hashlib
import json
import mmap
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cli import InputError, is_first_process, warn
from common.files import atomic_path, write_json
from common.machine import available_memory
from common.threads import READERS, in_threads
from loader.prepare import NORMALISATION, Preprocessing, check_same, prepare
from loader.rows import SplitRows
from loader.volume import read_volume
from physics.grid import same_voxel_size

FORMAT = 1  # of the packed file
RECORD = np.dtype([("intensity", "<f4", 4), ("voxel_size", "<f8")])  # of each volume, after the last image
DIGEST_BYTES = hashlib.sha256().digest_size
AT_ONCE = 2**23  # voxels in memory while a file is written: 256 volumes of 32^3
HEAD_START_S = 1.0  # of a machine's first process, which shows the progress, before the others would write
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's number, where Python does not know the name


@dataclass(frozen=True)
class Packed:
    """The volumes of a split.

    images: (N, 1, D, H, W) float16, mean 0 and standard deviation 1 each; mapped, or in memory. What is written to them
        reaches no file.
    records: (N,) of RECORD: mean, standard deviation, minimum and maximum as read; voxel size in A, NaN where unknown.
    contrast: of the particles in the files: the images' own is bright.
    place: where the images are, in words.
    """

    images: np.ndarray
    records: np.ndarray
    contrast: str
    place: str


def own_preprocessing(split: SplitRows, contrast: str) -> Preprocessing:
    """Box, voxel size and tilt range of a split, of its first volume; `contrast` is the user's word."""
    if not len(split):
        return Preprocessing(0, None, contrast)
    packed = open_packed(split)
    if packed is None:
        first = split.input(0)
        volume, size = read_volume(first.address)
        return Preprocessing(volume.shape[0], first.voxel_size or size, contrast, split.tilt_range())
    return Preprocessing(packed.images.shape[-1], _size(packed.records[0]), contrast, split.tilt_range())


def load_packed(split: SplitRows, expected: Preprocessing, share: float, chosen: np.ndarray | None) -> Packed:
    """The volumes of a split: mapped from its packed file, which is written first where it is not there or out of date.

    Where it cannot be written, the volumes are read into memory, and the user is told.

    Args:
        expected: what each volume must have come by.
        share: of the available memory that they may fill then.
        chosen: rows to take; None for all.

    Raises InputError for the first volume that is unreadable, constant or unlike `expected`; for want of room.
    """
    if not len(split):
        images = np.empty((0, 1, expected.box, expected.box, expected.box), np.float16)
        return Packed(images, np.empty(0, RECORD), expected.contrast, "nowhere")
    packed = open_packed(split)
    problem = packed and next(differences(split, packed, expected), None)
    if problem:
        raise InputError(problem)
    if packed is None or packed.contrast != expected.contrast:
        try:
            packed = _make(split, expected)
        except OSError as error:
            return _in_memory(split, expected, share, np.arange(len(split)) if chosen is None else chosen, error)
    if chosen is None:
        return packed
    images = packed.images[chosen]
    return Packed(images, packed.records[chosen], packed.contrast, f"in memory ({megabytes(images.nbytes)})")


def check_volumes(split: SplitRows, expected: Preprocessing) -> list[str]:
    """All that is wrong with the volumes of a split; where nothing is, they are packed as they are read.

    Where the packed file is there and up to date, the volumes are not read again.
    """
    if not len(split):
        return []
    packed = open_packed(split)
    if packed is not None:
        return list(differences(split, packed, expected))
    problems: list[str] = []
    try:
        _make(split, expected, problems)
    except InputError:
        if not problems:
            raise
    except OSError as error:
        warn(f"{_files(split.path)[0]}: cannot be written ({error.strerror}); the next script reads the volumes again")
        problems = []
        for _ in _read(split, expected, range(len(split)), problems):
            pass
    return problems


def differences(split: SplitRows, packed: Packed, expected: Preprocessing) -> Iterator[str]:
    """What of packed volumes is of another box or voxel size than expected."""
    shape, sizes, known = packed.images.shape[2:], packed.records["voxel_size"], expected.voxel_size
    unlike = np.full(len(split), shape[0] != expected.box)
    if known:
        unlike |= ~(np.isnan(sizes) | same_voxel_size(sizes, known))
    for row in np.flatnonzero(unlike):
        try:
            check_same(split.addresses[row], shape, _size(packed.records[row]), expected)
        except InputError as error:
            yield str(error)


def open_packed(split: SplitRows) -> Packed | None:
    """The packed file of a split, mapped; None where it is not there, or is out of date."""
    data, text = _files(split.path)
    try:
        head = json.loads(text.read_text(encoding="utf-8"))
        made = Preprocessing.read(head["preprocessing"])
        file = data.open("rb")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    shape = (len(split), 1, made.box, made.box, made.box)
    count = int(np.prod(shape, dtype=np.int64))
    size = 2 * count + RECORD.itemsize * len(split) + DIGEST_BYTES
    with file:
        if os.fstat(file.fileno()).st_size != size:
            return None
        mapped = _map(file.fileno(), size, data)
    origin = {**_origin(split), "preprocessing": made.content()}
    if mapped[-DIGEST_BYTES:] != _digest(origin) or made.normalisation != NORMALISATION:
        return None
    images = np.frombuffer(mapped, np.float16, count).reshape(shape)
    records = np.frombuffer(mapped, RECORD, len(split), 2 * count).copy()
    return Packed(images, records, made.contrast, f"in {data}, memory-mapped ({megabytes(2 * count)})")


def _map(file: int, size: int, path: Path) -> mmap.mmap:
    """A file's pages; not shared for writing, so that no script can spoil it, and no memory is claimed for copies."""
    try:
        flags, access = mmap.MAP_PRIVATE | NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        return mmap.mmap(file, size, flags=flags, prot=access)
    except OSError as error:
        raise InputError(f"{path}: {megabytes(size)} that the system does not map ({error.strerror})") from error


def _make(split: SplitRows, expected: Preprocessing, problems: list[str] | None = None) -> Packed:
    """Write the packed file, unless another process did meanwhile, and open it.

    Raises OSError where it cannot be written; InputError as prepare: at once, or once a list has all problems.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(HEAD_START_S)
    with _alone(split.path):
        packed = open_packed(split)
        if packed is None or packed.contrast != expected.contrast:
            _write(split, expected, packed, problems)
        packed = open_packed(split)
    if packed is None:
        raise InputError(f"{split.path}: changed while its volumes were packed; start again")
    return packed


def _write(split: SplitRows, expected: Preprocessing, other: Packed | None, problems: list[str] | None) -> None:
    """Write the packed file: of `other`, where that is the same of the other contrast, else of the volumes' files."""
    data, text = _files(split.path)
    head = {**_origin(split), "preprocessing": expected.content()}
    if other is None:
        data.unlink(missing_ok=True)  # out of date: its room may be needed
        volumes = _read(split, expected, range(len(split)), problems)
    else:
        volumes = zip((-image for image in other.images), other.records, strict=True)
    room, size = os.statvfs(data.parent), len(split) * (2 * expected.box**3 + RECORD.itemsize)
    if room.f_bavail * room.f_frsize < size:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {megabytes(size)}")
    records = np.empty(len(split), RECORD)
    with atomic_path(data) as temporary:
        with temporary.open("wb") as file:
            for row, (image, record) in enumerate(volumes):
                file.write(image.tobytes())
                records[row] = record
            file.write(records.tobytes() + _digest(head))
            file.flush()
            os.fsync(file.fileno())  # a machine that crashes after the rename must find it whole
        if problems:
            raise InputError(problems[0])  # so that the file is removed
    write_json(text, head)


def _read(
    split: SplitRows, expected: Preprocessing, rows: Sequence[int], problems: list[str] | None = None
) -> Iterator[tuple[np.ndarray, np.void]]:
    """Image (D, H, W) float16 and record of each row, read from its file.

    A list of problems takes what is wrong, and the row is left out; without one it is raised.
    """

    def one(row: int) -> tuple[np.ndarray, tuple] | InputError:
        try:
            volume = prepare(split.input(row), expected, strict=True)
        except InputError as error:
            return error
        return volume.image.astype(np.float16), (volume.intensity, volume.voxel_size or np.nan)

    at_once = max(READERS, AT_ONCE // max(1, expected.box) ** 3)
    for found in in_threads(one, rows, f"reading {split.path.name}", at_once=at_once):
        if not isinstance(found, InputError):
            yield found
        elif problems is None:
            raise found
        else:
            problems.append(str(found))


def _in_memory(split: SplitRows, expected: Preprocessing, share: float, rows: np.ndarray, reason: OSError) -> Packed:
    """The volumes of some rows, read into memory, as there is no file; the processes of a machine share its memory."""
    shape = (len(rows), 1, expected.box, expected.box, expected.box)
    size = 2 * int(np.prod(shape, dtype=np.int64))
    why = f"{_files(split.path)[0]}: cannot be written ({reason.strerror})"
    limit = share * available_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if size > limit:
        raise InputError(
            f"{why}, and its {megabytes(size)} are more than the {megabytes(limit)} that they may fill of the memory; "
            "expected a folder with room, where files may be written"
        )
    warn(f"{why}; its volumes are read into memory ({megabytes(size)}), by each script again")
    images, records = np.empty(shape, np.float16), np.empty(len(rows), RECORD)
    for at, (image, record) in enumerate(_read(split, expected, rows)):
        images[at, 0], records[at] = image, record
    return Packed(images, records, expected.contrast, f"in memory ({megabytes(size)})")


@contextmanager
def _alone(csv_path: Path) -> Iterator[None]:
    """Hold the lock of a split's packed file; what killed runs left half-written is removed.

    Raises OSError where the folder cannot be written.
    """
    with csv_path.with_name(f".{csv_path.stem}.packed.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if is_first_process():
                print(f"{csv_path}: waiting for another process that packs its volumes", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: at worst the file is written twice, each time in one step
            yield
            return
        half_written = re.compile(rf"\.\d+\.{re.escape(csv_path.stem)}\.packed\.(f16|json)")
        for path in csv_path.parent.iterdir():
            if half_written.fullmatch(path.name):
                path.unlink()
        yield


def _files(csv_path: Path) -> tuple[Path, Path]:
    """The packed file of a split CSV, and its JSON."""
    return csv_path.with_name(f"{csv_path.stem}.packed.f16"), csv_path.with_name(f"{csv_path.stem}.packed.json")


def _origin(split: SplitRows) -> dict:
    """What a packed file was made from."""
    hashes = {"csv_sha256": split.csv_hash, "files_sha256": split.files_hash}
    return {"format": FORMAT, "volumes": len(split), **hashes}


def _digest(head: dict) -> bytes:
    """What ties the packed file to its JSON."""
    return hashlib.sha256(json.dumps(head, sort_keys=True).encode()).digest()


def _size(record: np.void) -> float | None:
    """The voxel size of a record, A; None where it is unknown."""
    return None if np.isnan(record["voxel_size"]) else float(record["voxel_size"])


def megabytes(count: float) -> str:
    """A number of bytes, as people read it."""
    return f"{count / 1e6:,.0f} MB"
