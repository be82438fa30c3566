"""What text attends to of a video's memory: the weights of the attention itself, and the strip that shows them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from longreel.cache import vst as cache_module
from longreel.models.video_xl import PRESETS, VideoXL
from longreel.models.video_xl.attended import attended, over_frames

pytestmark = pytest.mark.fast

RATIO, FRAMES = 8, 12


@pytest.fixture(scope="module")
def model() -> VideoXL:
    return VideoXL(PRESETS["tiny"], ratio=RATIO).eval()


@torch.inference_mode()
def memory(model: VideoXL, frames: int = FRAMES) -> Any:
    tokens = torch.randn(
        frames * model.preset.frame, model.preset.language.width, generator=torch.Generator().manual_seed(0)
    )
    room = model.decoder.cache(1 + len(tokens) // RATIO + 1, text_capacity=64)
    return model.decoder.encode(tokens.to(model.dtype), prefix=[1], cache=room)


@torch.inference_mode()
def test_weights_are_those_of_the_attention(model: VideoXL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a dense softmax over what the attention is given: queries, the memory's keys, the text's."""
    kept, question = memory(model), torch.arange(4, 11)
    given: list[tuple[Tensor, Tensor, Tensor, int]] = []
    real = cache_module.vst_attention

    def spied(q: Tensor, k: Tensor, v: Tensor, mem_k: Tensor, *rest: Any, k_before: Tensor, **options: Any) -> Tensor:
        given.append((q.double(), k.double(), mem_k[:, :, : kept.tokens].double(), int(k_before[0])))
        out: Tensor = real(q, k, v, mem_k, *rest, k_before=k_before, **options)
        return out

    monkeypatch.setattr(cache_module, "vst_attention", spied)
    plain, _ = model.answer(kept, question, length=3)
    given.clear()
    with attended(model.language) as seen:
        ids, _ = model.answer(kept, question, length=3)
    assert torch.equal(ids, plain)
    layers = model.preset.language.layers
    assert len(seen.layers) == layers
    wanted: list[list[Tensor]] = [[] for _ in range(layers)]
    for i, (q, k, mem_k, before) in enumerate(given):
        rows, group = q.shape[1], q.shape[2] // k.shape[2]
        keys = torch.cat([mem_k[0], k[0, : before + rows].transpose(0, 1)], 1).repeat_interleave(group, 0)
        scores = q[0].transpose(0, 1) @ keys.transpose(1, 2) * q.shape[-1] ** -0.5
        hidden = torch.ones(rows, before + rows).triu(before + 1).bool()
        scores[:, :, kept.tokens :].masked_fill_(hidden, -torch.inf)
        wanted[i % layers].append(scores.softmax(-1).mean(0)[:, : kept.tokens])
    for found, rows_wanted in zip(seen.layers, wanted, strict=True):
        torch.testing.assert_close(found.double(), torch.cat(rows_wanted), rtol=2e-2, atol=1e-4)
        assert found.shape == (len(question) + len(ids) - 1, kept.tokens)


@torch.inference_mode()
def test_nothing_is_seen_of_chunks_and_behind_it(model: VideoXL) -> None:
    with attended(model.language) as seen:
        kept = memory(model)
    model.answer(kept, torch.arange(4, 8), length=1)
    assert seen.layers == []


def test_a_frame_has_the_weights_of_its_vst_tokens() -> None:
    """Frames of 12 at ratio 8: 3 VST tokens for 2 frames, of which the second stands behind token 16, in the second frame."""
    weights = torch.tensor([[9.0, 1.0, 2.0, 4.0, 8.0]])
    assert over_frames(weights, prefix=1, frames=3, each=12, ratio=8).tolist() == [[1.0, 6.0, 8.0]]


def test_the_strip_shows_what_was_read_most() -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("PIL")
    from longreel.report.strip import Asked, strip_page

    pixels = [np.full((8, 12, 3), 20 * i, dtype=np.uint8) for i in range(9)]
    weights = np.linspace(0.01, 0.09, 9, dtype=np.float32)
    looked = np.random.default_rng(0).random((9, 4)).astype(np.float32)
    asked = Asked("Which <card>?", "7", "7", weights, weights[:3], looked, planted=(8,))
    page = strip_page("What mattered", ["about it"], pixels, [10.0 * i for i in range(9)], [asked])
    assert "Which &lt;card&gt;?" in page
    assert "right: 7" in page
    assert page.count("<figure") == 6
    assert page.count('<figure class="planted">') == 1
    assert page.index("0:01:20, 20.0%") < page.index("0:01:10, 17.8%")
    assert 'src="http' not in page
