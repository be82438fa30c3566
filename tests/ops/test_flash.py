"""The flash backend: pieces of a layout by torch's own attention, and the layouts that it refuses with a reason."""

from typing import Any

import pytest
import torch

import longreel
from longreel import VideoLayout, backends, block_sparse_attention
from longreel.ops.flash import varlen
from longreel.ops.registry import OPS

DIFFERENTIABLE = OPS["block_sparse_attention"].differentiable
pytestmark = pytest.mark.fast

# [B, S, H, D] whose memory is of another order, or has gaps
STRIDES = {
    "every-other": lambda t: torch.stack([t, torch.full_like(t, 9.0)], -1).flatten(-2)[..., ::2],
    "channels-first": lambda t: t.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0),
    "channels-before-heads": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "one-for-all-rows": lambda t: t[:, :1].expand_as(t),
}


@pytest.mark.parametrize("strides", STRIDES)
def test_any_strides(strides: str) -> None:
    layout = VideoLayout.voco(frames=3, vision=20, voco=2, text=9, mode="causal")
    generator = torch.Generator().manual_seed(0)
    given: dict[str, Any] = {
        name: STRIDES[strides](torch.randn(2, layout.length, heads, 16, generator=generator).to(torch.bfloat16))
        for name, heads in (("q", 4), ("k", 2), ("v", 2))
    }
    plan, upstream = layout.to("cpu"), given["q"].flip(1)
    results = []
    for tensors in (given, {name: t.contiguous() for name, t in given.items()}):
        leaves = [t.detach().requires_grad_() for t in tensors.values()]
        out = block_sparse_attention(*leaves, plan, backend="flash")
        results.append((out, *torch.autograd.grad(out, leaves, upstream)))
    for ours, contiguous in zip(*results, strict=True):
        torch.testing.assert_close(ours, contiguous, rtol=0, atol=0)


def test_explain_says_why_not() -> None:
    layout = VideoLayout.sliding_window(40, 9)
    q = torch.zeros(1, 40, 2, 8, dtype=torch.bfloat16)
    assert "no sliding windows" in str(longreel.explain(block_sparse_attention, q, q, q, layout))


@pytest.mark.parametrize(
    ("installed", "taken"), [("2.8.3", "2.8.3"), ("2.7.0.post2", "2.7.0.post2"), ("2.6.3", None), ("3.0.0", None)]
)
def test_versions_of_flash_attn(installed: str, taken: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "version", lambda package: installed)
    assert backends._flash_attn() == taken


def test_who_serves_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(varlen, "FLASH_ATTN", None)
    assert varlen.varlen(gpu) is varlen.TORCH
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert varlen.missing(gpu) == "needs compute capability 8.0 or later, cuda has 7.5"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    assert "built with flash attention" in str(varlen.missing(gpu))
    monkeypatch.setattr(varlen, "FLASH_ATTN", "2.8.3")
    assert varlen.varlen(gpu) is varlen.PACKAGE
    assert varlen.missing(gpu) is None
