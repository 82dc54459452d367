"""A request to stop, by Ctrl-C or a scheduler: it ends the run at any place but those that must not be cut in two."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupts:
    """SIGINT and SIGTERM raise KeyboardInterrupt inside ``caught``; inside ``held`` they wait until its end."""

    def __init__(self) -> None:
        self.depth, self.pending = 0, ""

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handle the signals in here, and as before afterwards."""
        try:
            previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:
            # Only the main thread may install handlers.
            previous = {}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """For what must be whole: a job that has been submitted must also be known, a clean-up must not be cleaned up itself."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            if self.pending and not self.depth:
                name, self.pending = self.pending, ""
                raise KeyboardInterrupt(name)

    def _stop(self, number: int, frame: object) -> None:
        name = signal.Signals(number).name
        if self.depth:
            self.pending = name
        else:
            raise KeyboardInterrupt(name)
