"""adaptive_pool beside the pooling of models of transformers and of PyTorch: values and gradients, on every kernel here."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import longreel
from longreel.backends import available
from longreel.testing.budget import check

transformers = pytest.importorskip("transformers")
BACKENDS = available("adaptive_pool", "cpu")


def agree(plain: Callable[[Tensor], Tensor], ours: Callable[[Tensor, str], Tensor], *shape: int) -> None:
    """float64 by the reference to the last places; every dtype within the error budget, the model's own for a yardstick."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    for backend in BACKENDS:
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            if dtype is torch.float64 and backend != "reference":
                continue
            given = x.to(dtype)
            leaf, own, truth = (t.clone().requires_grad_() for t in (given, given, given.double()))
            got, want, exact = ours(leaf, backend), plain(own), plain(truth)
            upstream = torch.randn(exact.shape, generator=generator, dtype=torch.float64).to(dtype)
            got.backward(upstream)
            want.backward(upstream)
            exact.backward(upstream.double())
            if dtype is torch.float64:
                torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)
                torch.testing.assert_close(leaf.grad, own.grad, rtol=1e-14, atol=1e-14)
            else:
                check("content", got.detach(), exact.detach(), want.detach(), dtype)
                check("grad_patches", leaf.grad, truth.grad, own.grad, dtype)


@pytest.mark.parametrize("side", [1, 2, 5, 8, 27])
def test_llava_onevision(side: int) -> None:
    from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

    vision = SimpleNamespace(image_size=14 * side, patch_size=14)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=vision))
    agree(
        lambda x: LlavaOnevisionModel.apply_pooling(model, x),
        lambda x, backend: longreel.adaptive_pool(x, math.ceil(side / 2), mode="bilinear", backend=backend),
        2, side * side, 20,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["bilinear", "adaptive"])
def test_video_llama_3(mode: str) -> None:
    """Pictures packed, every one with its grid and its merge size; rows come window by window."""
    from transformers.models.video_llama_3.modeling_video_llama_3 import VideoLlama3VisionModel

    grids, sides = [(2, 4, 6), (1, 6, 6), (3, 2, 2)], [2, 3, 1]
    if mode == "bilinear":
        # In windows of three it takes the middle one.
        grids, sides = grids[::2], sides[::2]

    def plain(x: Tensor) -> Tensor:
        if mode == "bilinear":
            return VideoLlama3VisionModel.pixel_unshuffle(None, x, torch.tensor(grids), torch.tensor(sides))
        means, at = [], 0
        for (t, h, w), side in zip(grids, sides, strict=True):
            means.append(x[at : at + t * h * w].unflatten(0, (-1, side * side)).mean(1))
            at += t * h * w
        return torch.cat(means)

    def ours(x: Tensor, backend: str) -> Tensor:
        # [h, w] for [h / side, w / side, side, side]
        rows, at = [], 0
        for (t, h, w), side in zip(grids, sides, strict=True):
            number = torch.arange(at, at + t * h * w).view(t, h // side, w // side, side, side)
            rows.append(number.transpose(2, 3).flatten())
            at += t * h * w
        sizes = [(h // side, w // side) for (_, h, w), side in zip(grids, sides, strict=True)]
        return longreel.adaptive_pool(
            x[torch.cat(rows)], sizes, mode=mode, grid_thw=torch.tensor(grids), backend=backend
        )

    agree(plain, ours, sum(t * h * w for t, h, w in grids), 12)


@pytest.mark.parametrize("size", [(2, 3, 3), (5, 2, 4), (7, 9, 1)], ids=str)
def test_pytorchs_pooling_of_volumes(size: tuple[int, int, int]) -> None:
    def plain(x: Tensor) -> Tensor:
        volume = x.unflatten(1, (4, 6)).permute(3, 0, 1, 2)[None]
        return functional.adaptive_avg_pool3d(volume, size)[0].flatten(2).permute(1, 2, 0)

    agree(plain, lambda x, backend: longreel.adaptive_pool(x, size, grid=(4, 6), backend=backend), 5, 24, 20)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (4, 6), (5, 13)], ids=str)
def test_pytorchs_interpolation(size: tuple[int, int]) -> None:
    def plain(x: Tensor) -> Tensor:
        grid = x.unflatten(1, (4, 6)).movedim(-1, 1)
        return functional.interpolate(grid, size=size, mode="bilinear").flatten(2).mT

    def ours(x: Tensor, backend: str) -> Tensor:
        return longreel.adaptive_pool(x, size, mode="bilinear", grid=(4, 6), backend=backend)

    agree(plain, ours, 3, 24, 20)


@pytest.mark.parametrize("side", [4, 5])
@torch.no_grad()
def test_a_projector_in_pieces_of_frames(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    """Whatever the pieces, and in the memory of one: LLaVA-OneVision's own projector and pooling."""
    from transformers.models.llava_onevision import modeling_llava_onevision as own

    from longreel.integrations.patches import pools

    vision = SimpleNamespace(hidden_size=12, image_size=14 * side, patch_size=14)
    config = SimpleNamespace(
        vision_config=vision, text_config=SimpleNamespace(hidden_size=20), vision_feature_layer=-1,
        projector_hidden_act="gelu", multimodal_projector_bias=True,
    )  # fmt: skip
    torch.manual_seed(0)
    projector = own.LlavaOnevisionMultiModalProjector(config)
    x = torch.randn(7, side * side, 12)
    want = own.LlavaOnevisionModel.apply_pooling(SimpleNamespace(config=config), projector(x))
    seen: list[int] = []
    projector.linear_1.register_forward_hook(lambda module, given, result: seen.append(len(result)))
    for frames in (1, 3, 7, 100):
        seen.clear()
        monkeypatch.setattr(pools, "_HIDDEN", {"cpu": frames * side * side * 20, "other": 0})
        got = pools.projected_and_pooled(projector, x, side, None)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
        assert (sum(seen), max(seen)) == (7, min(frames, 7))
    with torch.enable_grad():
        assert pools.projected_and_pooled(projector, x, side, None).requires_grad
