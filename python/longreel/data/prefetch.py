"""Run an iterator ahead of its consumer in a thread, a bounded number of items ahead."""

import contextlib
import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

from longreel.measure.cpu import thread_of

T = TypeVar("T")
_POLL_SECONDS = 0.05


class _End:
    """Last item of the queue: the source is exhausted, or failed."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Prefetch(Generic[T]):
    """Iterate `source` with up to `depth` items waiting; what it raises is raised here, after the items before it.

    The thread starts with the first item asked for. `close()`, or losing the last reference, stops it after the item in
    hand and closes the source (a generator's `finally` runs in the thread). stage: whose CPU seconds the thread's are.
    """

    def __init__(self, source: Iterator[T], depth: int, stage: str) -> None:
        self._items: queue.Queue[T | _End] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_run, args=(source, self._items, self._stop, stage), name="longreel-prefetch", daemon=True
        )
        self._started = self._done = False
        weakref.finalize(self, self._stop.set)

    def __iter__(self) -> "Prefetch[T]":
        return self

    def __next__(self) -> T:
        if self._done:
            raise StopIteration
        self.start()
        item = self._items.get()
        if isinstance(item, _End):
            self.close()
            if item.error is not None:
                raise item.error
            raise StopIteration
        return item

    def start(self) -> None:
        """Run ahead from now on, not only from the first item asked for; harmless when repeated."""
        if not self._started:
            self._started = True
            self._thread.start()

    def close(self) -> None:
        self._done = True
        self._stop.set()
        # A signal may have come before the thread had begun: then there is nothing to wait for, and it stops at once.
        with contextlib.suppress(RuntimeError):
            self._thread.join()


def _run(source: Iterator[T], items: "queue.Queue[T | _End]", stop: threading.Event, stage: str) -> None:
    error: BaseException | None = None
    with thread_of(stage):
        try:
            for item in source:
                if not _put(items, item, stop):
                    break
        except BaseException as caught:
            error = caught
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
    _put(items, _End(error), stop)


def _put(items: "queue.Queue[T | _End]", item: T | _End, stop: threading.Event) -> bool:
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            items.put(item, timeout=_POLL_SECONDS)
            return True
    return False
