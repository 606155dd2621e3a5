"""MRC files, plain or compressed: what a header says, checked against the file before anything is allocated for it."""

from __future__ import annotations

import bz2
import gzip
import math
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import dtype_from_mode

from common.cli import InputError

HEADER_BYTES = 1024
IMOD_STAMP = 1146047817  # at byte 152: the file is of IMOD, whose flags follow
VOLUME_STACKS = range(401, 631)  # space groups of the MRC format that mark a stack of volumes
ORDERS = {0x44: "<", 0x11: ">"}  # of bytes, by the first of the header's machine stamp
CURE = "save it anew with a program that reads it"  # of headers of before the standard
DAMAGED = "its compressed data are damaged, or end early"
AT_ONCE = 2**20  # bytes that are unpacked in one step
MOST_PACKED = 1032  # bytes that a byte of gzip can stand for
PACKED_ERRORS = (OSError, EOFError, ValueError, zlib.error)


@dataclass(frozen=True)
class Header:
    """What the header of an MRC file says, none of which goes beyond what the file can hold.

    shape: as mrcfile has it: (rows, columns) of an image, (sections, rows, columns), or (volumes, sections, rows,
    columns). start: byte of the first voxel. ispg: the space group, by which stacks are told. packed: compressed.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int
    ispg: int
    packed: bool
    order: tuple[int, int, int]  # maps, mapr, mapc: 1 = x, 2 = y, 3 = z
    voxel: np.ndarray  # A, (x, y, z)

    @property
    def size(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.shape) * self.dtype.itemsize

    @cached_property
    def axes(self) -> tuple[int, int, int]:
        """The transposition that brings (sections, rows, columns) to (z, y, x)."""
        order = [3, 2, 1] if self.order == (0, 0, 0) else list(self.order)
        if sorted(order) != [1, 2, 3]:
            raise InputError(
                f"{self.path}: the header's axes maps, mapr, mapc are {order}; expected a permutation of 1, 2, 3"
            )
        return order.index(3), order.index(2), order.index(1)

    def mapped(self) -> np.ndarray:
        """All voxels as they lie in the file: memory-mapped, or where it is compressed unpacked."""
        if self.packed:
            return self.read(0, self.shape)
        return np.memmap(self.path, self.dtype, "r", self.start, self.shape)

    def read(self, first: int, shape: tuple[int, ...]) -> np.ndarray:
        """Voxels from number `first` on, as an array of a shape.

        Raises InputError where the file ends within them.
        """
        place, count = self.start + first * self.dtype.itemsize, math.prod(shape) * self.dtype.itemsize
        try:
            if self.packed:
                whole = self.start + self.size
                content = _unpacked(self.path, whole + 1)  # one byte more: at its end the check sum is compared
                if len(content) < whole:
                    raise _unreadable(
                        self.path, f"its header claims {whole:,} bytes, and it unpacks to {len(content):,}"
                    )
                return np.frombuffer(content, self.dtype, math.prod(shape), place).reshape(shape)
            data = np.empty(shape, self.dtype)
            with open(self.path, "rb") as file:  # buffered: one call of the system reads 2 GiB at most
                file.seek(place)
                found = file.readinto(data)
        except OSError as error:
            raise _unreadable(self.path, error.strerror or DAMAGED) from error
        if found < count:
            raise _unreadable(self.path, f"its header claims {place + count:,} bytes, and it holds {place + found:,}")
        return data


def read_header(path: Path) -> Header:
    """The header of an MRC file.

    Raises InputError, which says what is wrong with the file by its own header, where it is none, or ends too early.
    """
    packed, content = _start(path)
    if len(content) < HEADER_BYTES:
        raise _unreadable(path, f"it holds {len(content)} bytes; the header alone has {HEADER_BYTES:,}")
    if content[208:211] != b"MAP":
        raise _unreadable(
            path, f"its bytes 209 to 211 are {content[208:211]!r}; expected MAP. If it is an old file, {CURE}"
        )
    order = ORDERS.get(content[212])
    if order is None:
        raise _unreadable(path, f"byte 213, the order of bytes, is {content[212]:#04x}; expected 0x44 or 0x11; {CURE}")
    header = np.frombuffer(content, HEADER_DTYPE.newbyteorder(order))[0]
    nx, ny, nz, mode, extended, ispg, mz = (
        int(header[name]) for name in ("nx", "ny", "nz", "mode", "nsymbt", "ispg", "mz")
    )
    if min(nx, ny, nz) < 1 or extended < 0:
        claims = f"[{nx}, {ny}, {nz}] voxels (x, y, z) after {extended} bytes of its own"
        raise _unreadable(path, f"its header claims {claims}; expected at least one, after 0 or more")
    if ispg in VOLUME_STACKS and (mz < 1 or nz % mz):
        raise _unreadable(path, f"its header claims a stack of {nz} sections, {mz} per volume")
    try:
        dtype = dtype_from_mode(mode).newbyteorder(order)
    except ValueError:
        raise _unreadable(path, f"its header names the mode {mode}; expected 0, 1, 2, 6 or 12") from None
    if mode == 0 and not _signed(content, order):
        dtype = np.dtype("u1")
    shape = (nz // mz, mz, ny, nx) if ispg in VOLUME_STACKS else (ny, nx) if ispg == 0 and nz == 1 else (nz, ny, nx)
    axes = tuple(int(header[name]) for name in ("maps", "mapr", "mapc"))
    found = Header(path, shape, dtype, HEADER_BYTES + extended, ispg, bool(packed), axes, _voxel_size(header))
    _check_size(path, found, packed)
    return found


def _signed(content: bytes, order: str) -> bool:
    """Whether bytes are signed, as the format has it; a file of IMOD says so by the first bit of its flags."""
    stamp, flags = (int.from_bytes(content[at : at + 4], "big" if order == ">" else "little") for at in (152, 156))
    return stamp != IMOD_STAMP or bool(flags & 1)


def _check_size(path: Path, header: Header, packed: str) -> None:
    """Refuse a header that claims more than its file can hold."""
    claimed, found = header.start + header.size, path.stat().st_size
    if not packed and claimed > found:
        raise _unreadable(path, f"its header claims {claimed:,} bytes, and it holds {found:,}")
    if packed == "gzip" and claimed > MOST_PACKED * found:
        raise _unreadable(path, f"its header claims {claimed:,} bytes; {found:,} compressed ones cannot hold so many")


def _start(path: Path) -> tuple[str, bytes]:
    """How a file is compressed, empty where it is not, and the bytes of its header, unpacked."""
    try:
        with open(path, "rb") as file:
            content = file.read(HEADER_BYTES)
        packed = "gzip" if content[:2] == b"\x1f\x8b" else "bzip2" if content[:3] == b"BZh" else ""
        return packed, _unpacked(path, HEADER_BYTES) if packed else content
    except OSError as error:
        raise _unreadable(path, error.strerror or DAMAGED) from error


def _unpacked(path: Path, most: int) -> bytes:
    """The first bytes of what a compressed file holds; what lies behind them is not unpacked."""
    parts, left = [], most
    with open(path, "rb") as file:
        opened = gzip.open if file.read(2) == b"\x1f\x8b" else bz2.open
    try:
        with opened(path, "rb") as file:
            while left and (part := file.read(min(left, AT_ONCE))):
                parts.append(part)
                left -= len(part)
    except PACKED_ERRORS as error:
        raise _unreadable(path, getattr(error, "strerror", None) or DAMAGED) from error
    return b"".join(parts)


def _unreadable(path: Path, fault: str) -> InputError:
    return InputError(f"{path}: not a readable MRC file ({fault})")


def _voxel_size(header: np.void) -> np.ndarray:
    """A, (x, y, z); 0 where the header counts no voxels."""
    counts = np.array([header[name] for name in ("mx", "my", "mz")], dtype=float)
    cell = np.array(header["cella"].tolist(), dtype=float)
    return np.divide(cell, counts, out=np.zeros(3), where=counts != 0)
