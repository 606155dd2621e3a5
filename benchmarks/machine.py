"""What figures depend on beside data and options, and how a page says it: the machine, its speed, the code's commit."""

import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from common.cli import REPOSITORY, plural

MATRIX_SIDE, MATRIX_REPEATS = 2048, 5  # of the product that says how fast a machine is


def record(device: torch.device) -> dict[str, str | int | float]:
    """What figures depend on beside data and options: the machine and its speed, the versions, the code."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "threads": torch.get_num_threads(),
        "matrix_side": MATRIX_SIDE,
        "matrix_seconds": round(matrix_seconds(), 4),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
    }


def matrix_seconds() -> float:
    """Processor time of a product of two float32 matrices of MATRIX_SIDE on one thread, the best of a few."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    first, second = torch.ones(2, MATRIX_SIDE, MATRIX_SIDE)
    taken = []
    for _ in range(MATRIX_REPEATS):
        start = time.process_time()
        torch.mm(first, second)
        taken.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return min(taken)


def commit(repository: Path = REPOSITORY) -> str:
    """The commit of the code in a folder, with `-dirty` where files differ from it; empty outside of git."""
    describe = ["git", "-C", str(repository), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def text(content: Mapping) -> str:
    """The machine, its threads, versions and speed, as far as they were recorded: of `record`."""
    threads = f"{content['threads']} {plural('thread', content['threads'])}"
    said = f"{content['device']}, {threads}, torch {content['torch']}"
    if "matrix_seconds" in content:
        said += f"; a product of {content['matrix_side']}^2 float32 matrices on one thread of its CPU takes "
        said += f"{content['matrix_seconds']:.2g} s"
    return said


def commit_text(content: Mapping) -> str:
    """A sentence with the commit that figures were recorded at; empty where none was."""
    return f" Commit `{content['commit']}`." if content.get("commit") else ""
