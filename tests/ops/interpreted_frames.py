"""The kernels over frames in Triton's interpreter: values and gradients of more cases, orders of work, 64-bit offsets.

Run with TRITON_INTERPRET=1, as `interpreted_kernels.py` is.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from longreel.triton_kernels.compress_frames import compress_frames, compress_frames_backward
from longreel.triton_kernels.context_attention import context_attention, context_attention_backward
from longreel.triton_kernels.frames import backward, forward, launch
from longreel.triton_kernels.frames.config import frame_config
from longreel.triton_kernels.frames.scheduler import FrameSchedule
from torch import Tensor

from longreel.ops.registry import OPS
from longreel.testing import far, poison
from longreel.testing.budget import FLOORS, allowed, check_within, errors
from longreel.testing.cases.case import Case, Inputs
from longreel.testing.cases.frames import frames_case
from longreel.testing.determinism import same_bits
from longreel.testing.offsets import hour, last_programs
from longreel.testing.runner import Run, Variant, low_level, prepare, run, yardstick

WEIGHTS: dict[str, Any] = {"return_weights": True}
SMALL = {"rows": 3, "width": 20, **WEIGHTS}
MORE = {
    "context_attention": [
        frames_case("577", rows=5, tokens=577, width=33, frames=5, masked=True, **WEIGHTS),
        frames_case("packed-odd", lead=(17, 1), rows=2, width=19, packed=(70, 0, 1, 129), frames=5, **WEIGHTS),
        frames_case("more-rows-than-a-tile", rows=130, tokens=9, width=40, masked=True, **WEIGHTS),
    ],
    "compress_frames": [
        frames_case("577-overlapping", tokens=577, output_size=5, num_prefix_tokens=1, **SMALL),
        frames_case("prompts-finer", lead=(3, 1), tokens=7, grid=(1, 7), output_size=(2, 9), masked=True, **SMALL),
    ],
}
CASES = [(op, case) for op in MORE for case in MORE[op]]


def kernel(op: str, inputs: Inputs, through: tuple[str, ...] | None = None, grad: tuple[str, ...] | None = None) -> Run:
    wanted = OPS[op].differentiable if grad is None else grad
    return run(op, low_level(Variant(op, "triton", "cpu")), inputs, wanted, through)


def check(op: str, case: Case, dtype: torch.dtype, through: tuple[str, ...] | None = None) -> None:
    inputs = prepare(case.inputs(), dtype)
    with poison():
        got = kernel(op, inputs, through)
    yardstick(op, inputs, dtype, OPS[op].differentiable, through).check(got.everything)


@pytest.mark.parametrize(("op", "case"), [pytest.param(op, case, id=f"{op}-{case.name}") for op, case in CASES])
def test_float32(op: str, case: Case) -> None:
    check(op, case, torch.float32)


@pytest.mark.parametrize("op", list(MORE))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_queries_that_do_not_count_may_hold_anything(op: str, dtype: torch.dtype) -> None:
    pooling = {} if op == "context_attention" else {"mode": "mean"}
    inputs = prepare(frames_case("masked", lead=(2, -1), masked=True, **pooling, **WEIGHTS).inputs(), dtype)
    query, mask = inputs["query"], inputs["query_mask"][..., None]
    clean = kernel(op, {**inputs, "query": query.masked_fill(~mask, 0.0)}).everything
    with poison():
        got = kernel(op, {**inputs, "query": query.masked_fill(~mask, torch.nan)}).everything
    assert all(same_bits(got[name], value) for name, value in clean.items())


POOLED = frames_case("pooled", tokens=10, grid=(3, 3), output_size=2, num_prefix_tokens=1, frames=5, **SMALL)


@pytest.mark.parametrize("through", [("context",), ("weights",), ("content",), ("content", "weights")], ids="+".join)
def test_gradients_of_some_outputs(through: tuple[str, ...]) -> None:
    check("compress_frames", POOLED, torch.float32, through)


def test_gradients_only_where_asked() -> None:
    inputs = prepare(POOLED.inputs(), torch.float32)
    both = kernel("compress_frames", inputs).grads
    for name, grad in both.items():
        alone = kernel("compress_frames", inputs, grad=(name,)).grads
        assert list(alone) == [name]
        assert same_bits(alone[name], grad), name


def test_small_slopes_in_float16() -> None:
    """Slopes below what fp16 resolves, and queries with a channel that makes a gradient of them which it does resolve."""
    case = frames_case("small", rows=128, tokens=200, width=24, frames=2, scale=1.0, sharp=0.1)
    inputs = prepare(case.inputs(), torch.float16)
    inputs["query"][:, 0] = 64
    inputs["patches"][..., 0] = 0
    *args, scale = OPS["context_attention"].lower(**inputs)
    leaf = args[1].double().requires_grad_()
    _, truth, _ = OPS["context_attention"].reference(args[0].double(), leaf, None, None, scale)
    grad = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)) / 64
    (expected,) = torch.autograd.grad(truth, leaf, grad.double())
    _, _, lse = context_attention(*args, scale)
    _, got = context_attention_backward(None, grad, *args, lse, scale, 0, 1)
    check_within("grad_patches", got[..., 0], expected[..., 0], FLOORS[torch.float16])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_bad_token_stays_in_its_cell(dtype: torch.dtype, value: float) -> None:
    """Sums are products with columns of zeros, which would make a NaN of it in every cell; an infinite score of no weight leaves
    the other channels of the context."""
    inputs = prepare(frames_case("bad", tokens=16, frames=3, output_size=2, **SMALL).inputs(), dtype)
    inputs["query"][..., 3] = -1
    inputs["patches"][1, 10, 3] = value
    query, patches, *rest = OPS["compress_frames"].lower(**inputs)
    got = compress_frames(query, patches, *rest)
    truth = OPS["compress_frames"].reference(query.double(), patches.double(), *rest)
    plain = OPS["compress_frames"].reference(query, patches, *rest, same_dtype=True)
    for name, ours, right, beside in zip(("context", "content"), got, truth, plain, strict=False):
        assert not right.isfinite().all(), name
        assert right[:, 0].isfinite().all(), name
        none = right.isnan()
        assert torch.equal(ours.isnan(), none), name
        ours, right, beside = (one.masked_fill(none, 0) for one in (ours, right, beside))
        check_within(name, ours, right, allowed(errors(beside, right), dtype))


ORDERED = {
    "frames": ("compress_frames", POOLED),
    "prompts": ("context_attention", frames_case("ordered", lead=(2, -1), tokens=40, frames=5, **SMALL)),
    "packed": ("context_attention", frames_case("ordered", packed=(40, 0, 17, 3), frames=7, **SMALL)),
}


@contextmanager
def configured(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Iterator[None]:
    def changed(*args: Any, **kwargs: Any) -> Any:
        config = frame_config(*args, **kwargs)
        return dataclasses.replace(config, **changes | ({} if kwargs.get("shared") else {"group": 1}))

    with monkeypatch.context() as patch:
        patch.setattr(forward, "frame_config", changed)
        patch.setattr(backward, "frame_config", changed)
        yield


def any_order(seed: int) -> Callable[..., FrameSchedule]:
    """Every piece of a pass's work once, in a random order, in one launch."""
    generator = torch.Generator().manual_seed(seed)

    def order(config: Any, frames: int, tokens: int, slices: int, cu_seqlens: Tensor | None) -> FrameSchedule:
        lengths = [tokens] * frames if cu_seqlens is None else cu_seqlens.diff().tolist()
        items = [(f, t) for f, length in enumerate(lengths) for t in range(config.parts(length))]
        items += [(g, -1 - k) for g in range(-(-frames // config.group)) for k in range(slices)]
        table = torch.tensor(items, dtype=torch.int32)[torch.randperm(len(items), generator=generator)]
        return FrameSchedule(table, 0, ((0, len(items)),))

    return order


@pytest.mark.parametrize(("op", "case"), ORDERED.values(), ids=ORDERED)
def test_the_same_bits_in_any_order_of_programs(op: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices that come before their frame's scores, after them and in between."""
    inputs = prepare(case.inputs(), torch.float32)
    tiles = {"token_tile": 16, "slice": 16, "slice_rows": 16, "group": 2}
    with configured(monkeypatch, **tiles):
        first = kernel(op, inputs).everything
    yardstick(op, inputs, torch.float32, OPS[op].differentiable).check(first)
    for lag in (0, 2):
        with configured(monkeypatch, lag=lag, **tiles):
            again = kernel(op, inputs).everything
        assert all(same_bits(again[name], value) for name, value in first.items()), f"lag {lag}"
    for seed in range(2):
        for room in (forward, backward):
            monkeypatch.setattr(room, "schedule", any_order(seed))
        with configured(monkeypatch, **tiles):
            again = kernel(op, inputs).everything
        assert all(same_bits(again[name], value) for name, value in first.items()), f"order {seed}"


def test_several_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace of two frames: everything but the sum over all frames comes out in the same bits."""
    for op, case in (ORDERED["frames"], ORDERED["prompts"]):
        inputs = prepare(case.inputs(), torch.float32)
        first = kernel(op, inputs).everything
        monkeypatch.setattr(launch, "WORKSPACE", 2 * inputs["patches"].shape[1] * 4 * 14)
        again = kernel(op, inputs).everything
        monkeypatch.undo()
        yardstick(op, inputs, torch.float32, OPS[op].differentiable).check(again)
        assert all(same_bits(again[name], value) for name, value in first.items() if name != "grad_query")


BEYOND = {
    "frames": ("compress_frames", frames_case("far", tokens=9, output_size=2, **SMALL)),
    "prompts": ("context_attention", frames_case("far", lead=(2, -1), tokens=9, **SMALL)),
    "packed": ("context_attention", frames_case("far", packed=(40,), frames=1, **SMALL)),
}


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("name", ["query", "patches"])
@pytest.mark.parametrize(("op", "case"), BEYOND.values(), ids=BEYOND)
def test_strides_beyond_32_bits(op: str, case: Case, name: str, dim: int) -> None:
    inputs = prepare(case.inputs(), torch.float32)
    if dim < inputs[name].dim() and inputs[name].shape[dim] > 1:
        got = kernel(op, {**inputs, name: far(inputs[name], dim)}).everything
        assert all(same_bits(got[key], value) for key, value in kernel(op, inputs).everything.items())


FRAMES, LAST = 6000, 2


def test_an_hour_of_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 2^31 patch elements in, and as many of their gradient: the last frame, by the last programs of a launch."""
    tower = {"rows": 2, "tokens": 257, "width": 1408, "output_size": 4, "num_prefix_tokens": 1}
    inputs = prepare(frames_case("hour", lead=(-1,), frames=LAST, **tower).inputs(), torch.float16)
    query, patches, mask, scale, *geometry = OPS["compress_frames"].lower(**inputs)

    def last_frame(query: Tensor, patches: Tensor) -> tuple[Tensor, ...]:
        context, content, weights, lse = compress_frames(query, patches, mask, scale, *geometry)
        given = (torch.ones_like(context), torch.ones_like(content), torch.ones_like(weights))
        grads = compress_frames_backward(*given, query, patches, mask, lse, scale, *geometry, 1, 1)
        return context[0, -1], content[-1], weights[0, -1], grads[0][0, -1], grads[1][-1]

    with configured(monkeypatch, lag=0):
        expected = last_frame(query, patches)
        every = hour(patches, FRAMES)
        assert every.numel() > 2**31
        own = torch.cat((query.new_zeros(1, FRAMES - LAST, *query.shape[2:]), query), 1)
        with last_programs(15):
            got = last_frame(own, every)
    assert all(same_bits(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("given", [[0, 90, 4, 5], [-7, 3, 2, 60], [3, 3, 3, 3]])
def test_borders_outside_the_patches_are_cut_off(given: list[int]) -> None:
    """The device cannot raise: bad cu_seqlens read and write nothing beyond the patches."""
    total, cu_seqlens = 10, torch.tensor(given)
    padded = torch.full((3 * total, 16), torch.nan)
    padded[total : 2 * total] = 1.0
    query, patches = torch.ones(1, 1, 2, 16), padded[total : 2 * total]
    with poison():
        context, weights, lse = context_attention(query, patches, None, cu_seqlens, 1.0)
        grad, _ = context_attention_backward(
            torch.ones_like(context), None, query, patches, None, cu_seqlens, lse, 1.0, 1, 0
        )
    assert torch.minimum(context.abs(), (context - 1).abs()).max() < 1e-6
    assert weights.shape == (1, total)
    assert grad.isfinite().all()


def test_more_than_2_31_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed frame whose scores end beyond 2^31, and one of 3 tokens behind it: what follows from the latter."""
    rows, width, tokens = 1500, 3, 3
    before = 2**31 // rows + 1
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 1, rows // 3, width, generator=generator)
    patches = torch.zeros(before + tokens, width)
    patches[before:] = torch.randn(tokens, width, generator=generator)

    def last_frame(patches: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, ...]:
        context, weights, lse = context_attention(query, patches, None, cu_seqlens, 1.0)
        given = (torch.ones_like(context), torch.ones_like(weights))
        _, grad = context_attention_backward(*given, query, patches, None, cu_seqlens, lse, 1.0, 0, 1)
        return context[:, -1], weights[:, -tokens:], lse[:, -1], grad[-tokens:]

    with configured(monkeypatch, lag=0):
        expected = last_frame(patches[before:], torch.tensor([0, tokens]))
        with last_programs(4):
            got = last_frame(patches, torch.tensor([0, before, before + tokens]))
    assert all(same_bits(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize(("groups", "size"), [(3, 2**30 + 5), (1, 2**31 + 5)])
def test_more_than_2_31_sums(groups: int, size: int) -> None:
    sums = torch.empty(groups, size)
    sums[:, -2:] = torch.arange(2.0 * groups).view(groups, 2)
    out = torch.empty(size)
    with last_programs(1):
        backward.sum_groups_kernel[(-(-size // 256),)](sums, out, groups, size, BLOCK=256)
    assert torch.equal(out[-2:], sums[:, -2:].sum(0))


def test_more_than_2_31_elements_of_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed frames, of which only the last group has tokens: its sums lie beyond 2^31."""
    rows, width, group = 500, 64, 4
    groups = 2**31 // (rows * width) + 2
    query, patches = (torch.randn(1, 1, rows, width), torch.randn(2 * group, width))
    grad = torch.randn(1, 2 * group)
    seen: list[Tensor] = []

    class Recorder:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda sums, *_, **__: seen.append(sums[-1])

    with configured(monkeypatch, lag=0, group=group), last_programs(group + 1):
        monkeypatch.setattr(backward, "sum_groups_kernel", Recorder())
        for count in (1, groups):
            cu_seqlens = torch.cat((torch.zeros((count - 1) * group).long(), 2 * torch.arange(group + 1)))
            lse = torch.zeros(1, count * group, rows)
            context_attention_backward(None, grad, query, patches, None, cu_seqlens, lse, 1.0, 1, 0)
    assert seen[0].all()
    assert same_bits(*seen)
