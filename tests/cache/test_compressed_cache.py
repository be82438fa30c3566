"""Every compressed cache under random appends, failures, forks, questions, files, caps and resets: what a fresh one holds."""

import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from drivers import DRIVERS, LAYERS, cached
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import longreel.cache
from longreel.cache import CompressedCache

for _, name, _ in pkgutil.iter_modules(longreel.cache.__path__):
    importlib.import_module(f"longreel.cache.{name}")

# (first piece or a later one, size, seed)
Piece = tuple[bool, int, int]
Options = tuple[tuple[str, Any], ...]


def subclasses(base: type[CompressedCache] = CompressedCache) -> Iterator[type[CompressedCache]]:
    for each in base.__subclasses__():
        yield from (each, *subclasses(each))


CACHES = sorted(set(subclasses()), key=lambda cache: cache.__name__)

STEPS = st.one_of(
    *[st.tuples(st.just("append"), st.integers(1, 3), st.booleans())] * 3,
    st.tuples(st.just("fail"), st.integers(1, 3), st.integers(0, LAYERS - 1)),
    st.tuples(st.just("ask"), st.integers(1, 3), st.integers(0, 2)),
    st.tuples(st.just("file"), st.just(0), st.booleans()),
    st.tuples(st.just("copy"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("cap"), st.integers(-2, 12), st.booleans()),
    st.tuples(st.just("reset"), st.just(0), st.booleans()),
)


def append(cache: CompressedCache, piece: Piece, before: Callable[[int], None] = lambda layer: None) -> None:
    DRIVERS[type(cache)].append(cache, *piece, before)


@lru_cache(maxsize=512)
def fresh(kind: type[CompressedCache], options: Options, pieces: tuple[Piece, ...]) -> CompressedCache:
    cache = kind(DRIVERS[kind].config(), **dict(options))
    for piece in pieces:
        append(cache, piece)
    return cache


def answer(fork: CompressedCache, text: Tensor) -> Tensor:
    return DRIVERS[type(fork)].ask(fork, text)


def same(cache: CompressedCache, expected: CompressedCache) -> None:
    assert cache.counts == expected.counts
    assert cache.segments == expected.segments
    assert (cache.tokens, cache.length, cache.batch) == (expected.tokens, expected.length, expected.batch)
    each = 2 * LAYERS * cache.heads * cache.head_dim * 4
    assert cache.nbytes == each * cache.tokens
    assert sum(layer.allocated for layer in cache.layers) <= (
        float("inf") if cache.max_bytes is None else cache.max_bytes
    )
    assert {layer.tokens for layer in cache.layers} == {cache.tokens}
    for one, other in zip(cached(cache), cached(expected), strict=True):
        assert torch.equal(one, other)


class Attack:
    """A cache, what was appended to it, and forks of it that still live, with what they held when they were made."""

    def __init__(self, kind: type[CompressedCache], options: Options, folder: Path) -> None:
        self.kind, self.options, self.path = kind, options, folder / "cache.safetensors"
        self.cache = kind(DRIVERS[kind].config(), **dict(options))
        self.driver = DRIVERS[kind]
        self.pieces: tuple[Piece, ...] = ()
        self.forks: list[tuple[CompressedCache, list[Tensor]]] = []

    def check(self) -> None:
        same(self.cache, fresh(self.kind, self.options, self.pieces))
        for fork, keys in self.forks:
            assert all(torch.equal(*pair) for pair in zip(cached(fork), keys, strict=True))

    def append(self, size: int, inference: bool) -> None:
        piece = (not self.pieces, size, len(self.pieces))
        cap, needed = self.cache.max_bytes, fresh(self.kind, self.options, (*self.pieces, piece)).nbytes
        with torch.inference_mode(inference):
            if cap is not None and needed > cap:
                with pytest.raises(MemoryError, match=f"may take {cap} bytes"):
                    append(self.cache, piece, lambda layer: pytest.fail("was computed"))
                return
            try:
                append(self.cache, piece)
            except MemoryError:
                assert cap is not None
                assert not self.driver.grows
                return
        self.pieces += (piece,)

    def fail(self, size: int, layer: int) -> None:
        with pytest.raises((ZeroDivisionError, MemoryError)):
            append(self.cache, (not self.pieces, size, 99), lambda at: at == layer and 1 / 0)

    def ask(self, length: int, cropped: int) -> None:
        text = torch.arange(1, 1 + length + cropped)
        fork, expected = self.cache.fork(), fresh(self.kind, self.options, self.pieces).fork()
        assert {layer.tokens for layer in fork.layers} == {fork.tokens}
        for each in (fork, *fork.layers):
            each.max_bytes = None
        answer(fork, text)
        with pytest.raises(ValueError, match="crop takes text away"):
            fork.crop(-length - cropped - 1)
        fork.crop(-cropped)
        # The cropped text is gone: what comes next is asked as if it had never been.
        asked = torch.cat([text[:length], text[:1]])
        torch.testing.assert_close(answer(fork, text[:1]), answer(expected, asked)[-1:], atol=1e-5, rtol=1e-5)
        with pytest.raises(ValueError, match="without text"):
            append(fork, (False, 1, 0))
        with pytest.raises(ValueError, match="text in it is not saved"):
            fork.save(self.path.with_name("fork"))
        self.forks.append((fork, cached(fork)))

    def file(self, _: int, described: bool) -> None:
        self.cache.save(self.path, {"described": described})
        assert self.kind.described(self.path) == {"described": described}
        self.cache = self.kind.load(self.path, self.driver.config(), max_bytes=self.cache.max_bytes)

    def copy(self, how: int, keep: bool) -> None:
        other = [copy, deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))][how](self.cache)
        append_quietly(self.cache if keep else other)
        self.cache = other if keep else self.cache

    def cap(self, room: int, described: bool) -> None:
        """Live on under a cap that leaves room for so many tokens more."""
        each = 2 * LAYERS * self.cache.heads * self.cache.head_dim * 4
        cap = max(0, self.cache.nbytes + room * each + 7)
        self.cache.save(self.path)
        if cap < self.cache.nbytes:
            with pytest.raises(MemoryError, match=f"max_bytes is {cap}"):
                self.kind.load(self.path, self.driver.config(), max_bytes=cap)
        else:
            self.cache = self.kind.load(self.path, self.driver.config(), max_bytes=cap)

    def reset(self, *_: object) -> None:
        self.cache.reset()
        self.pieces = ()


def append_quietly(cache: CompressedCache) -> None:
    try:
        append(cache, (not cache.tokens, 2, 55))
    except MemoryError:
        assert cache.max_bytes is not None


@pytest.mark.parametrize("kind", CACHES)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_order_of_steps(
    kind: type[CompressedCache], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    assert kind in DRIVERS, f"{kind.__name__} is driven by no entry of tests/cache/drivers.py"
    options = tuple((name, data.draw(st.sampled_from(values))) for name, values in DRIVERS[kind].options.items())
    attack = Attack(kind, options, tmp_path_factory.mktemp("cache"))
    for name, number, flag in data.draw(st.lists(STEPS, min_size=4, max_size=12)):
        getattr(attack, name)(number, flag)
        attack.check()
