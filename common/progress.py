"""Bars of progress, on a terminal alone: a log stays as readable as what the scripts print."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

from common.cli import is_first_process


def progress(
    text: str,
    items: Iterable | None = None,
    *,
    total: int | None = None,
    unit: str = "volume",
    begun: int = 0,
    hidden: bool = False,
) -> tqdm:
    """A bar that goes when it is done: `items` as they are taken, or without them what `update` is told.

    None is drawn where stderr is no terminal, where there is nothing to do, or by another than the first process.

    Args:
        text: of what is under way.
        total: number of items; where they have no length.
        begun: items that were done before.
        hidden: draw none.
    """
    empty = total == 0 or (items is not None and hasattr(items, "__len__") and not len(items))
    hidden = hidden or empty or not sys.stderr.isatty() or not is_first_process()
    return tqdm(items, text, total, unit=unit, initial=begun, disable=hidden, leave=False)
