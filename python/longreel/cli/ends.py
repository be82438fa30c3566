"""SIGTERM and SIGHUP end a command as Ctrl-C does: what is half-written is removed."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Ended(BaseException):
    """A signal came."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within it they raise `Ended`, once; a signal that is ignored (nohup), or has a handler already, stays as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [
        number
        for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))
        if number is not None and signal.getsignal(number) is signal.SIG_DFL
    ]

    def end(number: int, frame: FrameType | None) -> None:
        # Cleaning up is not ended by a second one.
        for each in taken:
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
