"""SIGTERM and Ctrl-C once the volumes are read: noted, so that the run can save itself and end. Before, they end it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Which signal asked the run to stop; 0 for none."""

    number = 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal; torchrun repeats SIGTERM, which changes nothing, but a second Ctrl-C acts at once."""
        self.number = self.number or number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note signals for as long as the block lasts; the handlers before are put back."""
    request = StopRequest()
    before = {number: signal.signal(number, request.note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
