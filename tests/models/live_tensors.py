"""Bytes of the tensors that a path keeps alive at its peak, stage by stage: what torch allocates, no allocator's gaps."""

import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longreel.models.inputs import Input
from longreel.models.system import Cached, Chunk, InputFacts


class LiveTensors(TorchDispatchMode):
    """Counts storages that ops make from when they are made until nobody holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given | self._known:
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@torch.inference_mode()
def stages_of(setup: Any, prompts: Any, frames: int, chunk: int | None = None) -> tuple[Cached, dict[str, int]]:
    """What longreel's path keeps of so many black frames, and its peak in every stage, without the weights."""
    model = setup.model(Input(InputFacts(setup.prefix, False, frames)), prompts)
    session = setup.system.session(model, prompts, "longreel", expected=frames, compare=False)
    image, chunk = model.preset.tower.image, chunk or setup.preset.chunk
    live, peaks = LiveTensors(), dict[str, int](defaultdict(int))

    @contextmanager
    def clock(name: str) -> Iterator[None]:
        live.peak = live.now
        yield
        peaks[name] = max(peaks.get(name, 0), live.peak)

    for begin in range(0, frames, chunk):
        pixels = torch.zeros(min(chunk, frames - begin), image, image, 3, dtype=torch.uint8)
        with live:
            with clock("tower"):
                seen = model.encode(pixels)
            session.consume(Chunk(seen), clock)
            del seen
    with live:
        kept = session.finish(clock)
        session.prepare(0, clock)
        with clock("language"):
            session.answer(0, lambda: None)
    return kept, peaks
