"""What stands for a card's memory, barriers and warps where a kernel in Gluon runs as plain Python (emulated_gluon.py).

The parts of a program whose warps have different work are threads, of which one runs at a time: which, and when a copy
arrives, is drawn. Shared memory is NaN until a copy into it has arrived, from the moment that it starts; a product reads when
it is waited for. A ring that overwrites what is still read, or reads too early, gives NaN; one that waits for ever raises `Hang`.
"""

import random
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

THREADS = 128  # of four warps


class Hang(AssertionError):
    """No part can go on, and no copy is under way."""


class Pointer:
    """Elements of a tensor's storage; what lies outside is an error."""

    def __init__(self, tensor: Tensor, offset: Any = None) -> None:
        self.tensor = tensor
        self.offset = torch.tensor(tensor.storage_offset()) if offset is None else offset
        self.dtype = SimpleNamespace(element_ty=tensor.dtype)

    def __add__(self, elements: Any) -> "Pointer":
        return Pointer(self.tensor, self.offset + elements)

    def __getitem__(self, key: Any) -> "Pointer":
        return Pointer(self.tensor, self.offset[key])

    @property
    def storage(self) -> Tensor:
        return torch.empty(0, dtype=self.tensor.dtype).set_(self.tensor.untyped_storage())

    def places(self, mask: Any) -> Tensor:
        places = torch.as_tensor(self.offset).long()
        seen = places if mask is None else torch.where(torch.as_tensor(mask), places, 0)
        assert ((seen >= 0) & (seen < self.storage.numel())).all(), "read or written outside of a tensor"
        return seen


def load(pointer: Pointer, mask: Any = None, other: Any = None) -> Tensor:
    found = pointer.storage[pointer.places(mask)]
    return found if mask is None else torch.where(mask, found, torch.tensor(other, dtype=found.dtype))


def store(pointer: Pointer, value: Tensor, mask: Tensor) -> None:
    places, mask = pointer.places(mask), mask.expand(pointer.offset.shape)
    pointer.storage[places[mask]] = value.to(pointer.tensor.dtype)[mask]


class Barrier:
    """mbarrier: a phase ends when all have arrived and the bytes that were announced too."""

    def __init__(self) -> None:
        self.count = self.pending = self.bytes = self.phases = 0

    def change(self, arrivals: int = 0, expected: int = 0) -> None:
        assert arrivals <= self.pending, "more arrive than the barrier counts"
        self.pending -= arrivals
        self.bytes += expected
        if self.pending == 0 and self.bytes == 0:
            self.pending, self.phases = self.count, self.phases + 1


class Shared:
    """Shared memory: stages of it, views of one, barriers."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.dtype = getattr(data, "dtype", None)

    def index(self, i: Any) -> Any:
        found = self.data[int(i)]
        return found if isinstance(found, Barrier) else Shared(found)

    def permute(self, order: tuple[int, ...]) -> "Shared":
        return Shared(self.data.permute(order))

    def store(self, value: Tensor) -> None:
        self.data.copy_(value)


class Part(threading.Thread):
    """One part of the program; runs while it has the turn."""

    def __init__(self, machine: "Machine", function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        super().__init__(daemon=True)
        self.machine, self.function, self.arguments = machine, function, arguments
        self.turn, self.ready, self.done = threading.Semaphore(0), lambda: True, False
        self.error: BaseException | None = None

    def run(self) -> None:
        self.turn.acquire()
        try:
            self.function(*self.arguments)
        except BaseException as error:
            self.error = error
        self.done = True
        self.machine.back.release()

    def until(self, ready: Callable[[], bool]) -> None:
        self.ready = ready
        self.machine.back.release()
        self.turn.acquire()
        if self.machine.stopped:
            raise SystemExit


class Machine:
    """The parts of one program, and copies under way."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.back = threading.Semaphore(0)
        self.copies: list[Callable[[], None]] = []
        self.opened: list[Callable[[], None]] = []
        self.program = 0
        self.stopped = False

    def specialize(self, parts: list[tuple[Any, tuple[Any, ...]]], warps: list[int], registers: list[int]) -> None:
        assert len(parts) == len(warps) + 1 == len(registers) + 1
        assert 4 + sum(warps) <= 16
        running = [Part(self, function, arguments) for function, arguments in parts]
        for part in running:
            part.start()
        while not all(part.done for part in running):
            able = [part for part in running if not part.done and part.ready()]
            if self.copies and (not able or self.random.random() < 0.3):
                self.copies.pop(self.random.randrange(len(self.copies)))()
            elif able:
                chosen = self.random.choice(able)
                chosen.turn.release()
                self.back.acquire()
                if chosen.error is not None:
                    self.stop(running)
                    raise chosen.error
            else:
                self.stop(running)
                raise Hang("every part waits, and no copy is under way")
        assert not self.copies, "copies are under way at the end"
        assert not self.opened, "nobody arrives after the last copies"

    def stop(self, running: list[Part]) -> None:
        self.stopped = True
        for part in running:
            part.turn.release()

    # Of Gluon's language

    def wait(self, barrier: Barrier, parity: Any) -> None:
        part = threading.current_thread()
        assert isinstance(part, Part)
        part.until(lambda: barrier.phases % 2 != int(parity))

    def copy(self, to: Shared, at: Pointer, mask: Tensor) -> None:
        to.data.fill_(torch.nan)
        mask = mask.expand(at.offset.shape)
        self.opened.append(lambda: to.data.copy_(load(at, mask, 0.0)))

    def arrive_after_copies(self, barrier: Barrier, increment_count: bool) -> None:
        assert not increment_count
        opened, self.opened = self.opened, []

        def arrive() -> None:
            for copy in opened:
                copy()
            barrier.change(arrivals=THREADS)

        self.copies.append(arrive)

    def copy_rows(self, rows: Any, place: list[Any], barrier: Barrier, to: Shared) -> None:
        (row, column), (height, width) = map(int, place), rows.block
        assert 0 <= row <= rows.shape[0] - height, "rows outside of the tensor"
        assert 0 <= column <= rows.shape[1] - width, "columns outside of the tensor"
        to.data.fill_(torch.nan)

        def arrive() -> None:
            to.data.copy_(rows.view[row : row + height, column : column + width])
            barrier.change(expected=-height * width * to.data.element_size())

        self.copies.append(arrive)
