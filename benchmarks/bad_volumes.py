"""Which MRC files should a reader take, which should it refuse? Files of every kind, whole and damaged, for faults.py.

What a file holds is told by a second, plain reader (`truth`) from its bytes alone.
"""

import bz2
import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DTYPES = {0: "i1", 1: "i2", 2: "f4", 4: "c8", 6: "u2", 12: "f2"}  # of the modes that are read or told by name
PACK = {"": lambda data: data, ".gz": lambda data: gzip.compress(data, 1), ".bz2": bz2.compress}
ODD = (0, 1, -1, 2, 3, 7, 13, 99, 401, 1024, 65_535, 2**31 - 1, -(2**31), 0x7FC00000, 0x7F800000)  # for a header
BOMB = 2**26  # bytes, zeros, that a small compressed file unpacks to


@dataclass(frozen=True)
class Case:
    """A file to be read.

    name: of the file, in the folder of the cases. make: puts it at a path. number: of a volume in it; None for the
    file's own. expected: what is read, float32 (z, y, x); None where it must be refused.
    """

    kind: str
    name: str
    make: Callable[[Path], None]
    expected: np.ndarray | None
    number: int | None = None


@dataclass(frozen=True)
class Layout:
    """How an MRC file is written: mode, order of bytes, words of an extended header, axes (mapc, mapr, maps), ispg."""

    mode: int = 2
    order: str = "<"
    extended: int = 0
    axes: tuple[int, int, int] = (1, 2, 3)
    ispg: int = 1
    voxel: tuple[float, float, float] = (10.0, 10.0, 10.0)


def mrc_bytes(values: np.ndarray, layout: Layout) -> bytes:
    """An MRC file by the format's own description; values as they lie in the file, (sections, rows, columns), or a
    stack of these."""
    order, (nz, ny, nx) = layout.order, values.shape[-3:]
    sections = nz * (len(values) if values.ndim == 4 else 1)
    header = bytearray(1024)
    struct.pack_into(f"{order}10i", header, 0, nx, ny, sections, layout.mode, 0, 0, 0, nx, ny, nz)
    cell = [size * count for size, count in zip(layout.voxel, (nx, ny, nz), strict=True)]
    struct.pack_into(f"{order}6f3i", header, 40, *cell, 90, 90, 90, *layout.axes)
    struct.pack_into(f"{order}3f2i", header, 76, 0, 0, 0, layout.ispg, 4 * layout.extended)
    header[208:216] = b"MAP " + (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    return bytes(header) + b"\xab" * (4 * layout.extended) + values.astype(order + DTYPES[layout.mode]).tobytes()


def truth(content: bytes, name: str, number: int | None = None) -> np.ndarray | None:
    """What a reader should give of an unpacked file: float32 (z, y, x), or None where it should refuse."""
    if len(content) < 1024 or content[208:211] != b"MAP" or content[212] not in (0x44, 0x11):
        return None
    order = "<" if content[212] == 0x44 else ">"
    nx, ny, nz, mode, *_, mz = struct.unpack_from(f"{order}10i", content)
    axes = struct.unpack_from(f"{order}3i", content, 64)
    ispg, extended = struct.unpack_from(f"{order}2i", content, 88)
    if min(nx, ny, nz) < 1 or extended < 0 or mode not in DTYPES or mode == 4:
        return None
    count, size = nx * ny * nz, np.dtype(DTYPES[mode]).itemsize
    if 1024 + extended + count * size > len(content):
        return None
    axes = (1, 2, 3) if axes == (0, 0, 0) else axes
    stack, images = 401 <= ispg <= 630, ispg == 0
    if sorted(axes) != [1, 2, 3] or stack != (number is not None) or not _cubic(content, order):
        return None
    if images and (nz == 1 or name.endswith(".mrcs") or len({nx, ny, nz}) > 1):
        return None
    values = np.frombuffer(content, order + DTYPES[mode], count, 1024 + extended)
    if stack:
        if mz < 1 or nz % mz or not 1 <= number <= nz // mz:
            return None
        nz = mz
        values = values[(number - 1) * nz * ny * nx : number * nz * ny * nx]
    values = values.reshape(nz, ny, nx).astype(np.float32)
    place = [(axes[2], axes[1], axes[0]).index(axis) for axis in (3, 2, 1)]
    return np.transpose(values, place) if np.isfinite(values).all() else None


def _cubic(content: bytes, order: str) -> bool:
    """Whether the header's voxels are cubes, or of unknown size."""
    with np.errstate(all="ignore"):
        counts = np.frombuffer(content, f"{order}i4", 3, 28).astype("f4")
        cell = np.frombuffer(content, f"{order}f4", 3, 40)
        voxel = np.where(counts != 0, cell / np.where(counts == 0, 1, counts), 0).astype(float)
        return not voxel.any() or bool(
            np.isfinite(voxel).all() and voxel.min() > 0 and voxel.max() <= 1.01 * voxel.min()
        )


def _file(kind: str, name: str, content: bytes, number: int | None = None) -> Case:
    """A file of some bytes, packed as its name says."""
    packed = PACK[Path(name).suffix if Path(name).suffix in PACK else ""](content)
    plain = name.removesuffix(".gz").removesuffix(".bz2")
    return Case(kind, name, lambda path: path.write_bytes(packed), truth(content, plain, number), number)


def _values(rng: np.random.Generator, shape: tuple[int, ...], mode: int) -> np.ndarray:
    """Values that a mode can hold."""
    return rng.integers(0, 100, shape) if mode != 2 else rng.normal(size=shape)


def whole(rng: np.random.Generator) -> Iterator[Case]:
    """Every mode in both orders of bytes, with and without an extended header, packed or not, as file and as stack."""
    permutations = [(1, 2, 3), (3, 2, 1), (2, 1, 3), (3, 1, 2), (2, 3, 1), (1, 3, 2), (0, 0, 0), (1, 1, 3)]
    for mode in DTYPES:
        for order in "<>":
            for extended in (0, 1, 200):
                for suffix in PACK:
                    layout = Layout(mode, order, extended)
                    yield _file("every mode", f"a.mrc{suffix}", mrc_bytes(_values(rng, (4, 5, 6), mode), layout))
                    stack = mrc_bytes(_values(rng, (3, 4, 4, 4), mode), Layout(mode, order, extended, ispg=401))
                    for number in (None, 0, 1, 3, 4):
                        yield _file("stacks", f"s.mrcs{suffix}", stack, number)
    for axes in permutations:
        yield _file("axes", "a.mrc", mrc_bytes(rng.normal(size=(4, 5, 6)), Layout(axes=axes)))
    for voxel in ((0, 0, 0), (10, 10, 0), (-1, -1, -1), (10, 10, 11), (np.nan, 1, 1), (np.nan,) * 3, (np.inf,) * 3):
        yield _file("voxel sizes", "a.mrc", mrc_bytes(rng.normal(size=(4, 4, 4)), Layout(voxel=voxel)))
    for shape in ((1, 4, 4), (4, 1, 1), (2, 30, 3), (0, 4, 4), (1, 1, 1)):
        for ispg in (0, 1, 401):
            yield _file("boxes", "a.mrc", mrc_bytes(rng.normal(size=shape), Layout(ispg=ispg)))
    for wrong in (np.nan, np.inf, -np.inf):
        for mode in (2, 12):
            values = rng.normal(size=(4, 4, 4))
            values[1, 2, 3] = wrong
            yield _file("NaN and infinity", "a.mrc", mrc_bytes(values, Layout(mode)))
    yield _file("constant", "a.mrc", mrc_bytes(np.full((4, 4, 4), 7.0), Layout()))


def cut(rng: np.random.Generator) -> Iterator[Case]:
    """Files that end too early, at every 512 bytes, and some that go on after their end."""
    for layout, shape in ((Layout(), (12, 12, 12)), (Layout(extended=300, ispg=401), (2, 8, 8, 8))):
        content, stack = mrc_bytes(rng.normal(size=shape), layout), len(shape) == 4
        for suffix in PACK:
            name, number = ("s.mrcs" if stack else "a.mrc") + suffix, 2 if stack else None
            for end in range(0, len(content) + 1024, 512):
                yield _file("cut short", name, (content + b"\0" * 1024)[:end], number)
            packed = PACK[suffix](content)
            for end in range(0, len(packed), 512):
                yield Case("cut short", name, _bytes_at(packed[:end]), None, number)


def _bytes_at(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content)


def no_volume(rng: np.random.Generator) -> Iterator[Case]:
    """What is no file, no MRC file, or one that unpacks to far more than it says."""
    content = mrc_bytes(rng.normal(size=(8, 8, 8)), Layout())
    places = {
        "folder": Path.mkdir,
        "broken link": lambda path: path.symlink_to("nowhere"),
        "link to itself": lambda path: path.symlink_to(path.name),
        "no file": lambda path: None,
        "pipe": os.mkfifo,
        "text": _bytes_at(b"hello, this is no volume\n" * 200),
        "an image": _bytes_at(b"\x89PNG\r\n\x1a\n" + b"\0" * 5000),
    }
    if os.geteuid():  # root may read everything
        places["no permission"] = lambda path: (path.write_bytes(content), path.chmod(0))[0]
    for kind, make in places.items():
        for suffix in PACK:
            yield Case(kind, f"a.mrc{suffix}", make, None)
            yield Case(kind, f"s.mrcs{suffix}", make, None, 1)
    claims = bytearray(content)
    struct.pack_into("<3i", claims, 0, 2048, 1024, 1024)  # 2^31 voxels
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    zeros = b"".join(compressor.compress(b"\0" * 2**20) for _ in range(BOMB >> 20))
    for suffix, pack in PACK.items():
        yield Case("claims 2^31 voxels", f"a.mrc{suffix}", _bytes_at(pack(bytes(claims))), None)
        yield Case("claims 2^31 voxels", f"s.mrcs{suffix}", _bytes_at(pack(bytes(claims))), None, 1)
    # a whole file, and behind it 64 MB of zeros: they are never unpacked
    bombs = {".gz": gzip.compress(content) + zeros + compressor.flush(), ".bz2": bz2.compress(content + b"\0" * BOMB)}
    for suffix, packed in bombs.items():
        yield Case("bomb", f"a.mrc{suffix}", _bytes_at(packed), truth(content, "a.mrc"))


def fuzzed(rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Files of every kind with a few words or bytes of the header changed."""
    modes, suffixes = list(DTYPES), ("", "", "", ".gz", ".bz2")
    for _ in range(count):
        stack = rng.random() < 0.3
        mode, extended = int(rng.choice(modes)), int(rng.choice([0, 0, 20]))
        layout = Layout(mode, str(rng.choice(["<", ">"])), extended, ispg=401 if stack else int(rng.choice([0, 1])))
        shape = (3, 4, 4, 4) if stack else (4, 4, 4)
        content = bytearray(mrc_bytes(_values(rng, shape, mode), layout))
        for _ in range(rng.integers(1, 4)):
            if rng.random() < 0.7:
                word = int(rng.choice([0, 1, 2, 3, 7, 8, 9, 10, 11, 12, 16, 17, 18, 22, 23, 52, 53, *range(56)]))
                content[4 * word : 4 * word + 4] = struct.pack(
                    f"{layout.order}i", int(rng.choice([*ODD, int(rng.integers(-(2**31), 2**31))]))
                )
            else:
                content[rng.integers(0, 1024)] = rng.integers(0, 256)
        suffix = str(rng.choice(suffixes))
        yield _file("fuzzed headers", ("s.mrcs" if stack else "a.mrc") + suffix, bytes(content), 2 if stack else None)
