"""CPU seconds of this process by what they went to, from the clocks of its threads: decoders and worker pools included."""

import os
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")
# Linux gives a new thread the name of the one that begins it. FFmpeg's threads take names of their own.
_OURS, _FFMPEG, _FFMPEG_STAGE = "lr:", "av:", "decode"
# The clock of any thread of this process, by its id (the kernel's CPUCLOCK_PERTHREAD | CPUCLOCK_SCHED).
_PER_THREAD = 6

Key = tuple[str, str]
"""A stage, and whose: a path's, or all paths' ("shared")."""
SHARED = "shared"
OTHER, UNTOLD = ("other", SHARED), ("untold", SHARED)
"""Outside every stage; of threads that the system does not tell apart."""

_lock = threading.Lock()
_stages: dict[int, str] = {}
"""Of threads that work for one stage alone, by their id."""
_moved: defaultdict[tuple[str, str], float] = defaultdict(float)
"""Seconds that threads of a stage spent on a part that is a stage of its own: by both."""
_ledgers: "weakref.WeakSet[CpuLedger]" = weakref.WeakSet()


@contextmanager
def thread_of(stage: str) -> Iterator[None]:
    """This thread, and what it begins meanwhile, works for `stage` (at most 12 letters) whatever else goes on."""
    me = threading.get_native_id()
    _stages[me] = stage
    with suppress(OSError):
        (_TASKS / str(me) / "comm").write_text(_OURS + stage)
    try:
        yield
    finally:
        note_threads()
        del _stages[me]


@contextmanager
def part_of_thread(stage: str) -> Iterator[None]:
    """What runs here, in a thread of another stage, is a stage of its own; in any other thread it is not told apart."""
    whose, start = _stages.get(threading.get_native_id()), time.thread_time()
    try:
        yield
    finally:
        if whose is not None:
            with _lock:
                _moved[whose, stage] += time.thread_time() - start


def note_threads() -> None:
    """To be called where threads are about to end: with them go their clocks."""
    for ledger in list(_ledgers):
        ledger.note()


class CpuLedger:
    """Charges this process's CPU seconds to stages, from now on until `close`.

    A thread of a stage (`thread_of`) and all that it began charges that one. The thread that made the ledger, and pools that
    are none of Python's (OpenMP), charge the stage that is `at` work; other threads of Python, and what is outside, OTHER.
    Where the system has no clocks of other threads (not Linux), those of pools stand under UNTOLD.
    """

    def __init__(self) -> None:
        self.spent: defaultdict[Key, float] = defaultdict(float)
        self.process = 0.0
        """CPU seconds of the process while the ledger was open."""
        self.unclocked = 0.0
        """Of these, those that no thread's clock accounts for."""
        self.before = time.process_time()
        """Of the process before."""
        self._me, self._at, self._open = threading.get_native_id(), OTHER, True
        self._lock = threading.Lock()
        self._last, self._whose = _clocks(), dict[int, str | None]()
        self._moved = dict(_moved)
        for thread in self._last:
            self._whose[thread] = self._role(thread)
        _ledgers.add(self)

    @contextmanager
    def at(self, key: Key) -> Iterator[None]:
        """What the ledger's thread computes here, and its pools, is `key`'s."""
        self.note()
        outer, self._at = self._at, key
        try:
            yield
        finally:
            self.note()
            self._at = outer

    def note(self) -> None:
        """Charge what was spent since the last time."""
        with self._lock:
            if not self._open:
                return
            clocks = _clocks()
            for thread, now in clocks.items():
                last = self._last.get(thread)
                if last is None or now < last:
                    # One that is new, under an id that may have been another's.
                    self._whose[thread], last = self._role(thread), 0.0
                stage = _stages.get(thread, self._whose[thread])
                self.spent[self._at if stage is None else (stage, SHARED)] += now - last
            latest = clocks if _TASKS.is_dir() else self._last | clocks
            self._last, self._whose = dict(latest), {thread: self._whose[thread] for thread in latest}

    def close(self) -> None:
        """No more is charged; what no thread accounts for is OTHER, or UNTOLD; harmless when repeated."""
        self.note()
        with self._lock:
            if not self._open:
                return
            self._open, self.process = False, time.process_time() - self.before
        with _lock:
            moved = dict(_moved)
        for (whose, part), seconds in moved.items():
            more = seconds - self._moved.get((whose, part), 0.0)
            if more > 0:
                self.spent[whose, SHARED] -= more
                self.spent[part, SHARED] += more
        self.unclocked = max(self.process - sum(self.spent.values()), 0.0)
        self.spent[OTHER if _TASKS.is_dir() else UNTOLD] += self.unclocked

    def _role(self, thread: int) -> str | None:
        """The stage of a thread, by the name that it has from the one that began it; None: whatever is `at` work."""
        name = ""
        with suppress(OSError):
            name = (_TASKS / str(thread) / "comm").read_text().strip()
        if name.startswith(_OURS):
            return name.removeprefix(_OURS)
        if name.startswith(_FFMPEG):
            return _FFMPEG_STAGE
        pythons = {each.native_id for each in threading.enumerate()} - {self._me}
        return OTHER[0] if thread in pythons else None


def _clocks() -> dict[int, float]:
    """CPU seconds of every thread by its id; of the calling one alone where the system has no more."""
    try:
        threads = [int(name) for name in os.listdir(_TASKS)]
    except OSError:
        return {threading.get_native_id(): time.thread_time()}
    found: dict[int, float] = {}
    for thread in threads:
        # It may have ended meanwhile.
        with suppress(OSError):
            found[thread] = time.clock_gettime((~thread << 3) | _PER_THREAD)
    return found
