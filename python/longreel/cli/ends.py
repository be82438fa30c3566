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


_told: BaseException | None = None


def end_if_told() -> None:
    """Raise again what a signal raised, where a library caught it and went on."""
    if _told is not None:
        raise _told


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within it they raise `Ended`, once, and Ctrl-C `KeyboardInterrupt`; a signal that is ignored (nohup), or has a handler
    already, stays as it is."""
    global _told
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [
        number
        for number in (getattr(signal, name, None) for name in _SIGNALS)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL
    ]

    interrupt = signal.getsignal(signal.SIGINT)

    def end(number: int, frame: FrameType | None) -> None:
        global _told
        # Cleaning up is not ended by a second one.
        for each in taken:
            signal.signal(each, signal.SIG_IGN)
        _told = Ended(number)
        raise _told

    def interrupted(number: int, frame: FrameType | None) -> None:
        global _told
        _told = KeyboardInterrupt()
        raise _told

    for number in taken:
        signal.signal(number, end)
    if interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        if interrupt is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)
        if taken or interrupt is signal.default_int_handler:
            _told = None
