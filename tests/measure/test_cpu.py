"""CPU seconds by stage: clocks of threads, so that nothing here depends on how fast or how busy a machine is.

What a thread should be charged is what its own clock says from its start: on a busy machine starting one takes milliseconds.
"""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from longreel.data import frames
from longreel.measure import cpu
from longreel.measure.cpu import OTHER, SHARED, UNTOLD, CpuLedger, note_threads, part_of_thread, thread_of

pytestmark = pytest.mark.fast

TOWER, DECODE, RESIZE = ("tower", SHARED), ("decode", SHARED), ("resize", SHARED)
linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="clocks of other threads are Linux's")


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """In a long run it takes as long as what is measured here, in whichever thread it comes."""
    gc.disable()
    yield
    gc.enable()


def burn(seconds: float) -> float:
    """CPU seconds of this thread, at least so many."""
    start = time.thread_time()
    while time.thread_time() - start < seconds:
        sum(range(1000))
    return time.thread_time() - start


class Thread(threading.Thread):
    """Works, and stays until it is let go: what is noted does not hang on how threads take turns."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work, self._done, self._free, self._spent = work, threading.Event(), threading.Event(), 0.0
        self.start()

    def run(self) -> None:
        self._work()
        self._spent = time.thread_time()
        self._done.set()
        self._free.wait()

    def finish(self) -> float:
        """Its CPU seconds."""
        self._done.wait()
        note_threads()
        self._free.set()
        self.join()
        return self._spent


def decoder(spent: dict[str, float]) -> None:
    with thread_of("decode"):
        helper = Thread(lambda: burn(0.2))
        burn(0.1)
        with part_of_thread("resize"):
            spent["resize"] = burn(0.1)
        spent["helper"] = helper.finish()
        spent["own"] = time.thread_time() - spent["resize"]


def close(one: float, other: float) -> bool:
    return abs(one - other) < 0.05 * other


@linux
def test_decoding_beside_the_tower_is_not_the_towers() -> None:
    ledger, spent = CpuLedger(), dict[str, float]()
    other = burn(0.1)
    with ledger.at(TOWER):
        start = time.thread_time()
        thread = Thread(lambda: decoder(spent))
        burn(0.3)
        thread.finish()
        tower = time.thread_time() - start
        with ledger.at(("inner", "longreel")):
            inner = burn(0.1)
    ledger.close()
    assert close(sum(ledger.spent.values()), ledger.process)
    assert ledger.unclocked < 0.05 * ledger.process
    assert close(ledger.spent["inner", "longreel"], inner)
    assert close(ledger.spent[RESIZE], spent["resize"])
    assert close(ledger.spent[DECODE], spent["own"] + spent["helper"])
    assert close(ledger.spent[TOWER], tower)
    assert other <= ledger.spent[OTHER] < other + 0.05 * ledger.process
    before = dict(ledger.spent)
    burn(0.02)
    ledger.close()
    assert dict(ledger.spent) == before


@linux
def test_pools_work_for_the_stage_and_threads_of_others_do_not() -> None:
    a, threads = torch.randn(700, 700), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ledger = CpuLedger()
        stranger = Thread(lambda: burn(0.2))
        with ledger.at(TOWER):
            for _ in range(20):
                a @ a
        stranger.finish()
        ledger.close()
    finally:
        torch.set_num_threads(threads)
    assert close(sum(ledger.spent.values()), ledger.process)
    assert ledger.unclocked < 0.05 * ledger.process
    assert 0.18 <= ledger.spent[OTHER] <= 0.21 + 0.05 * ledger.process


@linux
def test_ffmpegs_threads_are_the_decoders(tmp_path: Path) -> None:
    path, noise = tmp_path / "noise.mp4", np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for index in range(160):
            if index % 40 == 0:
                picture = noise.integers(0, 256, (480, 640, 3), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(picture, index, 1), "rgb24")))
        out.mux(stream.encode(None))
    ledger, own = CpuLedger(), time.thread_time()
    with ledger.at(TOWER), frames(path, "fps:5", size=64, chunk=4) as chunks:
        taken = sum(len(chunk.pixels) for chunk in chunks)
    own = time.thread_time() - own
    ledger.close()
    assert taken == 32
    assert close(sum(ledger.spent.values()), ledger.process)
    assert ledger.unclocked < 0.05 * ledger.process
    assert ledger.spent[DECODE] + ledger.spent[RESIZE] > 0.9 * (ledger.process - own)
    assert 0 < ledger.spent[RESIZE] < ledger.spent[DECODE]


def test_a_system_without_clocks_of_other_threads_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "_TASKS", tmp_path / "none")
    ledger, spent = CpuLedger(), dict[str, float]()
    with ledger.at(TOWER):
        start = time.thread_time()
        burn(0.2)
        Thread(lambda: decoder(spent)).finish()
        tower = time.thread_time() - start
    ledger.close()
    assert close(sum(ledger.spent.values()), ledger.process)
    assert close(ledger.spent[TOWER], tower)
    assert close(ledger.spent[DECODE], spent["own"])
    assert close(ledger.spent[RESIZE], spent["resize"])
    assert close(ledger.spent[UNTOLD], spent["helper"])
