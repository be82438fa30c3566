"""Numbers where they enter: numpy's do not wrap, fractions are refused, and nothing is made before sizes are compared."""

import random
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from longreel import VideoLayout, _native, block_sparse_attention
from longreel.cache import BufferedCache
from longreel.layout import Segment, cost
from longreel.layout._ranges import ranges

pytestmark = pytest.mark.fast

MAKERS: dict[str, tuple[Callable[..., VideoLayout], dict[str, int]]] = {
    "voco": (VideoLayout.voco, {"frames": 5, "vision": 7, "voco": 2, "text": 3, "prefix": 2, "separator": 1}),
    "vst": (VideoLayout.vst, {"visual": 40, "chunk": 16, "ratio": 4, "prefix": 3, "text": 5}),
    "mix": (lambda **n: VideoLayout.vst(ratio_mix=[n.pop("a"), n.pop("b")], **n), {"visual": 32, "chunk": 16, "a": 2, "b": 4}),
    "chunks": (lambda n, r: VideoLayout.vst(ratio=[(n, r), (n, r)]), {"n": 16, "r": 3}),
    "causal": (VideoLayout.causal, {"n": 100}),
    "window": (VideoLayout.sliding_window, {"n": 100, "window": 9, "sinks": 2}),
    "of": (lambda a, b: VideoLayout.of([("vision", a), ("voco", b)], attention="causal"), {"a": 90, "b": 30}),
    "segment": (lambda n, r, c: VideoLayout.of([Segment("vst", n, r, c)], attention="vst"), {"n": 90, "r": 9, "c": 3}),
    "rows": (lambda a, b: VideoLayout.causal(120).rows(a, b), {"a": 100, "b": 120}),
    "extend": (lambda n: VideoLayout.causal(100).extend(n), {"n": 100}),
}  # fmt: skip
WIDTHS = (np.int8, np.uint8, np.int16, np.int32, np.int64, torch.tensor)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("width", WIDTHS, ids=lambda w: w.__name__)
def test_numpy_numbers_do_not_wrap(maker: str, width: Callable[[int], Any]) -> None:
    make, numbers = MAKERS[maker]
    layout = make(**{name: width(number) for name, number in numbers.items()})
    expected = make(**numbers)
    assert (layout, layout.length, hash(layout)) == (expected, expected.length, hash(expected))
    assert all(
        type(number) is int
        for document in layout.samples[0]
        for segment in document.segments
        for number in (*segment[1:], document.rule.window or 0, document.rule.sinks, *(layout.window or ()))
    )
    assert np.array_equal(layout.plan().bounds, expected.plan().bounds)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("wrong", [2.0, np.float32(2), "2", None, [2], np.array([2, 3])], ids=str)
def test_what_is_no_whole_number(maker: str, wrong: Any) -> None:
    """Each count by itself: one line that names it."""
    make, numbers = MAKERS[maker]
    for name in numbers:
        if wrong is None and maker == "vst" and name in ("visual", "ratio"):
            continue
        if isinstance(wrong, list) and name == "ratio":
            continue
        if wrong is None and name == "window":
            continue
        with pytest.raises((TypeError, ValueError), match=r"whole number|pairs|give ratio=|visual=None") as raised:
            make(**numbers | {name: wrong})
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("far", [2**31, 2**62, 2**63 - 1])
def test_a_window_beyond_every_row_is_none(far: int) -> None:
    """Also where its sum with a row is beyond 64 bits."""
    ends, ids = torch.tensor([0, 4, 9]), [0, 0, 0, 0, 1, 1, 1]
    for causal in (True, False):
        plan, without = (VideoLayout.from_cu_seqlens(ends, 12, causal=causal, window=each) for each in (far, None))
        for name in ("bounds", "tiles", "kv_blocks", "query_ranges"):
            assert torch.equal(getattr(plan, name), getattr(without, name)), name
        mask = VideoLayout.blocks(ids, causal=causal).dense_mask()
        for reach in ({"window": far}, {"chunk": far}):
            assert np.array_equal(VideoLayout.blocks(ids, causal=causal, **reach).dense_mask(), mask)
    assert np.array_equal(VideoLayout.sliding_window(9, far, far).dense_mask(), VideoLayout.causal(9).dense_mask())


def test_a_product_beyond_32_bits_is_seen() -> None:
    with pytest.raises(ValueError, match=r"at most 2\^31 - 1 rows, given 2149580800"):
        VideoLayout.voco(frames=np.int32(2**20), vision=np.int32(2**11), voco=np.int32(2), text=0)  # type: ignore[arg-type]
    big = cost(VideoLayout.causal(10**6), heads=np.int32(32), head_dim=np.int32(128))  # type: ignore[arg-type]
    assert big.dense == 4 * 128 * 32 * 10**12
    with pytest.raises(TypeError, match=r"ratio is a whole number; given 1.5"):
        VideoLayout.vst(visual=8, ratio=1.5)  # type: ignore[arg-type]


@contextmanager
def nothing_made() -> Iterator[None]:
    """What is refused took no memory to speak of."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: VideoLayout.vst(visual=10**12, chunk=1, ratio=1), r"at most 2\^31 - 1 rows"),
        (lambda: VideoLayout.vst(visual=2**30, chunk=1, ratio=1), "at most 16777216 segments"),
        (lambda: VideoLayout.vst(visual=10**12, chunk=10**6, ratio=2), "at most"),
        (lambda: VideoLayout.voco(frames=2**28, vision=1, voco=1, text=0), "at most 16777216 segments"),
        (lambda: VideoLayout.vst(visual=2**30, chunk=1, ratio_mix=[1, 2]), "segments"),
        (lambda: VideoLayout.of([("vst", 10)], attention="vst"), r"given \('vst', 10, 0, 0\): VideoLayout.vst makes them"),
        (lambda: VideoLayout.of([Segment("vst", 10, 4, 5)], attention="vst"), "at most as much carried"),
        (lambda: VideoLayout.of([("text",)]), r"a segment is \(kind, rows\)"),
        (lambda: VideoLayout.vst(ratio=[4, 2]), r"pairs \(visual tokens, ratio\); given 4"),
        (lambda: VideoLayout(VideoLayout.causal(3).samples, order="other"), "order='other' is not one of"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_sizes_are_checked_before_anything_is_made(make: Callable[[], object], says: str) -> None:
    with nothing_made(), pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("backend", [None, "reference"])
def test_rows_are_compared_before_a_plan_is_made(backend: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoLayout, "to", lambda *_: pytest.fail("was planned"))
    q = torch.randn(1, 10, 2, 8)
    with pytest.raises(ValueError, match="the layout has 100000000 query rows and q has 10"):
        block_sparse_attention(q, q, q, VideoLayout.causal(10**8), backend=backend)
    with pytest.raises(ValueError, match="layout expects at least 99999 keys, k has 10"):
        block_sparse_attention(q, q, q, VideoLayout.causal(10**8).rows(99989, 99999), backend=backend)
    batch = VideoLayout.batch([VideoLayout.causal(10)] * 3)
    with pytest.raises(ValueError, match="the layout has 3 samples and q has 1"):
        block_sparse_attention(q, q, q, batch, backend=backend)


HOST = pytest.mark.skipif(_native.HOST is None, reason="needs the native libraries")


def tables() -> list[tuple[VideoLayout, np.ndarray]]:
    layouts = [
        VideoLayout.voco(frames=3, vision=5, voco=2, text=4, prefix=2, mode="causal"),
        VideoLayout.vst(visual=20, chunk=8, ratio=3, prefix=2, text=3).grouped(),
        VideoLayout.batch([VideoLayout.sliding_window(20, 4, 2), VideoLayout.causal(9)]),
    ]
    return [(layout, ranges(layout).table()) for layout in layouts]


@HOST
def test_the_planner_reads_no_table_that_cannot_be() -> None:
    """Any number of a table changed: an array, or one ValueError; never a crash, a division by zero or a loop without end."""
    host: Any = _native.HOST
    chance = random.Random(0)
    values = [-1, 0, 1, 2, 3, 7, 60, 2**20, 2**31, 2**32, 2**62, -(2**63), 2**63 - 1]
    refused = 0
    for layout, table in tables():
        keys, places = [layout.keys] * layout.batch_size, [50] * layout.batch_size
        for row in range(len(table)):
            for column in range(table.shape[1]):
                for value in chance.sample(values, 6):
                    changed = table.copy()
                    changed[row, column] = value
                    # A valid table of a million rows is a lot of tiles of 4.
                    tile = 4 if abs(value) < 2**20 else 2**18
                    try:
                        host.kv_blocks(changed, keys, places, tile, tile, 4096)
                        host.query_tiles(changed, tile, tile)
                    except ValueError as error:
                        refused += "row" in str(error)
    assert refused > 300


@HOST
@pytest.mark.parametrize(("column", "value"), [(1, 2**31 - 3), (2, 2**31), (9, 2**31), (10, 2**31)])
def test_what_a_plan_holds_as_int32_fits_it(column: int, value: int) -> None:
    """Rows whose last is beyond 2^31 - 1 came out negative, in a plan that was accepted."""
    host: Any = _native.HOST
    table = ranges(VideoLayout.causal(5)).table()
    table[0, column] = value
    for call in (lambda: host.kv_blocks(table, [5], [50], 4, 4, 0), lambda: host.query_tiles(table, 4, 4)):
        with pytest.raises(ValueError, match="ranges row 0"):
            call()


@HOST
@pytest.mark.parametrize("tile", [(0, 1), (1, 0), (-1, 4), (2**62, 4), (4, 2**63 - 1)])
def test_tiles_that_cannot_be(tile: tuple[int, int]) -> None:
    host: Any = _native.HOST
    table = ranges(VideoLayout.causal(5)).table()
    with pytest.raises(ValueError, match="at least 1 row and 1 key, at most"):
        host.query_tiles(table, *tile)
    with pytest.raises(ValueError, match="at least 1 row and 1 key, at most"):
        host.kv_blocks(table, [5], [0], *tile, 4)


@HOST
def test_executed_pairs_checks_its_tiles() -> None:
    host: Any = _native.HOST
    schedule = VideoLayout.causal(50).plan((16, 16))
    right = host.executed_pairs(schedule.tiles, schedule.order, 1, 50, 4, 2, 8)
    assert right >= 50 * 51 // 2
    for changes in ({"kv_heads": 0}, {"heads": 3}, {"samples": 0}, {"queries": 9}, {"channels": -1}, {"heads": -4}):
        numbers = {"samples": 1, "queries": 50, "heads": 4, "kv_heads": 2, "channels": 8} | changes
        with pytest.raises(ValueError, match=r"at least 1|multiple|not there"):
            host.executed_pairs(schedule.tiles, schedule.order, *numbers.values())
    for column, value in ((0, 5), (0, -1), (1, -3), (2, 99), (4, -1), (7, 2), (5, 10**6)):
        tiles = schedule.tiles.copy()
        tiles[1, column] = value
        with pytest.raises(ValueError, match="tiles row 1"):
            host.executed_pairs(tiles, schedule.order, 1, 50, 4, 2, 8)
    with pytest.raises(ValueError, match="there is no such tile"):
        host.executed_pairs(schedule.tiles, schedule.order + 1, 1, 50, 4, 2, 8)


def test_a_buffer_of_numpy_capacity() -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=1)
    cache: Any = BufferedCache(config, np.int8(100))  # type: ignore[arg-type]
    for _ in range(3):
        cache.update(torch.ones(1, 1, 60, 8), torch.ones(1, 1, 60, 8), 0)
    assert cache.get_seq_length() == 180
