"""Signals that end a process end a command as Ctrl-C does: what is half-written is removed."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# Those that can be caught and are no fault of the process's own; batch systems send the later ones before they kill.
_SIGNALS = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU", "SIGUSR1", "SIGUSR2", "SIGALRM")


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
        for number in (getattr(signal, name, None) for name in _SIGNALS)
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
