"""Many files read by a few threads, a bounded number at a time."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from common.progress import progress

READERS = 4  # threads; reading small files waits for the disk more than for the processor
AT_ONCE = 1024  # items that are read or wait to be taken


def in_threads(
    function: Callable[[Any], Any], items: Sequence, text: str, unit: str = "volume", at_once: int = AT_ONCE
) -> Iterator[Any]:
    """`function` of each item, in order, with a progress bar.

    Args:
        text: of the bar.
        at_once: items whose results may be in memory together.
    """
    with ThreadPoolExecutor(READERS) as pool, progress(text, total=len(items), unit=unit) as bar:
        for start in range(0, len(items), at_once):
            for result in pool.map(function, items[start : start + at_once]):
                bar.update()
                yield result
