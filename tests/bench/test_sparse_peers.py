"""The peers of sparse attention that only cards run: their masks and values here, their calls against stand-ins."""

import importlib.machinery
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from longreel.bench import SparseCase, SparseShape
from longreel.bench.flash_peer import flash_absent
from longreel.bench.harness import compare
from longreel.bench.roof import RoofMeter
from longreel.bench.sparse_peers import SPARSE_PEERS
from longreel.testing.budget import PEER_BUDGETS

pytestmark = pytest.mark.fast
SHAPE = SparseShape(frames=5, vision=7, voco=2, text=6, heads=4, kv_heads=2, head_dim=16)
CUDA = torch.device("cuda")
EVERY = pytest.mark.parametrize(("mode", "text"), [("independent", 6), ("causal", 0), ("causal", 30)])


def case_of(mode: Any, text: int) -> SparseCase:
    return SparseCase("block_sparse_attention", replace(SHAPE, mode=mode, text=text), torch.float32)


def verdict(case: SparseCase, name: str) -> float:
    prepared = case.prepare(name)
    return case.check(prepared.run(prepared.lay_out(case.tensors))).error


@EVERY
def test_gathered_mask_is_the_layouts(mode: str, text: int) -> None:
    case = case_of(mode, text)
    s, keys = case.known, case.layout.length
    voco = s.voco_rows(torch.device("cpu"))
    row, key = torch.arange(keys), torch.arange(keys + len(voco))
    mask = s.visible_gathered(row, row, row[:, None], key)
    own, gathered = mask[:, :keys], torch.zeros(keys, keys, dtype=torch.bool)
    gathered[:, voco] = mask[:, keys:]
    assert not (own & gathered).any(), "no key counts twice"
    assert torch.equal(own | gathered, torch.from_numpy(case.layout.dense_mask()[0]))


@EVERY
def test_flex_over_gathered_keys(mode: str, text: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By flex_attention's own arithmetic: what torch.compile makes of it is measured, not tested."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    assert verdict(case_of(mode, text), "flex-gathered") <= PEER_BUDGETS


def test_flash_backend_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention import flex_attention as flex

    asked: list[dict[str, Any]] = []

    def compiled(function: Callable[..., Tensor], **_: object) -> Callable[..., Tensor]:
        if function is not flex.flex_attention:  # torch's own, inside
            return function

        def call(*inputs: Tensor, kernel_options: dict[str, Any], **given: Any) -> Tensor:
            asked.append(kernel_options)
            return function(*inputs, **given)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    assert verdict(case_of("causal", 6), "flex-flash") <= PEER_BUDGETS
    assert asked == [{"BACKEND": "FLASH"}]
    assert "BACKEND" in flex.FlexKernelOptions.__annotations__


def attention(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """q [S, H, D], k and v [Sk, Hkv, D] -> [S, H, D], lse [H, S]."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(hidden, -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v), scores.logsumexp(-1)


def below(rows: int, keys: int, causal: bool) -> Tensor:
    """Hidden pairs [rows, keys]: the last row sees every key."""
    hidden = torch.zeros(rows, keys, dtype=torch.bool)
    return torch.ones_like(hidden).triu(keys - rows + 1) if causal else hidden


def flash_attn_func(
    q, k, v, softmax_scale=None, causal=False, window_size=(None, None), learnable_sink=None, softcap=0.0, num_splits=1,
    pack_gqa=None, deterministic=False, mask_mod=None, full_block_cnt=None, full_block_idx=None, mask_block_cnt=None,
    mask_block_idx=None, block_size=None, return_lse=False,
):  # fmt: skip
    """q, k, v [B, S, H, D] -> out, lse [B, H, S]."""
    hidden = below(q.shape[1], k.shape[1], causal)
    out, lse = zip(*(attention(*one, hidden) for one in zip(q, k, v, strict=True)), strict=True)
    return torch.stack(out), torch.stack(lse) if return_lse else None


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None, seqused_q=None, seqused_k=None,
    page_table=None, softmax_scale=None, causal=False, window_size=(None, None), learnable_sink=None, softcap=0.0,
    num_splits=1, pack_gqa=None, deterministic=False, score_mod=None, mask_mod=None, block_sparse_tensors=None,
    cu_total_m_blocks=None, cu_total_n_blocks=None, aux_tensors=None, return_lse=False,
):  # fmt: skip
    """q [total, H, D], k and v [B, Sk, H, D], of which seqused_k [B] are there -> out, lse [H, total]."""
    assert cu_seqlens_k is None
    assert cu_seqlens_q.dtype == seqused_k.dtype == torch.int32
    assert k.shape[0] == len(cu_seqlens_q) - 1 == len(seqused_k)
    borders, parts = cu_seqlens_q.tolist(), []
    for i, used in enumerate(seqused_k.tolist()):
        rows = q[borders[i] : borders[i + 1]]
        assert len(rows) <= max_seqlen_q
        parts.append(attention(rows, k[i, :used], v[i, :used], below(len(rows), used, causal)))
    return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts], 1) if return_lse else None


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for flash-attn-4: its public names and their parameters."""
    package, cute = ModuleType("flash_attn"), ModuleType("flash_attn.cute")
    package.__path__ = []  # type: ignore[attr-defined]
    cute.__spec__ = importlib.machinery.ModuleSpec("flash_attn.cute", None)
    cute.flash_attn_func, cute.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func  # type: ignore[attr-defined]
    package.cute = cute  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "flash_attn.cute", cute)


@EVERY
@pytest.mark.usefixtures("installed")
def test_flash_attention_4_in_pieces(mode: str, text: int) -> None:
    assert verdict(case_of(mode, text), "fa4") <= PEER_BUDGETS


@pytest.mark.usefixtures("installed")
def test_flash_attention_4_is_taken_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def capable(major: int) -> str | None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
        return flash_absent(CUDA, torch.bfloat16)

    assert capable(9) is None
    assert capable(10) is None
    assert capable(8) == "FlashAttention 4 is for compute capability 9 and 10, not 8"
    assert flash_absent(CUDA, torch.float32) == "FlashAttention 4 is for 16 bits"


def test_what_is_left_out_is_said() -> None:
    if "flash_attn" not in sys.modules:
        assert flash_absent(CUDA, torch.bfloat16) == "FlashAttention 4 (flash_attn.cute) is not installed"
    case = case_of("causal", 6)
    report = compare(
        case.variants(["strong", "flex-flash", "fa4"]), work=case.work, check=case.check, device=case.device, dtype=case.dtype,
        baseline="strong", repeats=1, min_time=0.0, roof=RoofMeter(case.device, case.dtype, size=2**16, side=16),
    )  # fmt: skip
    why = {outcome.variant: outcome.why for outcome in report.outcomes}
    line = "not run: FlashAttention 4 is for CUDA, not for cpu"
    assert why == {"strong": None, "flex-flash": line, "fa4": line}


def test_gradients_are_of_peers_that_have_them() -> None:
    case = SparseCase("block_sparse_attention", SHAPE, torch.float32, backward="all")
    assert set(case.peers) == {"strong", "dense"}
    assert {name for name, peer in SPARSE_PEERS.items() if "cuda" in peer.trains} == {
        "flex", "flex-gathered", "flex-flash", "dense",
    }  # fmt: skip
