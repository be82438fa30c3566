"""Peaks of memory: of one call beyond its inputs and outputs, of what runs in turn; and the memory that is free before it."""

import ctypes
import gc
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PROC = Path("/proc/self")


@dataclass(frozen=True)
class Peak:
    """`extra` bytes beyond inputs and outputs at the peak of a call, None if not measured; `how` says how."""

    extra: int | None
    how: str


# What torch's own allocators, and the C++ library's, say of memory that is not there.
_NO_ROOM = re.compile(
    r"can't allocate memory|Cannot allocate memory|bad_alloc|bad allocation|out of memory|not enough memory"
    r"|Storage size calculation overflowed|failed to map segment|can't start new thread",
    re.I,
)
# oneDNN has one word for every reason.
_MAYBE_NO_ROOM = re.compile(r"could not (?:create|execute) a primitive|could not create a memory")


def no_room(error: BaseException) -> str | None:
    """Why a computation does not fit, in short, where this error says that it does not; None of another."""
    said = str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return ". ".join(said.split(". ")[:2]).removeprefix("std::bad_alloc") or "out of memory"
    if not isinstance(error, (RuntimeError, OSError, ImportError)):
        return None
    if maybe := _MAYBE_NO_ROOM.search(said):
        return f"out of memory, most likely: oneDNN {maybe[0]}"
    if not _NO_ROOM.search(said):
        return None
    wanted = re.search(r"tried to allocate (\d+) bytes", said)
    if not wanted:
        return "out of memory"
    size = int(wanted[1])
    more = f"{size / 2**30:,.2f} GiB" if size >= 2**27 else f"{size / 2**20:,.2f} MiB"
    return f"out of memory: {more} more are not there"


def tensors_in(result: Any) -> Iterable[Tensor]:
    """Every tensor in nested tuples, lists and dicts."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, dict):
        for value in result.values():
            yield from tensors_in(value)
    elif isinstance(result, (tuple, list)):
        for value in result:
            yield from tensors_in(value)


def storage_bytes(result: Any) -> int:
    """Bytes that the tensors of `result` keep alive, a storage shared by several counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors_in(result)}
    return sum(storages.values())


def peak_memory(call: Callable[[], Any], device: torch.device) -> Peak:
    """Runs `call` once, after its warm-up, and returns its peak beyond what was there before and what it returns.

    CUDA: torch's allocator. Linux CPU: the process's high-water mark (VmHWM), reset just before, once the C library has
    handed back its free pages; where the mark cannot be reset, resident memory sampled from a thread. Scratch that a
    library keeps from its warm-up on is there before the call and is not counted.
    """
    gc.collect()
    if device.type == "cuda":
        return _cuda(call, device)
    if not (_PROC / "status").exists():
        return Peak(None, "not measured: needs Linux's /proc")
    return_free_memory()
    if not _reset():
        return _sampled(call)
    before = _status("VmRSS")
    result = call()
    after = _status("VmHWM")
    return Peak(max(0, after - before - storage_bytes(result)), "VmHWM of the process, reset before the call")


class PeakMeter:
    """Peaks of memory, separately for what runs in turn in one process: resident memory, or a GPU's as torch allocates it.

    Linux resets the high-water mark before each, if it lets us; elsewhere every peak of a CPU run is the process's own so far.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self.peaks: dict[str, int] = defaultdict(int)

    @contextmanager
    def __call__(self, *names: str) -> Iterator[None]:
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            _reset()
        yield
        mark = torch.cuda.max_memory_allocated(self._device) if on_gpu else _high_water()
        for name in names:
            self.peaks[name] = max(self.peaks[name], mark)

    def take(self) -> dict[str, int]:
        """The peaks since the last call."""
        taken, self.peaks = dict(self.peaks), defaultdict(int)
        return taken


def return_free_memory() -> None:
    """To the system, what the C library holds in free heap pages and in the arenas of threads that have done their work, so
    that a call that takes them again is measured to grow; nothing where it cannot."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Bytes of this process that are in memory now; its peak so far where the system does not say."""
    return _status("VmRSS") if (_PROC / "status").exists() else _high_water()


def free_memory(device: torch.device) -> int | None:
    """Bytes that a call could still allocate, None where the system does not say."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    info = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", info.read_text()) if info.exists() else None
    return int(found[1]) * 1024 if found else None


def _cuda(call: Callable[[], Any], device: torch.device) -> Peak:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    extra = torch.cuda.max_memory_allocated(device) - before - storage_bytes(result)
    return Peak(max(0, extra), "torch.cuda.max_memory_allocated")


def _sampled(call: Callable[[], Any]) -> Peak:
    before, top, done = _status("VmRSS"), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            top[0] = max(top[0], _status("VmRSS"))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        result = call()
        top[0] = max(top[0], _status("VmRSS"))
    finally:
        done.set()
        watcher.join()
    return Peak(max(0, top[0] - before - storage_bytes(result)), "resident memory sampled every millisecond")


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", (_PROC / "status").read_text())
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024


def _reset() -> bool:
    """Linux sets the process's high-water mark anew, if it lets us."""
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _high_water() -> int:
    """Of the process, in bytes; 0 where the system has no word for it (Windows)."""
    if (_PROC / "status").exists():
        return _status("VmHWM")
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
