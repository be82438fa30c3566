"""nn.ContextAttention against LLaMA-VID's own order."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.nn import ContextAttention, context_attention, fold_projections

pytestmark = pytest.mark.fast

WIDTHS = {"query_width": 12, "vision_width": 16, "llm_width": 20}


def module(
    compress: str | None = "grid:2", dtype: torch.dtype = torch.float64, **changes: int | None
) -> ContextAttention:
    return ContextAttention(**(WIDTHS | changes), compress=compress, backend="reference", dtype=dtype)  # type: ignore[arg-type]


def inputs(
    prompts: int = 2, frames: int = 3, side: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    return torch.randn(prompts, frames, 5, 12, dtype=dtype), torch.randn(frames, side * side, 16, dtype=dtype)


def published(m: ContextAttention, text: Tensor, patches: Tensor, compress: str | None) -> Tensor:
    """Keys formed, softmax of every query, value sum of every query, then the mean: section 3.1 as its code writes it."""
    query = text if m.vlm_att_projector is None else m.vlm_att_projector(text)
    scores = query @ m.vlm_att_key_projector(patches).transpose(-1, -2) / patches.shape[-1] ** 0.5
    context = m.vlm_att_val_projector((scores.softmax(-1) @ patches).mean(-2))[..., None, :]
    content = patches
    if compress == "mean":
        content = patches.mean(1, keepdim=True)
    elif compress is not None:
        side = int(patches.shape[1] ** 0.5)
        kernel = side // int(compress.split(":")[1])
        content = (
            F.avg_pool2d(patches.transpose(1, 2).unflatten(2, (side, side)), kernel, kernel).flatten(2).transpose(1, 2)
        )
    content = m.mm_projector(content)
    return torch.cat([context, content.expand(*context.shape[:-2], *content.shape[-2:])], -2)


@pytest.mark.parametrize("compress", [None, "mean", "grid:2", "grid:3"])
def test_equals_the_published_order(compress: str | None) -> None:
    m, (text, patches) = module(compress), inputs()
    torch.testing.assert_close(m(text, patches), published(m, text, patches, compress), rtol=1e-12, atol=1e-12)


def test_projected_queries() -> None:
    m = module(query_width=None)
    text, patches = torch.randn(5, 16, dtype=torch.float64), inputs()[1]
    assert "vlm_att_projector.weight" not in m.state_dict()
    torch.testing.assert_close(m(text, patches), published(m, text, patches, "grid:2"), rtol=1e-12, atol=1e-12)


def test_prefix_and_mask() -> None:
    m, (text, patches) = module("mean"), inputs()
    m.num_prefix_tokens = 1
    mask = torch.tensor([True, True, False, True, False])
    expected = published(m, text[..., mask, :], patches[:, 1:], "mean")
    torch.testing.assert_close(m(text, patches, mask), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("query_width", [12, None])
def test_gradients_pass_through_the_fold(query_width: int | None) -> None:
    m = module(query_width=query_width)
    text = torch.randn(2, 3, 5, query_width or 16, dtype=torch.float64, requires_grad=True)
    patches = inputs()[1].requires_grad_()
    upstream = torch.randn(2, 3, 5, 20, dtype=torch.float64)
    wanted = {"text": text, "patches": patches, **dict(m.named_parameters())}
    got, expected = (
        torch.autograd.grad(tokens, list(wanted.values()), upstream, allow_unused=True)
        for tokens in (m(text, patches), published(m, text, patches, "grid:2"))
    )
    for name, grad, same in zip(wanted, got, expected, strict=True):
        if name == "vlm_att_key_projector.bias":
            assert grad is None, "the key bias takes no part"
            assert same.abs().max() < 1e-14
        else:
            torch.testing.assert_close(grad, same, rtol=1e-10, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 1, 5), (2, 7, 5)], ids=["shared", "frames", "prompts", "both"])
@pytest.mark.parametrize("mask", [None, (5,), (7, 5)], ids=["all", "rows", "per-frame"])
@pytest.mark.parametrize("compress", [None, "grid:2"])
def test_blocks_of_frames_are_the_whole(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], mask: tuple[int, ...] | None, compress: str | None
) -> None:
    if mask == (7, 5) and shape in ((5,), (2, 1, 5)):
        shape = (*shape[:-2], 7, 5)
    m, patches, text = module(compress), inputs(frames=7)[1], torch.randn(*shape, 12, dtype=torch.float64)
    valid = None if mask is None else torch.rand(*mask) < 0.7
    whole = m(text, patches, valid)
    monkeypatch.setitem(context_attention.FRAMES_AT_ONCE, "cpu", 2)
    monkeypatch.setattr(context_attention, "PROJECTED_AT_ONCE", 16)
    with torch.no_grad():
        torch.testing.assert_close(m(text, patches, valid), whole, rtol=1e-12, atol=1e-12)


def test_sets_that_fit_no_frame_are_named_with_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(context_attention.FRAMES_AT_ONCE, "cpu", 3)
    m, patches = module(), inputs(frames=7)[1]
    with torch.no_grad(), pytest.raises(ValueError, match="allowed are 1 and 7"):
        m(torch.randn(6, 5, 12, dtype=torch.float64), patches)


def test_names_of_the_released_checkpoint() -> None:
    assert {name: tuple(t.shape) for name, t in module().state_dict().items()} == {
        "vlm_att_projector.weight": (16, 12),
        "vlm_att_projector.bias": (16,),
        "vlm_att_key_projector.weight": (16, 16),
        "vlm_att_key_projector.bias": (16,),
        "vlm_att_val_projector.weight": (20, 16),
        "vlm_att_val_projector.bias": (20,),
        "mm_projector.0.weight": (20, 16),
        "mm_projector.0.bias": (20,),
        "mm_projector.2.weight": (20, 20),
        "mm_projector.2.bias": (20,),
    }


def test_fold_is_wider_than_the_weights() -> None:
    """Stored in bfloat16, rounded once: half an ulp from the exact product."""
    key, query, bias = (torch.randn(*shape).bfloat16() for shape in ((64, 64), (64, 48), (64,)))
    exact = fold_projections(key.double(), query.double(), bias.double())
    for got, wide in zip(fold_projections(key, query, bias), exact, strict=True):
        assert got.dtype is torch.bfloat16
        assert ((got.double() - wide).abs() <= wide.abs() * 2**-8).all()
    with torch.autocast("cpu", torch.bfloat16):
        again = fold_projections(key.float(), query.float())[0]
    torch.testing.assert_close(again, fold_projections(key.float(), query.float())[0], rtol=0, atol=0)


@pytest.mark.parametrize("compress", ["max", "grid", "grid:1", "grid:x", "mean "])
def test_unknown_compress(compress: str) -> None:
    with pytest.raises(ValueError, match=r"allowed are None, 'mean' and 'grid:g'"):
        module(compress)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"text": "a"}, TypeError, "text must be a floating tensor, given str"),
        (
            {"text": torch.zeros(5, 12, dtype=torch.int64)},
            TypeError,
            "text must be a floating tensor, given torch.int64",
        ),
        ({"text": torch.zeros(12)}, ValueError, r"text must be \[\*q, M, 12\], given \[12\]"),
        ({"text": torch.zeros(5, 13)}, ValueError, r"text must be \[\*q, M, 12\], given \[5, 13\]"),
        ({"patches": None}, TypeError, "patches must be a floating tensor, given NoneType"),
        ({"patches": torch.zeros(16, 16)}, ValueError, r"patches must be \[F, N, 16\], given \[16, 16\]"),
        ({"patches": torch.zeros(3, 16, 17)}, ValueError, r"patches must be \[F, N, 16\], given \[3, 16, 17\]"),
        ({"query_mask": torch.zeros(5)}, TypeError, "query_mask is torch.float32; it must be bool"),
        ({"patches": torch.zeros(3, 16, 16, dtype=torch.float64)}, TypeError, "must have one dtype"),
    ],
)
def test_bad_input_is_said_in_a_line(change: dict[str, Any], error: type[Exception], said: str) -> None:
    m = module(dtype=torch.float32)
    text, patches = inputs(dtype=torch.float32)
    for under in (torch.no_grad, torch.enable_grad):
        with under(), pytest.raises(error, match=said):
            m(**{"text": text, "patches": patches} | change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": torch.zeros(4, 5)}, r"key must be \[C, C\], given \[4, 5\]"),
        ({"query": torch.zeros(5, 3)}, r"query must be \[4, Dq\], given \[5, 3\]"),
        ({"bias": torch.zeros(3)}, r"bias must be \[4\], given \[3\]"),
        ({"query": torch.zeros(4, 3).double()}, "key is torch.float32 and query is torch.float64"),
    ],
)
def test_a_fold_of_what_does_not_fit(change: dict[str, Tensor], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        fold_projections(**{"key": torch.zeros(4, 4)} | change)


@pytest.mark.parametrize(("kind", "layers"), [("linear", 1), ("mlp1x_gelu", 1), ("mlp2x_gelu", 2), ("mlp3x_gelu", 3)])
def test_kinds_of_projector(kind: str, layers: int) -> None:
    m = ContextAttention(**WIDTHS, compress="mean", projector=kind, backend="reference", dtype=torch.float64)
    names = {name for name in m.state_dict() if name.startswith("mm_projector.")}
    at = [""] if kind == "linear" else [f"{2 * i}." for i in range(layers)]
    assert names == {f"mm_projector.{i}{part}" for i in at for part in ("weight", "bias")}
    text, patches = inputs()
    content = patches.mean(1)
    for index, i in enumerate(at):
        content = F.gelu(content) if index else content
        content = F.linear(content, *(m.get_parameter(f"mm_projector.{i}{part}") for part in ("weight", "bias")))
    torch.testing.assert_close(m(text, patches)[:, :, 1], content.expand(2, 3, 20), rtol=1e-12, atol=1e-12)


def test_the_identity_projector() -> None:
    m = ContextAttention(12, 16, 16, compress="grid:2", projector="identity", backend="reference", dtype=torch.float64)
    text, patches = inputs()
    assert not any(name.startswith("mm_projector") for name in m.state_dict())
    torch.testing.assert_close(m(text, patches), published(m, text, patches, "grid:2"), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="keeps the width of the patches, 16; the language model has 20"):
        ContextAttention(**WIDTHS, projector="identity")
    with pytest.raises(ValueError, match="allowed are 'linear', 'identity' and 'mlpNx_gelu'"):
        ContextAttention(**WIDTHS, projector="mlp0x_gelu")
