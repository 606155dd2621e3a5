"""What this process may use of the machine: processors and memory, less where a group or an affinity says so."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LIMITS = {  # files of a control group, by version: limit, use, and the line of memory.stat that is given back on demand
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def processors() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory(root: Path = Path("/")) -> float:
    """Bytes that this process can still have: of the machine, or of a control group that it is in, nested or not.

    Args:
        root: where /proc and /sys are.
    """
    return min([_machine_memory(root), *_left_in_groups(root)])


def release(array: np.ndarray) -> None:
    """Take what was read of a mapped file out of this process's memory; of any other array nothing is done.

    It is read again where it is needed; a change to an array that is mapped for itself alone is lost.
    """
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def _machine_memory(root: Path) -> float:
    """What the system says is available; where it does not say, what there is."""
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _left_in_groups(root: Path) -> Iterator[float]:
    """Limit less use of each control group with a limit, from this process's own to the outermost."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        for folder in (top / path.lstrip("/"), *(top / path.lstrip("/")).parents):
            limit, use, reclaimable = (_text(folder / name) for name in (*LIMITS[version][:2], "memory.stat"))
            if limit.strip().isdigit() and use.strip().isdigit():
                back = dict(line.split()[:2] for line in reclaimable.splitlines()).get(LIMITS[version][2], 0)
                yield max(0.0, float(limit) - float(use) + float(back))
            if folder == top:
                break


def _text(path: Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
