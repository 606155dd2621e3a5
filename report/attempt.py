"""A picture that cannot be drawn is a warning: the figures stand without it."""

from collections.abc import Callable
from pathlib import Path

from common.cli import warn


def attempt(path: Path, draw: Callable[[Path], None]) -> bool:
    """Draw a picture, or warn where that fails for whatever reason; says whether it is there."""
    try:
        draw(path)
    except Exception as error:
        path.unlink(missing_ok=True)  # one of an earlier run would not go with these figures
        warn(f"{path} could not be drawn, the figures stand without it: {type(error).__name__}: {error}")
        return False
    return True
