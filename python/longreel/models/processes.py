"""Processes that share one run: each computes what it can of its own frames, the first one takes all of it in order and answers.

Whoever waits looks into the store of `torch.distributed`, so that a signal, another process's error and silence end the wait.
"""

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from longreel.models.system import Encoded
from longreel.ranks import Rank

PATIENCE = "LONGREEL_PATIENCE"
"""Seconds without a sign of any process after which the others give up; default 1800."""
_LOOK_SECONDS = 0.02
_FAREWELL_SECONDS = 5.0
_FAILED, _SIGNS, _READY, _WANTED, _LEFT = "failed", "signs", "ready", "wanted", "left"


class OtherFailedError(Exception):
    """Another process has said what is wrong; this one ends with the same exit code, in silence."""

    def __init__(self, code: int) -> None:
        super().__init__(f"another process ended with {code}")
        self.code = code


class Processes:
    """Those of one run, met in the store of torchrun, or of the first one at MASTER_ADDR and MASTER_PORT.

    check: raises what a signal raised meanwhile.

    Raises:
        ValueError: they do not meet. OtherFailedError: from every method, another process has failed.
    """

    def __init__(self, rank: Rank, check: Callable[[], None] = lambda: None) -> None:
        self.rank, self._check = rank, check
        self._patience = _patience()
        try:
            store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=self._patience)))  # type: ignore[attr-defined]
        except (RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise ValueError(f"{rank}: the other processes cannot be met ({said})") from None
        # torchrun has one store for all its starts (--max-restarts).
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = dist.PrefixStore(f"longreel/{start}", store)  # type: ignore[attr-defined]

    def share(self, frames: int | None, chunk: int) -> tuple[int, int | None]:
        """First and stop of this process's frames, of `frames` that are expected, None: all are the first one's. Cut where
        chunks are, so that each chunk is that of one process alone; the last one has no stop."""
        index, count = self.rank.index, self.rank.count
        if frames is None:
            return (0, None) if index == 0 else (0, 0)
        chunks = -(-frames // chunk)
        first, stop = (-(-part * chunks // count) * chunk for part in (index, index + 1))
        return first, None if index == count - 1 else stop

    def sign(self) -> None:
        """This process goes on."""
        self.check()
        self._ask(self._store.add, _SIGNS, 1)

    def check(self) -> None:
        """OtherFailedError where one has failed."""
        self._check()
        if self._ask(self._store.check, [_FAILED]):
            code, _, _ = self._store.get(_FAILED).decode().partition(" ")
            self._ask(self._store.add, _LEFT, 1)
            raise OtherFailedError(int(code))

    def fail(self, code: int) -> bool:
        """Say so, with the exit code; False where another one has before, and says it for all."""
        mine = f"{code} {self.rank.index}"
        try:
            return bool(self._store.compare_set(_FAILED, "", mine).decode() == mine)
        except RuntimeError:
            # The store is gone, and the first process with it.
            return True

    def gathered(self, device: torch.device) -> Iterator[Encoded]:
        """In the first process: what all others computed, in the order of the frames."""
        self._meet()
        for other in range(1, self.rank.count):
            self._ask(self._store.set, f"{_WANTED}{other}", "1")
            while True:
                held: list[Any] = [None]
                self._ask(dist.recv_object_list, held, src=other)
                if held[0] is None:
                    break
                frames, kinds = held[0]
                yield Encoded(frames, tuple(kind and self._receive(other, *kind).to(device) for kind in kinds))
        dist.destroy_process_group()

    def give(self, parts: list[Encoded]) -> None:
        """In every other process: what it computed, to the first one; given away part by part."""
        self._meet()
        self._wait([f"{_WANTED}{self.rank.index}"])
        parts.reverse()
        while parts:
            part = parts.pop()
            kinds = [None if one is None else (tuple(one.shape), one.dtype) for one in part.tensors]
            self._ask(dist.send_object_list, [(part.frames, kinds)], dst=0)
            for one in part.tensors:
                if one is not None and one.numel():
                    self._ask(dist.send, one.cpu().contiguous().flatten().view(torch.uint8), dst=0)
            self.check()
        self._ask(dist.send_object_list, [None], dst=0)
        dist.destroy_process_group()

    def _receive(self, other: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        if tensor.numel():
            self._ask(dist.recv, tensor.view(-1).view(torch.uint8), src=other)
        return tensor

    def _meet(self) -> None:
        """Every process has computed its share: only then they are connected, which waits for all."""
        self._ask(self._store.set, f"{_READY}{self.rank.index}", "1")
        self._wait([f"{_READY}{index}" for index in range(self.rank.count)])
        store = dist.PrefixStore("group", self._store)  # type: ignore[attr-defined]
        self._ask(
            dist.init_process_group,
            "gloo",
            store=store,
            rank=self.rank.index,
            world_size=self.rank.count,
            timeout=timedelta(seconds=self._patience),
        )

    def _wait(self, keys: list[str]) -> None:
        since, signs = time.monotonic(), -1
        while not self._ask(self._store.check, keys):
            self.check()
            now = self._ask(self._store.add, _SIGNS, 0)
            if now != signs:
                since, signs = time.monotonic(), now
            if time.monotonic() - since > self._patience:
                raise ValueError(f"{self.rank}: no sign of another process for {self._patience:g} s ({PATIENCE})")
            time.sleep(_LOOK_SECONDS)

    def _ask(self, what: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """What a process that is gone leaves is an error of connections."""
        try:
            return what(*given, **named)
        except RuntimeError as error:
            self._check()
            said = " ".join(str(error).split())[:120]
            raise ValueError(f"{self.rank}: another process ended ({said})") from None

    def farewell(self) -> None:
        """After a failure: the first process may hold the store, and stays until the others have read it."""
        if self.rank.index:
            return
        end = time.monotonic() + _FAREWELL_SECONDS
        try:
            while self._store.add(_LEFT, 0) < self.rank.count - 1 and time.monotonic() < end:
                time.sleep(_LOOK_SECONDS)
        except RuntimeError:
            pass


def _patience() -> float:
    text = os.environ.get(PATIENCE, "1800")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise ValueError(f"{PATIENCE}={text!r} in the environment: must be a number of seconds")
    return seconds
