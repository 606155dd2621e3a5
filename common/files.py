"""Writing files so that a reader never sees half of one: a temporary name beside the target, then a rename."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

from common.cli import InputError

OWNER_FILE = "checkpoint.txt"  # in a results folder: whose results these are
LOCK_FILE = ".in_use"  # in a folder that one process writes into, for as long as it does: which one


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` in one step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, content: dict) -> None:
    """Write `content` as indented JSON in one step. NaN and infinity are refused: JSON has neither."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path | str, table: pd.DataFrame) -> None:
    """Write a table as CSV, without its index, in one step."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


@contextmanager
def alone_in(folder: Path, advice: str) -> Iterator[None]:
    """Be the one process that writes into a folder, which is made where it is not there; one that is killed lets go.

    Args:
        advice: what a user may do who finds the folder taken.

    Raises InputError where another process has it.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    file = _locked(folder, advice)
    try:
        yield
    finally:
        (folder / LOCK_FILE).unlink(missing_ok=True)  # while it is still held
        file.close()
        for path in new:
            try:
                path.rmdir()  # nothing was written
            except OSError:
                break


def _locked(folder: Path, advice: str) -> IO[str]:
    """The lock file of a folder, locked; on a file system without locks merely open."""
    path = folder / LOCK_FILE
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack, suppress(FileNotFoundError):  # who had it ended in this moment, and removed it
            file = stack.enter_context(path.open("a+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read() or "another process"
                raise InputError(f"{folder}: {owner} writes there; expected one at a time: {advice}") from None
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
                    raise
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                file.truncate(0)
                print(f"process {os.getpid()} on {socket.gethostname()}", end="", file=file, flush=True)
                stack.pop_all()
                return file


def results_folder(results_dir: Path | str, checkpoint: Path | str) -> Path:
    """Where the results of a checkpoint go: `<results_dir>/<folder of the checkpoint>-<its name>`.

    Checkpoints in folders of the same name share that place, so it records whose it is (`claim_results`).

    Raises InputError where it holds the results of another checkpoint.
    """
    checkpoint = Path(checkpoint)
    folder = Path(results_dir) / f"{checkpoint.absolute().parent.name}-{checkpoint.stem}"
    try:
        owner = (folder / OWNER_FILE).read_text(encoding="utf-8").strip()
    except FileNotFoundError:  # a new folder, or one of before it was recorded
        return folder
    if owner != _seen_from(folder, checkpoint):
        raise InputError(
            f"{folder}: holds the results of {os.path.normpath(os.path.realpath(folder) + os.sep + owner)}; expected "
            f"those of {os.path.abspath(checkpoint)}; to keep both, give another --results-dir"
        )
    return folder


def claim_results(results_dir: Path | str, checkpoint: Path | str) -> Path:
    """The same, and record there which checkpoint it is of, as a path from that folder: both may move together."""
    folder = results_folder(results_dir, checkpoint)
    write_text(folder / OWNER_FILE, _seen_from(folder, checkpoint) + "\n")
    return folder


def _seen_from(folder: Path, checkpoint: Path | str) -> str:
    """The path of a checkpoint from a folder; links in its folder are followed, itself may be one."""
    real = os.path.join(os.path.realpath(Path(checkpoint).absolute().parent), Path(checkpoint).name)
    return os.path.relpath(real, os.path.realpath(folder))
