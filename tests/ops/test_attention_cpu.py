"""The CPU kernels of block_sparse_attention where the contract's small cases do not reach: long keys, memory nobody sees."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from longreel import _native, block_sparse_attention
from longreel.layout import PlannedLayout, VideoLayout, global_index
from longreel.layout.dense import visible
from longreel.testing import assert_deterministic, poison
from longreel.testing.runner import cpu_isa, prepare, yardstick

pytestmark = pytest.mark.skipif(_native.OPS_REFUSAL is not None, reason="needs _ops.so")
DTYPES = (torch.float32, torch.bfloat16)


def decoding(rows: int, start: int = 0) -> PlannedLayout:
    """The last rows of a video with keys in both ranges: some thousands in K, more than a hundred in G."""
    whole = VideoLayout.voco(frames=130, vision=16, voco=1, text=3000, mode="causal")
    return whole.rows(whole.length - rows, whole.length).to("cpu").with_start(torch.tensor([start], dtype=torch.int32))


def tensors(layout: PlannedLayout, dtype: torch.dtype, batch: int = 1, width: int = 64) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (layout.layout.queries, 4), "k": (layout.layout.keys, 2), "v": (layout.layout.keys, 2)}
    made = {name: torch.randn(batch, *shape, width, generator=generator) for name, shape in shapes.items()}
    return prepare({**made, "layout": layout, "return_lse": True}, dtype)


def outputs(inputs: dict[str, Any]) -> dict[str, Tensor]:
    with poison():
        return dict(zip(("out", "lse"), block_sparse_attention(**inputs, backend="cpu"), strict=True))


@pytest.mark.parametrize("isa", _native.cpu_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 16, 40])
def test_long_keys_are_split_and_merged(isa: str, dtype: torch.dtype, rows: int) -> None:
    """Few rows over long keys: parts of the keys go to several workers, and meet in a fixed order."""
    inputs = tensors(decoding(rows, start=700), dtype, batch=2)
    with cpu_isa(isa):
        yardstick("block_sparse_attention", inputs, dtype, ()).check(outputs(inputs))
        assert_deterministic(lambda: outputs(inputs))


@pytest.mark.parametrize("isa", _native.cpu_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "heads"), [(1, 1), (1, 7), (2, 7), (3, 5), (5, 7), (16, 3)])
def test_rows_of_all_heads_share_strips(isa: str, dtype: torch.dtype, rows: int, heads: int) -> None:
    """Heads that share keys fill strips of sixteen rows, also where a strip ends within a head; odd keys and head sizes."""
    layout = VideoLayout.causal(150).rows(150 - rows, 150).to("cpu")
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (rows, 2 * heads, 40), "k": (150, 2, 40), "v": (150, 2, 40)}
    made = {name: torch.randn(1, *shape, generator=generator) for name, shape in shapes.items()}
    made |= {name: torch.randn(1, 2, 150, 64, generator=generator).transpose(1, 2)[..., :40] for name in "kv"}
    inputs = prepare({**made, "q": 3 * made["q"], "layout": layout, "return_lse": True}, dtype)
    with cpu_isa(isa):
        yardstick("block_sparse_attention", inputs, dtype, ()).check(outputs(inputs))


@pytest.mark.parametrize("rows", [8, 9])
def test_bf16_products_are_in_fp32_where_pairs_are_slow(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden Cove (it has AVX512_FP16) without AMX; up to sixteen rows a key head take pairs all the same."""
    monkeypatch.delenv("LONGREEL_CPU_ISA", raising=False)
    best, cpu = _native.cpu_isas()[-1], Path("/proc/cpuinfo")
    slow_pairs = best == "avx512_bf16" and cpu.exists() and "avx512_fp16" in cpu.read_text()
    inputs = tensors(decoding(rows), torch.bfloat16)
    chosen = outputs(inputs)
    with cpu_isa("avx512" if slow_pairs and rows > 8 else best):
        expected = outputs(inputs)
    assert all(torch.equal(chosen[name], expected[name]) for name in expected)


@pytest.mark.parametrize("isa", _native.cpu_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_no_row_sees_may_hold_anything(isa: str, dtype: torch.dtype) -> None:
    """NaN keys in left padding, between the ranges and beyond the layout change no bit, forward or backward."""
    rows = 20
    layout = decoding(rows, start=5)
    plain = tensors(layout, dtype)
    known = torch.zeros(layout.layout.keys + 30, dtype=torch.bool)
    known[-3030:-30] = True
    index = layout.global_index[0].long()
    known[index[index >= 5]] = True
    results = []
    for hidden in (0.0, torch.nan):
        inputs = dict(plain)
        for name in ("k", "v"):
            value = torch.cat([plain[name], plain[name][:, :30]], 1)
            inputs[name] = torch.where(known[:, None, None], value, hidden).to(dtype).requires_grad_()
        inputs["q"] = plain["q"].clone().requires_grad_()
        with cpu_isa(isa):
            found = outputs(inputs)
            grads = torch.autograd.grad(sum(t.float().sum() for t in found.values()), [inputs[n] for n in "qkv"])
        results.append([*(t.detach() for t in found.values()), *grads])
    for clean, dirty in zip(*results, strict=True):
        torch.testing.assert_close(dirty, clean, rtol=0, atol=0)
        assert clean.isfinite().all()


@pytest.mark.parametrize("isa", _native.cpu_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_shows_in_the_rows_that_see_it(isa: str, dtype: torch.dtype, value: float) -> None:
    """Of a query and of a key, beside finite rows of the same tile; scores that leave fp32's integers are numbers."""
    layout = VideoLayout.causal(100).to("cpu")
    inputs = tensors(layout, dtype)
    inputs["q"][:, 20] = value
    inputs["k"][:, 70] = value
    inputs["q"][:, 5] *= 1e6
    with cpu_isa(isa):
        out = outputs(inputs)["out"]
    clean = torch.ones(100, dtype=torch.bool)
    clean[[20, *range(70, 100)]] = False
    assert out[:, clean].isfinite().all()
    assert not out[:, ~clean].isfinite().all(-1).any()
    torch.testing.assert_close(out[:, 0], inputs["v"][:, 0].repeat_interleave(2, 1))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_hidden_neighbour_may_hold_anything(backend: str, dtype: torch.dtype) -> None:
    """NaN beside a key that is seen, beyond the layout, in padding rows and in pads of G: no gradient of it either."""
    layout = VideoLayout.batch(
        [VideoLayout.voco(frames=3, vision=7, voco=1, text=4), VideoLayout.voco(frames=1, vision=5, voco=2, text=3)]
    )
    layout = layout.rows(layout.length - 14, layout.length)
    mask, places = torch.from_numpy(layout.dense_mask()), torch.from_numpy(global_index(layout))
    generator = torch.Generator().manual_seed(0)
    results = []
    made = {
        name: torch.randn(2, rows, heads, 16, generator=generator).to(dtype)
        for name, rows, heads in (
            ("q", 14, 4),
            ("k", layout.keys + 5, 2),
            ("v", layout.keys + 5, 2),
            ("global_k", places.shape[1], 2),
            ("global_v", places.shape[1], 2),
        )
    }
    beside = torch.from_numpy(visible(layout)[0]).any(1)
    hidden = {"q": ~mask.any(2), "k": torch.nn.functional.pad(~beside, (0, 5), value=True), "global_k": places < 0}
    hidden |= {"v": hidden["k"], "global_v": hidden["global_k"]}
    assert all(rows.any() for rows in hidden.values())
    for filled in (0.0, torch.nan):
        leaves = {
            name: torch.where(hidden[name][..., None, None], filled, t.float()).to(dtype).requires_grad_()
            for name, t in made.items()
        }
        out = block_sparse_attention(**leaves, layout=layout, backend=backend)
        results.append([out.detach(), *torch.autograd.grad(out.float().sum(), list(leaves.values()))])
    for clean, dirty in zip(*results, strict=True):
        assert clean.isfinite().all()
        torch.testing.assert_close(dirty, clean, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_hidden_neighbour_has_no_gradient(backend: str, dtype: torch.dtype) -> None:
    layout = VideoLayout.sliding_window(40, 5).rows(39, 40)
    q, k, v = (torch.randn(1, rows, 2, 16).to(dtype) for rows in (1, 40, 40))
    v[:, 33] = torch.nan
    leaves = [t.requires_grad_() for t in (q, k, v)]
    out = block_sparse_attention(*leaves, layout, backend=backend)
    for grad in torch.autograd.grad(out.float().square().sum(), leaves):
        assert grad.isfinite().all()
        assert not grad[:, :34].any() or grad.shape[1] == 1


@pytest.mark.parametrize("isa", _native.cpu_isas())
def test_a_hidden_score_may_be_far_above_the_row(isa: str) -> None:
    """2^x of it leaves the range of floats: neither the output nor the query gradient of the rows before it knows."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 40, 2, 24) for _ in range(3))
    k[:, 30:] *= 1e12
    results = []
    for keys in (40, 30):
        own = [x[:, :keys].clone().requires_grad_() for x in (q, k, v)]
        with cpu_isa(isa):
            out = block_sparse_attention(*own, VideoLayout.causal(keys), backend="cpu")[:, :30]
            grads = torch.autograd.grad(out.square().sum(), own[:1])
        results.append([out, *(grad[:, :30] for grad in grads)])
    for far, near in zip(*results, strict=True):
        torch.testing.assert_close(far, near, rtol=1e-5, atol=1e-5)
