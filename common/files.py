"""Writing files so that a reader never sees half of one: a temporary name beside the target, then a rename."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


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


def results_folder(results_dir: Path | str, checkpoint: Path | str) -> Path:
    """Where the results of a checkpoint go: `<results_dir>/<folder of the checkpoint>-<its name>`."""
    checkpoint = Path(checkpoint)
    return Path(results_dir) / f"{checkpoint.absolute().parent.name}-{checkpoint.stem}"
