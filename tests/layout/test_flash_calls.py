"""Layouts as calls of flash attention: what a GPU would be asked, answered in float64 under PyTorch's own schemas."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from token_rules import random_batch
from torch import Tensor

from longreel.layout import PlannedLayout, VideoLayout
from longreel.layout.dense import visible
from longreel.ops.flash import attend as attending
from longreel.ops.flash import pieces as cutting
from longreel.ops.flash.pieces import FlashCall, calls, pieces
from longreel.ops.flash.varlen import PACKAGE, TORCH
from longreel.ops.registry import OPS
from longreel.testing.cases.block_sparse_attention import cases
from longreel.testing.cases.case import Case, Inputs
from longreel.testing.cases.layouts import layout_case
from longreel.testing.runner import prepare, run, yardstick

DIFFERENTIABLE = OPS["block_sparse_attention"].differentiable
OP = "block_sparse_attention"


def taken(layout: VideoLayout | PlannedLayout, scale: float | None = None) -> bool:
    return attending.refusal(layout.to("cpu"), 1.0 if scale is None else scale) is None


def sequences(q: Tensor, k: Tensor, cu_q: Tensor, cu_k: Tensor) -> Iterator[tuple[slice, slice]]:
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert len(cu_q) == len(cu_k) > 1
    assert cu_q[-1] == len(q)
    assert cu_k[-1] == len(k)
    for i in range(len(cu_q) - 1):
        yield slice(cu_q[i], cu_q[i + 1]), slice(cu_k[i], cu_k[i + 1])


def check_operands(cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *tensors: Tensor) -> None:
    """What the kernels ask of their operands, or read memory that is not theirs."""
    assert cu_q.diff().max() == max_q
    assert cu_k.diff().max() == max_k
    assert cu_q.diff().min() > 0
    assert cu_k.diff().min() > 0
    for t in tensors:
        assert t.stride(-1) == 1
        assert all(step % 8 == 0 for step in (t.shape[-1], *t.stride()[:-1]))
        assert t.data_ptr() % 16 == 0


def scores(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    """[H, rows, keys] in float64 of q [rows, H, D] and k [keys, Hkv, D]."""
    s = torch.einsum("qhd,khd->hqk", q.double(), k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)) * scale
    return s.masked_fill(torch.ones(s.shape[1:]).triu(1).bool(), -torch.inf) if causal else s


def oracle(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    check_operands(cu_q, cu_k, max_q, max_k, q, k, v)
    out, lse = torch.empty_like(q), torch.empty(q.shape[1], q.shape[0])
    for rows, keys in sequences(q, k, cu_q, cu_k):
        s = scores(q[rows], k[keys], causal, scale)
        values = v[keys].double().repeat_interleave(q.shape[1] // k.shape[1], 1)
        out[rows] = torch.einsum("hqk,khd->qhd", s.softmax(-1), values).to(q.dtype)
        lse[:, rows] = s.logsumexp(-1).float()
    return out, lse


def oracle_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cu_q: Tensor, cu_k: Tensor,
    max_q: int, max_k: int, causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    check_operands(cu_q, cu_k, max_q, max_k, grad, q, k, v, out)
    assert lse.is_contiguous()
    assert lse.shape == (q.shape[1], q.shape[0])
    group = q.shape[1] // k.shape[1]
    grads = [torch.empty_like(t) for t in (q, k, v)]
    for rows, keys in sequences(q, k, cu_q, cu_k):
        wide = [t.double() for t in (grad[rows], out[rows], q[rows])]
        local = [t[keys].double().repeat_interleave(group, 1) for t in (k, v)]
        p = (scores(q[rows], k[keys], causal, scale) - lse[:, rows, None].double()).exp()
        delta = (wide[0] * wide[1]).sum(-1).T[..., None]
        ds = p * (torch.einsum("qhd,khd->hqk", wide[0], local[1]) - delta) * scale
        grads[0][rows] = torch.einsum("hqk,khd->qhd", ds, local[0]).to(q.dtype)
        for made, weights, other in ((grads[1], ds, wide[2]), (grads[2], p, wide[0])):
            made[keys] = torch.einsum("hqk,qhd->khd", weights, other).unflatten(1, (-1, group)).sum(2).to(q.dtype)
    return grads[0], grads[1], grads[2]


@pytest.fixture
def torch_flash(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch's flash attention, which no CPU has, is the oracle; the dispatcher checks each call against its schema."""

    def answering(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        order = [argument.name for argument in getattr(torch.ops.aten, name).default._schema.arguments]

        def answer(*args: Any, **kwargs: Any) -> Any:
            return function(**dict(zip(order, args, strict=False)) | kwargs)

        return answer

    def forward(
        query: Tensor, key: Tensor, value: Tensor, cum_seq_q: Tensor, cum_seq_k: Tensor, max_q: int, max_k: int,
        dropout_p: float, is_causal: bool, return_debug_mask: bool, scale: float, **absent: None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        assert (dropout_p, return_debug_mask, set(absent.values()) - {None}) == (0.0, False, set())
        out, lse = oracle(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, is_causal, scale)
        return out, lse, torch.empty(2, dtype=torch.uint64), torch.empty((), dtype=torch.uint64), torch.empty(0)

    def backward(
        grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsumexp: Tensor, cum_seq_q: Tensor,
        cum_seq_k: Tensor, max_q: int, max_k: int, dropout_p: float, is_causal: bool, rng_state: Tensor, unused: Tensor,
        scale: float, **absent: None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        assert (dropout_p, set(absent.values()) - {None}) == (0.0, set())
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        return oracle_backward(
            grad_out, query, key, value, out, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, is_causal, scale
        )

    monkeypatch.setattr(attending, "varlen", lambda device: TORCH)
    with torch.library._scoped_library("aten", "IMPL") as library:
        for name, function in (("_flash_attention_forward", forward), ("_flash_attention_backward", backward)):
            library.impl(name, answering(name, function), "CPU")
        yield


@pytest.fixture
def flash_attn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package flash-attn with the parameters of its 2.7 and 2.8, and the oracle behind them."""

    def flash_attn_varlen_func(
        q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
        max_seqlen_k: int, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
        window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, alibi_slopes: Tensor | None = None,
        deterministic: bool = False, return_attn_probs: bool = False, block_table: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, None]:  # fmt: skip
        assert return_attn_probs
        assert softmax_scale is not None
        out, lse = oracle(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, softmax_scale)
        return out, lse, None

    def _flash_attn_varlen_backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, softmax_lse: Tensor, dq: Tensor, dk: Tensor,
        dv: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
        dropout_p: float, softmax_scale: float, causal: bool, window_size_left: int, window_size_right: int,
        softcap: float, alibi_slopes: Tensor | None, deterministic: bool, rng_state: Tensor | None = None,
    ) -> None:  # fmt: skip
        assert (dropout_p, window_size_left, window_size_right, softcap, alibi_slopes) == (0.0, -1, -1, 0.0, None)
        assert deterministic
        made = oracle_backward(
            dout, q, k, v, out, softmax_lse, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal,
            softmax_scale,
        )  # fmt: skip
        for given, grad in zip((dq, dk, dv), made, strict=True):
            given.copy_(grad)

    package, interface = ModuleType("flash_attn"), ModuleType("flash_attn.flash_attn_interface")
    package.flash_attn_varlen_func = flash_attn_varlen_func
    interface._flash_attn_varlen_backward = _flash_attn_varlen_backward
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "flash_attn.flash_attn_interface", interface)
    monkeypatch.setattr(attending, "varlen", lambda device: PACKAGE)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Global keys of small layouts in several blocks, and few sequences a call."""
    monkeypatch.setattr(cutting, "BLOCK", 2)
    monkeypatch.setattr(cutting, "MOST_SEQUENCES", 3)
    pieces.cache_clear()
    calls.cache_clear()
    yield
    pieces.cache_clear()
    calls.cache_clear()


def flash(inputs: Inputs) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda *args: attending.attend(*args[:5], inputs["layout"], args[-1])


def check(inputs: Inputs, dtype: torch.dtype) -> None:
    inputs = prepare(inputs, dtype)
    wanted = [name for name in DIFFERENTIABLE if name in inputs]
    got = run(OP, flash(inputs), inputs, wanted)
    yardstick(OP, inputs, dtype, wanted).check(got.everything)


TAKEN = [case for case in cases() if taken(*map(case.inputs().get, ("layout", "scale")))]
each_case = pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@each_case
def test_torch_flash_on_every_case(case: Case, dtype: torch.dtype, torch_flash: None) -> None:
    check(case.inputs(), dtype)


@each_case
def test_flash_attn_on_every_case(case: Case, flash_attn: None) -> None:
    check(case.inputs(), torch.bfloat16)


@pytest.mark.parametrize("group", range(5))
def test_random_layouts(group: int, torch_flash: None, small_blocks: None) -> None:
    for seed in range(group, 100, 5):
        rng = np.random.default_rng(seed)
        layout, _ = random_batch(rng)
        if not taken(layout):
            continue
        check_pieces(layout)
        repeated = 2 if layout.batch_size == 1 else 1
        sizes = {"batch": repeated * layout.batch_size, "heads": (4, 2), "width": int(rng.integers(1, 20))}
        inputs = layout_case(
            f"seed-{seed}", lambda _, own=layout: own, own_globals=bool(seed % 3 == 0), beyond=seed % 2, **sizes
        )
        check(inputs.inputs(), torch.float32)


def check_pieces(layout: VideoLayout) -> None:
    """Every visible pair is in one call, and no row is twice in a call."""
    local, own_globals = visible(layout)
    counts = np.zeros(local.shape, int), np.zeros(own_globals.shape, int)
    places = own_globals.shape[2]
    for call in calls(layout, layout.batch_size, layout.keys, places, torch.device("cpu")):
        width = places if call.is_global else layout.keys
        rows, keys = (np.arange(10**6)[where] for where in (call.rows, call.keys))
        assert len(set(rows.tolist())) == len(rows)
        assert len(call.lengths) <= cutting.MOST_SEQUENCES
        for i in range(len(call.lengths)):
            own = rows[call.cu_q[i] : call.cu_q[i + 1]]
            seen = keys[call.cu_k[i] : call.cu_k[i + 1]]
            sample = own[0] // layout.queries
            assert (own // layout.queries == sample).all()
            assert (seen // width == sample).all()
            mask = np.tril(np.ones((len(own), len(seen)), int), len(seen) - len(own) if call.causal else len(seen))
            counts[call.is_global][sample][np.ix_(own % layout.queries, seen % width)] += mask
    for count, mask in zip(counts, (local, own_globals), strict=True):
        np.testing.assert_array_equal(count, mask)


def test_few_long_runs_of_global_keys() -> None:
    """Of 3600 frames, no frame copies more keys than a block holds, and the calls are as many as bits of the keys."""
    layout = VideoLayout.voco(frames=3600, vision=144, voco=2, text=64, mode="causal")
    copied = sum(s.last - s.first for piece in pieces(layout) if piece.is_global for s in piece.sequences)
    assert len(pieces(layout)) < 20
    assert copied < 3600 * cutting.BLOCK + 7200 * 7


@pytest.mark.parametrize("width", [72, 80, 256])
def test_shapes_on_meta_tensors(width: int) -> None:
    """PyTorch's own account of the shapes that its kernels return."""
    call = FlashCall(
        False, True, slice(0, 9), slice(0, 9), *(torch.tensor([0, 4, 9], dtype=torch.int32, device="meta"),) * 2,
        lengths=((4, 4), (5, 5)),
    )  # fmt: skip
    q, k, v = (torch.empty(9, heads, width, dtype=torch.bfloat16, device="meta") for heads in (4, 2, 2))
    out, lse = TORCH.forward(q, k, v, call, 0.1)
    assert (out.shape, lse.shape, lse.dtype) == (q.shape, (4, 9), torch.float32)
    grads = TORCH.backward(q, q, k, v, out, lse, call, 0.1)
    assert [grad.shape for grad in grads] == [q.shape, k.shape, v.shape]
