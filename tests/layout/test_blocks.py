"""Layouts from blocks, mask functions and packed lengths: against masks written pair by pair."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from longreel import VideoLayout, block_sparse_attention
from longreel.backends import available
from longreel.layout import PlannedLayout, draw, text_steps
from longreel.layout.row_sets import TwoRanges
from longreel.testing.determinism import same_bits
from longreel.testing.host import NoHost

Function = Callable[..., torch.Tensor]


def causal(b, h, q, k):
    return k <= q


def joined_by(ids: torch.Tensor) -> Function:
    return lambda b, h, q, k: (ids[b, q] == ids[b, k]) & (ids[b, q] >= 0)


def dense(function: Function, n: int, batch: int = 1) -> np.ndarray:
    b, q, k = torch.meshgrid(torch.arange(batch), torch.arange(n), torch.arange(n), indexing="ij")
    return function(b, torch.zeros_like(b), q, k).broadcast_to(b.shape).numpy()


def some_ids(seed: int, batch: int = 1, parted: bool = False) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    out = np.full((batch, 97), -1)
    for own in out:
        at = int(rng.integers(0, 9))
        for number in range(6):
            size = int(rng.integers(1, 17))
            own[at : at + size] = 0 if parted else number
            at += size + int(rng.integers(0 if not parted else 1, 6))
    return torch.from_numpy(out)


def functions(seed: int) -> dict[str, Function]:
    ids, parted = some_ids(seed, 2), some_ids(seed, 2, parted=True)
    block, one = joined_by(ids), joined_by(parted)
    return {
        "causal": causal,
        "both ways": lambda b, h, q, k: q >= 0,
        "window": lambda b, h, q, k: (k <= q) & (k > q - 9),
        "window both ways": lambda b, h, q, k: (k - q).abs() < 9,
        "chunks": lambda b, h, q, k: (k <= q) & (k // 16 == q // 16),
        "gemma full": lambda b, h, q, k: (k <= q) | block(b, h, q, k),
        "gemma sliding": lambda b, h, q, k: ((k <= q) | block(b, h, q, k)) & (k > q - 12),
        "paligemma sliding": lambda b, h, q, k: ((k <= q) & (k > q - 12)) | block(b, h, q, k),
        "packed": block,
        "molmo": lambda b, h, q, k: (k <= q) | one(b, h, q, k),
        "prefix": lambda b, h, q, k: (k <= q) | ((k < 20) & (q < 20)),
        "sinks": lambda b, h, q, k: (k <= q) & ((k > q - 40) | (k < 3)),
    }


@pytest.mark.parametrize("name", list(functions(0)))
def test_a_mask_function_is_its_layout(name: str) -> None:
    for seed in range(2):
        function = functions(seed)[name]
        layout = VideoLayout.from_mask(function, 97, batch=2)
        np.testing.assert_array_equal(layout.dense_mask(), dense(function, 97, 2))
        # What one number at a time is asked for is the same.
        assert VideoLayout.from_mask(function, 97, batch=2, vmap=True) == layout


def test_probes_are_few() -> None:
    asked = 0

    def counted(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        nonlocal asked
        asked += q.numel()
        return (k <= q) & (k > q - 500)

    VideoLayout.from_mask(counted, 8192)
    assert asked < 8192 * 130


@pytest.mark.parametrize(
    "function",
    [
        lambda b, h, q, k: (k <= q) & (k % 3 != 1),
        lambda b, h, q, k: (k <= q) & ((k > q - 5) | (q % 7 == 2)) & (k != 11),
        lambda b, h, q, k: (k <= q) & ((k < 8) | ((k > 30) & (k < 40)) | (k > q - 4)),
    ],
)
def test_more_than_two_ranges_are_refused(function: Function) -> None:
    with pytest.raises(TwoRanges, match="row"):
        VideoLayout.from_mask(function, 97)


def test_parts_among_parts_are_refused() -> None:
    with pytest.raises(TwoRanges, match="among tokens of another"):
        VideoLayout.blocks([0, 1, 0, 1])
    for bad in ([[0.5]], np.zeros((1, 1, 1), int)):
        with pytest.raises(ValueError, match="ids is an integer array"):
            VideoLayout.blocks(bad)


def test_decoding_goes_on_under_window_and_chunk() -> None:
    whole = VideoLayout.blocks([-1, 0, 0, 0, -1, -1, -1, -1, -1, -1], window=4, chunk=6)
    assert (VideoLayout.blocks([-1, 0, 0, 0, -1], window=4, chunk=6).extend(5).dense_mask() == whole.dense_mask()).all()
    with pytest.raises(ValueError, match="appended rows"):
        VideoLayout.blocks([0, 0], causal=False).extend(1)


@pytest.mark.parametrize("causal_rows", [False, True])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("tile", [(16, 64), (5, 7)])
def test_cu_seqlens_without_the_host(causal_rows: bool, window: int | None, tile: tuple[int, int]) -> None:
    for ends in ([0, 7, 7, 50, 66], [0, 70], [0, 16, 32, 48, 64, 70], [0]):
        rows = 70
        made = ends if ends[-1] == rows else [*ends, rows]
        ids = np.repeat(np.arange(len(made) - 1), np.diff(made))
        ids[ends[-1] :] = -1
        within = np.abs(np.subtract.outer(np.arange(rows), np.arange(rows))) < (window or rows)
        expected = (ids[:, None] == ids) & (ids >= 0) & within
        expected = expected & np.tri(rows, dtype=bool) if causal_rows else expected
        with NoHost():
            plan = VideoLayout.from_cu_seqlens(
                torch.tensor(ends, dtype=torch.int32), rows, causal=causal_rows, window=window, tile=tile
            )
        agrees(plan, expected)


def test_a_plan_moved_later_is_of_the_lengths_as_they_were() -> None:
    lengths = torch.tensor([0, 3, 8], dtype=torch.int32)
    plan = VideoLayout.from_cu_seqlens(lengths, 8)
    lengths[1] = 5
    assert torch.equal(plan.layout.to("cpu").bounds, plan.bounds)


def agrees(plan: PlannedLayout, expected: np.ndarray) -> None:
    """Output and gradients are those of the mask, on every backend that knows such a plan."""
    rows, mask = len(expected), torch.from_numpy(expected)
    generator = torch.Generator().manual_seed(0)
    q, k, v, upstream = (torch.randn(2, rows, 2, 12, generator=generator, dtype=torch.float64) for _ in range(4))

    def results(function: Callable, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [t.to(dtype).requires_grad_() for t in (q, k, v)]
        out = function(*leaves)
        return [out, *torch.autograd.grad((out.double() * upstream).sum(), leaves)]

    def truth(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * 12**-0.5
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num()
        return torch.einsum("bhqk,bkhd->bqhd", weights, v)

    wanted = results(truth, torch.float64)
    for backend in ("cpu", "reference"):
        got = results(lambda *t, on=backend: block_sparse_attention(*t, plan, backend=on), torch.float32)
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a.double(), b, atol=2e-5, rtol=2e-5)
    with pytest.raises(Exception, match="planned on the device"):
        block_sparse_attention(*(t.bfloat16() for t in (q, k, v)), plan, backend="flash")


def test_both_masks_of_a_long_prompt_take_less_than_a_mebibyte() -> None:
    """Gemma 3's, of 32,768 tokens in pictures and words: what is allocated for them and stays."""
    ids = np.full(32768, -1)
    for number in range(len(ids) // 270):
        ids[7 + 270 * number :][:256] = number
    VideoLayout.blocks(ids[:100]).to("cpu")
    tracemalloc.start()
    plans = [VideoLayout.blocks(ids, window=window).to("cpu") for window in (None, 1024)]
    # Python's objects and numpy's arrays; and tensors: those of tables share the planner's arrays, others are not traced.
    traced = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, "*_host_calls.py")])
    tracemalloc.stop()
    cached = sum(trace.size for trace in traced.traces)
    cached += sum(t.nbytes for plan in plans for t in vars(plan).values() if isinstance(t, torch.Tensor))
    assert cached < 2**20
    assert all(plan.bounds.shape == (1, 32768, 2) for plan in plans)


def test_a_plan_of_two_bounds_a_row() -> None:
    """The same results as of four, on every backend, forward and backward; a step behind it too."""
    layout = VideoLayout.batch([VideoLayout.blocks(some_ids(2).tolist(), window=20), VideoLayout.blocks([0] * 60)])
    plan = layout.to("cpu")
    assert plan.bounds.shape == (2, 97, 2)
    four = replace(plan, bounds=torch.nn.functional.pad(plan.bounds, (0, 2)))
    q, k, v = (torch.randn(2, 97, heads, 24, requires_grad=True) for heads in (4, 2, 2))
    for backend in available("block_sparse_attention", "cpu", torch.float32):
        found = []
        for own in (plan, four):
            out, lse = block_sparse_attention(q, k, v, own, backend=backend, return_lse=True)
            found.append((out, lse, *torch.autograd.grad(out.square().sum(), (q, k, v))))
        for a, b in zip(*found, strict=True):
            assert same_bits(a, b), backend
    layout = VideoLayout.blocks(some_ids(2).tolist())
    with torch.no_grad():
        steps = text_steps(layout, 2, "cpu")
        assert steps is not None
        assert steps.base.bounds.shape[2] == 2
        more = [torch.cat([t, torch.randn(2, 9, 2, 24)], 1) for t in (k, v)]
        expected = block_sparse_attention(q[:, :2], *more, layout.extend(9).rows(104, 106))
        assert same_bits(block_sparse_attention(q[:, :2], *more, steps.at(104)), expected)
    apart = VideoLayout.blocks([0, 0, -1, -1, 0, 0]).to("cpu")
    assert apart.bounds.shape[2] == 4
    with pytest.raises(Exception, match="4 columns, or 2 without global keys"):
        block_sparse_attention(
            q[:, :6], k[:, :6], v[:, :6], replace(apart, bounds=apart.bounds[..., :2]), backend="cpu"
        )


@pytest.mark.parametrize("head", [72, 80, 88, 96, 128, 160, 192, 256, 320, 512])
def test_heads(head: int) -> None:
    layout = VideoLayout.blocks(some_ids(1).tolist(), window=30)
    mask = torch.from_numpy(layout.dense_mask())[:, None]
    q, k, v = (torch.randn(1, 97, 2, head, requires_grad=True) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), mask)
    upstream = torch.randn(1, 97, 2, head)
    wanted = torch.autograd.grad((expected.transpose(1, 2) * upstream).sum(), (q, k, v))
    for backend in ("cpu", "reference"):
        out = block_sparse_attention(q, k, v, layout, backend=backend)
        torch.testing.assert_close(out, expected.transpose(1, 2), atol=1e-5, rtol=1e-5)
        got = torch.autograd.grad((out * upstream).sum(), (q, k, v))
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


def test_a_mask_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    ids = torch.tensor([[-1, 0, 0, -1]])
    block = joined_by(ids)
    expected = "  vvvv\nv █\nv ███\nv ███\nv ████\n  4 rows x 4 keys\n".replace("v", "t")
    draw(lambda b, h, q, k: (k <= q) | block(b, h, q, k), 4)
    assert capsys.readouterr().out == expected
    draw(VideoLayout.blocks(ids))
    assert capsys.readouterr().out == expected.replace("tttt", "tvvt").replace("t ███\n", "v ███\n")
    draw(torch.tril(torch.ones(3, 3, dtype=torch.bool)))
    assert capsys.readouterr().out == "█\n██\n███\n"
