"""Pooling in every dtype, and what the frame passes do in bfloat16 and with nothing, in Triton's interpreter.

`interpreted_frames.py` has the frame passes in float32 and float16.

Run with TRITON_INTERPRET=1, which triton reads at its import; `test_triton_interpret.py` does so in a process of its own.
"""

from collections.abc import Callable

import pytest
import torch
from longreel.triton_kernels.adaptive_pool import adaptive_pool, adaptive_pool_backward
from longreel.triton_kernels.compress_frames import compress_frames
from longreel.triton_kernels.context_attention import context_attention
from torch import Tensor

from longreel.testing import check

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# prefix, pitch, height, width, out_height, out_width of N tokens
GEOMETRIES = {
    "257 tokens, CLS, 4x4": (257, (1, 16, 16, 16, 4, 4)),
    "uneven 6x7": (256, (0, 16, 16, 16, 6, 7)),
    "finer than the patches": (20, (0, 5, 4, 5, 7, 9)),
    "mean": (38, (1, 1, 37, 1, 1, 1)),
    "none": (45, (0, 1, 45, 1, 45, 1)),
    "grid with a dropped tail": (50, (1, 7, 6, 6, 3, 3)),
    "rows only": (16, (0, 4, 4, 4, 4, 1)),
    "one token": (2, (1, 1, 1, 1, 1, 1)),
}

# P, Q, F, M, C, masked, scale
QUERIES = {
    "32 shared queries": (1, 1, 3, 32, 88, False, 0.1),
    "prompts and frames": (2, 3, 3, 5, 33, True, 0.3),
    "sharp rows": (1, 1, 2, 7, 300, True, 2.0),
    "one query": (3, 2, 2, 1, 1, False, 1.0),
    "more queries than a tile": (1, 1, 2, 130, 40, True, 0.5),
    "more frames than fly at once": (1, 9, 9, 3, 520, True, 0.2),
}


def pool_formula(patches: Tensor, prefix: int, pitch: int, height: int, width: int, *out: int) -> Tensor:
    rows = prefix + torch.arange(height)[:, None] * pitch + torch.arange(width)
    grid = patches[:, rows.flatten()].unflatten(1, (height, width)).permute(0, 3, 1, 2)
    return torch.nn.functional.adaptive_avg_pool2d(grid, out).flatten(2).transpose(1, 2)


def attention_formula(query: Tensor, patches: Tensor, valid: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """context, weights, lse; `valid` [P, F, M]."""
    scores = scale * query.expand(-1, patches.shape[0], -1, -1) @ patches.transpose(1, 2)
    rows = scores.softmax(-1) * valid[..., None]
    weights = rows.sum(2) / valid.sum(2).clamp(min=1)[..., None]
    context = (weights[:, :, None].to(patches.dtype) @ patches)[:, :, 0]
    return context, weights, scores.logsumexp(-1).masked_fill(~valid, -torch.inf)


def strided(tensor: Tensor) -> Tensor:
    """The same values with the first two dimensions exchanged in memory, and a gap after every row."""
    wide = torch.full((*tensor.shape[1::-1], *tensor.shape[2:-1], tensor.shape[-1] + 3), torch.nan, dtype=tensor.dtype)
    view = wide.transpose(0, 1)[..., 3:]
    return view.copy_(tensor)


def views(dtype: torch.dtype) -> tuple[Callable[[Tensor], Tensor], ...]:
    return (Tensor.contiguous, strided) if dtype is torch.float32 else (strided,)


def drawn(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def compare(name: str, got: Tensor, truth: Tensor, baseline: Tensor, dtype: torch.dtype) -> None:
    # rows without a valid query: -inf in both
    assert torch.equal(got.isinf(), truth.isinf()), name
    finite = truth.isfinite()
    check(name, got[finite], truth[finite], baseline[finite], dtype)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize(("tokens", "geometry"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_adaptive_pool(tokens: int, geometry: tuple[int, ...], dtype: torch.dtype) -> None:
    patches = drawn((2, tokens, 70), dtype)
    truth_leaf, own_leaf = patches.double().requires_grad_(), patches.clone().requires_grad_()
    truth, own = pool_formula(truth_leaf, *geometry), pool_formula(own_leaf, *geometry)
    grad = drawn(truth.shape, dtype)
    truth.backward(grad.double())
    own.backward(grad)
    for view in views(dtype):
        compare("content", adaptive_pool(view(patches), *geometry), truth.detach(), own.detach(), dtype)
        grad_patches = adaptive_pool_backward(view(grad), tokens, *geometry)
        assert grad_patches.is_contiguous()
        compare("grad_patches", grad_patches, truth_leaf.grad, own_leaf.grad, dtype)


def run_frames(tokens: int, geometry: tuple[int, ...] | None, case: tuple, dtype: torch.dtype) -> None:
    prompts, per_frame, frames, queries, channels, masked, scale = case
    query = drawn((prompts, per_frame, queries, channels), dtype)
    patches = drawn((frames, tokens, channels), dtype)
    mask = torch.rand(query.shape[:3], generator=torch.Generator().manual_seed(0)) > 0.4 if masked else None
    if mask is not None:
        mask[..., 0] = True
        mask[-1, -1] = prompts * per_frame == 1
    valid = torch.ones(prompts, frames, queries, dtype=torch.bool) if mask is None else mask.expand(-1, frames, -1)
    seen = patches[:, 0 if geometry is None else geometry[0] :]
    truth = attention_formula(query.double(), seen.double(), valid, scale)
    own = attention_formula(query, seen, valid, scale)
    for view in views(dtype):
        if geometry is None:
            got = context_attention(view(query), view(patches), mask, None, scale)
        else:
            context, content, *rest = compress_frames(view(query), view(patches), mask, scale, *geometry)
            got = (context, *rest)
            compare(
                "content",
                content,
                pool_formula(patches.double(), *geometry),
                pool_formula(patches, *geometry),
                dtype,
            )
        for name, value, exact, plain in zip(("context", "weights", "lse"), got, truth, own, strict=True):
            assert value.dtype == (dtype if name == "context" else torch.float32)
            assert value.is_contiguous()
            compare(name, value, exact, plain, dtype)


@pytest.mark.parametrize("case", QUERIES.values(), ids=QUERIES)
def test_compress_frames_in_bfloat16(case: tuple) -> None:
    run_frames(*GEOMETRIES["grid with a dropped tail"], case, torch.bfloat16)


def test_context_attention_in_bfloat16() -> None:
    run_frames(131, None, QUERIES["prompts and frames"], torch.bfloat16)


@pytest.mark.parametrize("empty", ["prompts", "frames", "queries", "tokens"])
def test_empty(empty: str) -> None:
    """What does not exist gives zeros, and -inf in lse; pooling does not depend on the queries."""
    size = {"prompts": 2, "frames": 3, "queries": 4, "tokens": 9, empty: 0}
    query = drawn((size["prompts"], 1, size["queries"], 8), torch.float32)
    patches = drawn((size["frames"], size["tokens"], 8), torch.float32)
    geometry = (0, 3, 3, 3, 2, 2) if size["tokens"] else (0, 1, 0, 1, 0, 1)
    context, content, weights, lse = compress_frames(query, patches, None, 1.0, *geometry)
    assert context.shape == (size["prompts"], size["frames"], 8)
    assert weights.shape == (size["prompts"], size["frames"], size["tokens"])
    assert lse.shape == (size["prompts"], size["frames"], size["queries"])
    assert not context.any()
    assert not weights.any()
    assert torch.all(lse == -torch.inf)
    if size["tokens"]:
        torch.testing.assert_close(content, pool_formula(patches, *geometry))
