"""Random layouts of every constructor against the rules written token by token (LONGREEL_FUZZ: how many)."""

import os
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from token_rules import TEXT, VST, Sample, random_batch

from longreel import block_sparse_attention
from longreel.backends import available
from longreel.bench.check import ErrorSum, judge
from longreel.layout import (
    VideoLayout,
    cached,
    executed_pairs,
    flashmask_row_indices,
    flex_block_mask,
    flex_mask_mod,
    global_index,
    ignored_labels,
    kinds,
    plain_planner,
    positions,
    query_positions,
    query_rows,
    row_bounds,
    slots,
    visible_pairs,
)
from longreel.layout._ranges import ranges
from longreel.layout.dense import visible
from longreel.ops.flash.attend import refusal as flash_refusal
from longreel.testing.budget import PEER_BUDGETS, Errors, allowed, check_within, errors

COUNT = int(os.environ.get("LONGREEL_FUZZ", "500"))
GROUPS = 10
# by quantity: out, lse, grad_q ...
Results = dict[str, torch.Tensor]
Sums = dict[str, ErrorSum]


class Tally:
    """Errors of attention over many layouts, by backend and dtype. Thousands of small tensors hold some whose rounding passes
    1.5 times PyTorch's by chance: each alone has thrice the budget, all together have the budget."""

    def __init__(self) -> None:
        # (backend, dtype) -> ours and PyTorch's errors, by quantity
        self._sums: dict[tuple[str, torch.dtype], tuple[Sums, Sums]] = {}

    def add(self, backend: str, dtype: torch.dtype, got: Results, plain: Results, truth: Results) -> None:
        gradients = [t.abs().max().item() for name, t in truth.items() if name.startswith("grad") and t.numel()]
        ours, theirs = self._sums.setdefault((backend, dtype), (defaultdict(ErrorSum), defaultdict(ErrorSum)))
        for name, value in truth.items():
            # A small gradient is small beside the largest; an LSE is a logarithm, and 0 is as good as any.
            unit = max(gradients, default=0.0) if name.startswith("grad") else float(name == "lse")
            limit = allowed(errors(plain[name], value, unit), dtype)
            single = Errors(PEER_BUDGETS * limit.max_rel, PEER_BUDGETS * limit.rms_rel)
            check_within(f"{backend} {name}", got[name], value, single, unit)
            finite = value.isfinite()
            for sums, result in ((ours, got[name]), (theirs, plain[name])):
                sums[name].add(result.where(finite, 0), value.where(finite, 0))

    def check(self) -> None:
        for (backend, dtype), (ours, theirs) in self._sums.items():
            why = judge(ours, theirs, dtype).why
            assert why is None, f"{backend} {dtype}: {why}"


@pytest.mark.parametrize("group", range(GROUPS))
def test_layouts_equal_the_rules(group: int) -> None:
    tally = Tally()
    for seed in range(group, COUNT, GROUPS):
        rng = np.random.default_rng(seed)
        layout, samples = random_batch(rng)
        try:
            check(layout, samples, rng, tally)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {layout}") from error
    tally.check()


def check(layout: VideoLayout, samples: list[Sample], rng: np.random.Generator, tally: Tally) -> None:
    expected = np.stack([sample.mask() for sample in samples])
    check_mask(layout, expected)
    check_rows(layout, samples)
    check_schedule(layout, expected, rng)
    check_flashmask(layout, expected)
    check_attention(layout, expected, rng, tally)
    # The slow ones on a part of the layouts.
    if rng.integers(4) == 0:
        check_plain_planner(layout, tuple(rng.integers(1, 12, 2).tolist()))
    if rng.integers(4) == 0:
        check_flex(layout, expected)
    check_decoding(layout, expected, rng, tally)
    if any(segment.kind == "vst" for documents in layout.samples for d in documents for segment in d.segments):
        check_grouped(layout, expected, rng, tally)


def check_mask(layout: VideoLayout, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(layout.dense_mask(), expected)
    local, global_ = visible(layout)
    # Each visible key is met once, in K or in G.
    assert local.sum() + global_.sum() == expected.sum() == visible_pairs(layout)
    index = global_index(layout)
    for keys in index:
        real = keys[keys >= 0]
        assert (np.diff(real) > 0).all()
        assert (keys[len(real) :] == -1).all()


def check_rows(layout: VideoLayout, samples: list[Sample]) -> None:
    np.testing.assert_array_equal(kinds(layout), [sample.kinds() for sample in samples])
    np.testing.assert_array_equal(positions(layout), [sample.positions() for sample in samples])
    np.testing.assert_array_equal(query_rows(layout), np.tile(np.arange(layout.length), (len(samples), 1)))
    # The first row that is not padding; a sample of padding alone has none.
    assert layout.start == tuple(next((i for i, kind in enumerate(s.kinds()) if kind), layout.length) for s in samples)
    if not grows(layout):
        with pytest.raises(ValueError, match="appended rows"):
            cached(layout)
        return
    assert cached(layout) == [len(sample.cached()) for sample in samples]
    for own, sample in zip(slots(layout), samples, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(own >= 0), sample.cached())
        np.testing.assert_array_equal(own[own >= 0], np.arange(len(sample.cached())))
    assert not (ignored_labels(layout) & (kinds(layout) == TEXT))[:, -1:].any() or layout.length == 0


def grows(layout: VideoLayout) -> bool:
    return all(document.rule.grows for documents in layout.samples for document in documents)


def painted(layout: VideoLayout, range: np.ndarray, row: int, row_end: int, step: int, out: np.ndarray) -> None:
    """Counts every pair of the range's keys and rows once; checks that a range is whole steps where it says full."""
    begin, full_begin, full_end, end = range.tolist()
    assert begin <= full_begin <= full_end <= end
    assert (full_begin - begin) % step == 0
    assert (full_end - full_begin) % step == 0
    out[row:row_end, begin:end] += 1
    out[row:row_end, full_begin:full_end] += 2


def check_schedule(layout: VideoLayout, expected: np.ndarray, rng: np.random.Generator) -> None:
    tile = (int(rng.integers(1, 40)), int(rng.integers(1, 24)))
    schedule, by_kind = layout.plan(tile), visible(layout)
    shape = (layout.batch_size, layout.queries)
    local, global_ = (np.zeros((*shape, mask.shape[2]), int) for mask in by_kind)
    covered = np.zeros(shape, int)
    for sample, row, row_end, _, *keys in schedule.tiles.tolist():
        assert 0 < row_end - row <= tile[0]
        covered[sample, row:row_end] += 1
        painted(layout, np.array(keys[:4]), row, row_end, tile[1], local[sample])
        painted(layout, np.array(keys[4:]), row, row_end, tile[1], global_[sample])
    assert (covered == 1).all()
    for counts, mask in ((local, by_kind[0]), (global_, by_kind[1])):
        assert ((counts > 0) >= mask).all(), "a visible pair is in no tile"
        assert (mask[counts == 3]).all(), "a full tile holds a hidden pair"
    assert sorted(schedule.order.tolist()) == list(range(len(schedule.tiles)))
    exact = executed_pairs(schedule, (1, 1))
    assert exact == (local > 0).sum() + (global_ > 0).sum()
    assert expected.sum() <= exact <= executed_pairs(schedule)
    check_key_side(layout, schedule.kv_blocks, schedule.query_ranges, tile, by_kind)
    assert sorted(schedule.kv_order.tolist()) == list(range(len(schedule.kv_blocks)))
    np.testing.assert_array_equal(schedule.bounds, np.stack(row_bounds(layout), -1))


def check_key_side(layout: VideoLayout, blocks: np.ndarray, ranges: np.ndarray, tile: tuple[int, int], by_kind) -> None:
    local, global_ = (np.zeros(mask.shape, int) for mask in by_kind)
    keys = np.zeros((layout.batch_size, layout.keys), int)
    for sample, is_global, begin, end, first, last in blocks.tolist():
        assert 0 < end - begin <= tile[1]
        out = (global_ if is_global else local)[sample].T
        if not is_global:
            keys[sample, begin:end] += 1
        for range in ranges[first:last]:
            painted(layout, range, begin, end, tile[0], out)
    assert (keys == 1).all()
    for counts, mask in ((local, by_kind[0]), (global_, by_kind[1])):
        assert np.isin(counts, (0, 1, 3)).all(), "a pair is summed twice"
        assert ((counts > 0) >= mask).all(), "a visible pair is in no KV block"
        assert (mask[counts == 3]).all(), "a full range holds a hidden pair"


def check_plain_planner(layout: VideoLayout, tile: tuple[int, int]) -> None:
    """The compiled planner and the plain one agree number for number, also where blocks of G are split."""
    from longreel import _native

    table = ranges(layout).table()
    counts = (global_index(layout) >= 0).sum(1).tolist()
    local = [layout.keys] * layout.batch_size
    for compiled, plain in zip(
        _native.HOST.query_tiles(table, *tile), plain_planner.query_tiles(table, *tile), strict=True
    ):
        np.testing.assert_array_equal(compiled, plain)
    for block_rows in (5, 1000):
        arguments = (table, local, counts, *tile, block_rows)
        for compiled, plain in zip(
            _native.HOST.kv_blocks(*arguments), plain_planner.kv_blocks(*arguments), strict=True
        ):
            np.testing.assert_array_equal(compiled, plain)
    np.testing.assert_array_equal(_native.HOST.row_bounds(table), plain_planner.row_bounds(table))


def check_flex(layout: VideoLayout, expected: np.ndarray) -> None:
    mask_mod = flex_mask_mod(layout)
    b, q, k = torch.meshgrid(*(torch.arange(n) for n in expected.shape), indexing="ij")
    np.testing.assert_array_equal(mask_mod(b, torch.zeros_like(b), q, k).numpy(), expected)
    size = 8
    blocks = flex_block_mask(layout, block_size=size).to_dense()[:, 0].numpy().astype(bool)
    padded = np.zeros((len(expected), *(-(-n // size) * size for n in expected.shape[1:])), bool)
    padded[:, : expected.shape[1], : expected.shape[2]] = expected
    tiles = padded.reshape(len(expected), padded.shape[1] // size, size, padded.shape[2] // size, size)
    np.testing.assert_array_equal(blocks, tiles.any((2, 4)))
    check_gathered_flex(layout, expected, size)


def check_gathered_flex(layout: VideoLayout, expected: np.ndarray, size: int) -> None:
    """Over [keys; global keys]: folded back it is the mask, no key counts twice, and blocks are those of this mask."""
    mask_mod, index = flex_mask_mod(layout, gathered=True), global_index(layout)
    samples, queries, keys = expected.shape
    grid = torch.meshgrid(
        torch.arange(samples), torch.arange(queries), torch.arange(keys + index.shape[1]), indexing="ij"
    )
    mask = mask_mod(grid[0], torch.zeros_like(grid[0]), *grid[1:]).numpy()
    folded = mask[:, :, :keys].astype(int)
    for b, own in enumerate(index):
        there = own >= 0
        assert not mask[b, :, keys:][:, ~there].any()
        folded[b][:, own[there]] += mask[b, :, keys:][:, there]
    np.testing.assert_array_equal(folded, expected)
    some = flex_block_mask(layout, block_size=size, gathered=True)
    blocks = some.to_dense()[:, 0].numpy().astype(bool)
    padded = np.zeros((samples, *(-(-n // size) * size for n in mask.shape[1:])), bool)
    padded[:, :queries, : mask.shape[2]] = mask
    tiles = padded.reshape(samples, padded.shape[1] // size, size, padded.shape[2] // size, size)
    np.testing.assert_array_equal(blocks, tiles.any((2, 4)))
    np.testing.assert_array_equal(some.full_kv_num_blocks[:, 0].numpy(), tiles.all((2, 4)).sum(-1))


def check_flashmask(layout: VideoLayout, expected: np.ndarray) -> None:
    if any(document.rule.attention == "ranges" for documents in layout.samples for document in documents):
        with pytest.raises(ValueError, match="causal layouts"):
            flashmask_row_indices(layout)
        return
    if below_diagonal_holes(expected) > 1:
        with pytest.raises(ValueError, match="two intervals"):
            flashmask_row_indices(layout)
        return
    hidden = flashmask_row_indices(layout)[:, 0]
    row = np.arange(layout.length)[None, :, None]
    below = row >= np.arange(layout.length)
    mask = below & ~((row >= hidden[:, None, :, 0]) & (row < hidden[:, None, :, 1]))
    np.testing.assert_array_equal(mask, expected)


def below_diagonal_holes(expected: np.ndarray) -> int:
    """The most intervals of rows from which one key is hidden."""
    hidden = ~expected & np.tri(expected.shape[1], dtype=bool)
    starts = hidden & ~np.pad(hidden[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return int(starts.sum(1).max(initial=0))


def check_attention(layout: VideoLayout, expected: np.ndarray, rng: np.random.Generator, tally: Tally) -> None:
    """Output, LSE and gradients of every backend here are those of softmax under the oracle's mask, in float64."""
    dtype, global_ = torch.bfloat16 if rng.integers(8) == 0 else torch.float32, bool(rng.integers(3) == 0)
    kv_heads, group, dim = (int(rng.integers(1, n)) for n in (3, 4, 20))
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 30)))

    def normal(rows: int, heads: int) -> torch.Tensor:
        return torch.randn(layout.batch_size, rows, heads, dim, generator=generator).to(dtype)

    inputs = {name: normal(layout.keys, kv_heads) for name in ("k", "v")} | {
        "q": normal(layout.queries, kv_heads * group)
    }
    mask = torch.from_numpy(expected)
    if global_:
        inputs |= {name: normal(global_index(layout).shape[1], kv_heads) for name in ("global_k", "global_v")}
        mask = torch.cat([torch.from_numpy(part) for part in visible(layout)], -1)
    upstream = torch.randn(*inputs["q"].shape, generator=generator), torch.randn(mask.shape[:2], generator=generator)

    def results(function: Callable[..., tuple[torch.Tensor, torch.Tensor]], as_dtype: torch.dtype) -> Results:
        leaves = {name: t.to(as_dtype).requires_grad_() for name, t in inputs.items()}
        out, lse = function(**leaves)
        # rows that see nothing have lse -inf, and no gradient to pass
        loss = (out.double() * upstream[0]).sum() + (lse * upstream[1][:, None]).where(lse.isfinite(), 0).sum()
        grads = torch.autograd.grad(loss, list(leaves.values()))
        return {"out": out, "lse": lse} | {f"grad_{name}": g for name, g in zip(leaves, grads, strict=True)}

    dense = partial(dense_attention, mask)
    truth, baseline = results(dense, torch.float64), results(dense, dtype)
    assert not any(t.isnan().any() for t in truth.values()), "the oracle itself is no number"
    for backend in available("block_sparse_attention", "cpu", dtype):
        if backend == "flash" and flash_refusal(layout.to("cpu"), 1.0) is not None:
            continue
        got = results(partial(block_sparse_attention, layout=layout, return_lse=True, backend=backend), dtype)
        tally.add(backend, dtype, got, baseline, truth)


def dense_attention(mask: torch.Tensor, *, q: torch.Tensor, **keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax under a mask [B, Sq, Sk (+ G)], written a second time: over the keys of K and those given of G behind them."""
    k, v = (torch.cat([t for name, t in keys.items() if name in (end, f"global_{end}")], 1) for end in "kv")
    kv_heads = k.shape[2]
    scores = torch.einsum("bqhgd,bkhd->bhgqk", q.unflatten(2, (kv_heads, -1)), k).flatten(1, 2) * q.shape[3] ** -0.5
    exp = scores.exp() * mask[:, None]
    total = exp.sum(-1, keepdim=True)
    # Of a row that sees nothing 1, so that its gradient is 0 and no NaN.
    some = total.where(total > 0, torch.ones_like(total))
    weights = (exp / some).unflatten(1, (kv_heads, -1))
    out = torch.einsum("bhgqk,bkhd->bqhgd", weights, v).flatten(2, 3)
    return out, some.log().where(total > 0, -torch.inf)[..., 0]


def check_decoding(layout: VideoLayout, expected: np.ndarray, rng: np.random.Generator, tally: Tally) -> None:
    a, b = sorted(rng.integers(0, layout.length + 1, 2).tolist())
    step = layout.rows(a, b)
    assert (step.queries, step.keys) == (b - a, b)
    np.testing.assert_array_equal(step.dense_mask(), expected[:, a:b, :b])
    assert visible_pairs(step) == expected[:, a:b, :b].sum()
    if b > a:
        check_schedule(step, expected[:, a:b, :b], rng)
        check_attention(step, expected[:, a:b, :b], rng, tally)
    np.testing.assert_array_equal(query_positions(step), positions(layout)[:, a:b])
    if grows(layout) and not any(documents[-1].padding for documents in layout.samples):
        grown = layout.extend(3).dense_mask()
        np.testing.assert_array_equal(grown[:, : layout.length, : layout.length], expected)
        assert grown[:, range(-3, 0), range(-3, 0)].all()


def check_grouped(layout: VideoLayout, expected: np.ndarray, rng: np.random.Generator, tally: Tally) -> None:
    if any(document.rule.attention == "ranges" for documents in layout.samples for document in documents):
        with pytest.raises(ValueError, match="causal documents alone"):
            layout.grouped()
        return
    grouped, own = layout.grouped(), kinds(layout)
    rows = query_rows(grouped)
    for b in range(layout.batch_size):
        order = np.concatenate([np.flatnonzero(own[b] != VST), np.flatnonzero(own[b] == VST)])
        np.testing.assert_array_equal(rows[b], order)
        np.testing.assert_array_equal(grouped.dense_mask()[b], expected[b][order])
    assert visible_pairs(grouped) == expected.sum()
    mask = np.take_along_axis(expected, rows[..., None], 1)
    check_schedule(grouped, mask, rng)
    check_attention(grouped, mask, rng, tally)
    if rng.integers(4) == 0:
        check_plain_planner(grouped, tuple(rng.integers(1, 12, 2).tolist()))
