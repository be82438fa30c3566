"""attn_implementation="longreel" against the same model, eager, under a dense mask."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import longreel
import longreel.integrations.transformers as integration
from longreel import VideoLayout
from longreel.layout import positions

SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.3, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": 1,
}  # fmt: skip
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
IMAGE = VideoLayout.voco(frames=1, vision=9, separator=2, voco=2, prefix=1, text=6)
VIDEO = VideoLayout.voco(frames=3, vision=4, voco=1, prefix=2, text=5, mode="causal")


@pytest.fixture(
    scope="module", params=[(LlamaForCausalLM, LlamaConfig), (Qwen2ForCausalLM, Qwen2Config)], ids=["llama", "qwen2"]
)
def pair(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The same weights under longreel and eager."""
    model, config = request.param
    torch.manual_seed(0)
    eager = model(config(**SIZES, attn_implementation="eager")).eval()
    ours = deepcopy(eager)
    ours.set_attn_implementation("longreel")
    return ours, eager


def dense(layout: VideoLayout, batch: int = 1) -> Tensor:
    """What an eager model adds to its scores [B, 1, Sq, Sk]."""
    seen = torch.from_numpy(layout.dense_mask())[:, None].expand(batch if layout.batch_size == 1 else -1, -1, -1, -1)
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)


def some_ids(batch: int, length: int) -> Tensor:
    return torch.randint(1, 40, (batch, length))


def test_without_a_layout_rows_are_causal(pair: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    ids = some_ids(2, 17)
    ours, eager = (model(ids).logits for model in pair)
    torch.testing.assert_close(ours, eager, **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(pair: tuple[PreTrainedModel, PreTrainedModel], side: str) -> None:
    ids, mask = some_ids(3, 12), torch.ones(3, 12, dtype=torch.long)
    mask[1, slice(0, 5) if side == "left" else slice(7, 12)] = 0
    at = (mask.cumsum(1) - 1).clamp(min=0)
    ours, eager = (model(ids, attention_mask=mask, position_ids=at).logits[mask.bool()] for model in pair)
    torch.testing.assert_close(ours, eager, **CLOSE)


def test_padding_behind_what_a_cache_holds(pair: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    """Questions of several lengths behind 4 rows that all of them see, at once and in two passes over a cache."""
    ids, mask = some_ids(3, 12), torch.ones(3, 12, dtype=torch.long)
    mask[0, 4:7] = mask[2, 4:9] = 0
    at = (mask.cumsum(1) - 1).clamp(min=0)
    ours, eager = (model(ids, attention_mask=mask, position_ids=at).logits[mask.bool()] for model in pair)
    torch.testing.assert_close(ours, eager, **CLOSE)
    first = pair[0](ids[:, :4])
    second = pair[0](
        ids[:, 4:], attention_mask=mask, position_ids=at[:, 4:], past_key_values=first.past_key_values
    ).logits
    torch.testing.assert_close(torch.cat([first.logits, second], 1)[mask.bool()], eager, **CLOSE)
    with longreel.use_layout(IMAGE), pytest.raises(ValueError, match="cannot be combined with a layout"):
        pair[0](ids, attention_mask=mask)


@pytest.mark.parametrize("layout", [IMAGE, VIDEO], ids=["image", "video"])
@pytest.mark.parametrize("by", ["keyword", "context"])
def test_a_layout_is_its_dense_mask(
    pair: tuple[PreTrainedModel, PreTrainedModel], layout: VideoLayout, by: str
) -> None:
    ours, eager = pair
    ids, at = some_ids(2, layout.length), torch.from_numpy(positions(layout)).long()
    expected = eager(ids, attention_mask=dense(layout, 2), position_ids=at).logits
    if by == "keyword":
        got = ours(ids, position_ids=at, video_layout=layout).logits
    else:
        with longreel.use_layout(layout.to("cpu")):
            got = ours(ids, position_ids=at).logits
    torch.testing.assert_close(got, expected, **CLOSE)
    assert not torch.allclose(got, ours(ids).logits, atol=1e-3)


def test_samples_padded_on_the_left(pair: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    """Three samples, one without VoCo: the layout has the padding, and the mask may say it again."""
    layout = VideoLayout.batch([IMAGE, VIDEO, VideoLayout.causal(8)])
    ids, at = some_ids(3, layout.length), torch.from_numpy(positions(layout)).long()
    mask = (torch.arange(layout.length) >= torch.tensor(layout.start)[:, None]).long()
    ours, eager = pair
    expected = eager(ids, attention_mask=dense(layout), position_ids=at).logits[mask.bool()]
    for given in (None, mask):
        got = ours(ids, attention_mask=given, position_ids=at, video_layout=layout).logits[mask.bool()]
        torch.testing.assert_close(got, expected, **CLOSE)
    with pytest.raises(ValueError, match="pads 3 rows on the left of sample 0, the layout 2"):
        ours(ids, attention_mask=mask.roll(1, 1) * (torch.arange(layout.length) > 0), video_layout=layout)


@torch.no_grad()
def greedy(model: PreTrainedModel, ids: Tensor, layout: VideoLayout, mask: Tensor, count: int) -> Tensor:
    """Answers by one full dense forward a token."""
    for _ in range(count):
        at = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(ids, attention_mask=dense(layout.extend(ids.shape[1] - layout.length)), position_ids=at).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return ids


@pytest.mark.parametrize("use_cache", [True, False])
def test_generate(pair: tuple[PreTrainedModel, PreTrainedModel], use_cache: bool) -> None:
    layout = VideoLayout.batch([IMAGE, VideoLayout.voco(frames=1, vision=5, voco=1, text=4), VideoLayout.causal(7)])
    ids = some_ids(3, layout.length)
    mask = (torch.arange(layout.length) >= torch.tensor(layout.start)[:, None]).long()
    ours, eager = pair
    with longreel.use_layout(layout):
        got = ours.generate(ids, attention_mask=mask, max_new_tokens=6, use_cache=use_cache)
        if use_cache:
            in_chunks = ours.generate(ids, attention_mask=mask, max_new_tokens=6, prefill_chunk_size=7)
            assert torch.equal(in_chunks, got)
    assert torch.equal(got, greedy(eager, ids, layout, mask, 6))


def test_beams(pair: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    """Samples of different layouts, each with its beams, answer as they do alone."""
    layouts = [IMAGE, VideoLayout.voco(frames=1, vision=8, separator=2, voco=3, prefix=1, text=6)]
    ids, ours = some_ids(2, IMAGE.length), pair[0]
    options: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "num_beams": 3}
    with longreel.use_layout(VideoLayout.batch(layouts)):
        both = ours.generate(ids, **options)
    for b, layout in enumerate(layouts):
        with longreel.use_layout(layout):
            alone = ours.generate(ids[b : b + 1], **options | {"attention_mask": torch.ones_like(ids[:1])})
        assert torch.equal(both[b : b + 1], alone)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("by", ["keyword", "context"])
def test_gradient_checkpointing(pair: tuple[PreTrainedModel, PreTrainedModel], by: str, reentrant: bool) -> None:
    """The backward pass, outside of the block, recomputes under the layout of the forward pass."""
    ids, at = some_ids(2, VIDEO.length), torch.from_numpy(positions(VIDEO)).long()
    losses, gradients = [], []
    for source, inputs in zip(pair, ({"video_layout": VIDEO}, {"attention_mask": dense(VIDEO, 2)}), strict=True):
        model = deepcopy(source).train()
        if source is pair[0]:
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        with longreel.use_layout(VIDEO if by == "context" else None):
            given = {} if by == "context" and source is pair[0] else inputs
            loss = model(ids, labels=ids, position_ids=at, use_cache=False, **given).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*losses, **CLOSE)
    torch.testing.assert_close(*gradients, **CLOSE)


def test_no_mask_is_made(pair: tuple[PreTrainedModel, PreTrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads arrive unexpanded, and what stands for the mask holds no number per pair of rows."""
    calls = []

    def spy(q: Tensor, k: Tensor, v: Tensor, plan: Any, **options: Any) -> Tensor:
        calls.append((k.shape, plan))
        return longreel.block_sparse_attention(q, k, v, plan, **options)

    monkeypatch.setattr(integration, "block_sparse_attention", spy)
    with longreel.use_layout(IMAGE):
        pair[0](some_ids(2, IMAGE.length))
    assert [shape for shape, _ in calls] == [(2, IMAGE.length, 2, 8)] * 2
    assert calls[0][1] is calls[1][1]


def test_what_would_change_the_result_is_refused(pair: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    ours, ids = deepcopy(pair[0]), some_ids(1, 9)
    with pytest.raises(ValueError, match="does not compute softcap=30"):
        ours(ids, softcap=30.0)
    with pytest.raises(ValueError, match="a mask of its own"):
        ours(ids, attention_mask=torch.zeros(1, 1, 9, 9))
    with pytest.raises(ValueError, match="sample 0 has zeros between ones"):
        ours(ids, attention_mask=torch.tensor([[1, 1, 1, 0, 1, 1, 0, 1, 1]]))
    with pytest.raises(ValueError, match="the layout has 20 rows and the input 27"):
        ours(torch.cat([ids, ids, ids], 1), video_layout=IMAGE)
    with pytest.raises(ValueError, match="layout is of rows"):
        ours(ids, video_layout=IMAGE.rows(3, 12))
    for layer in ours.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match=r"attention dropout 0\.1 is not computed"):
        ours.train()(ids)


@torch.no_grad()
def test_a_model_in_both_directions(pair: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    """Transformers then asks for a mask that hides nothing but padding."""
    ours, eager = pair
    ids, mask = some_ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, :3], mask[0, 7:] = 0, 0
    expected = eager(ids, attention_mask=mask, is_causal=False).logits
    assert not torch.allclose(expected, eager(ids, attention_mask=mask).logits, atol=1e-2)
    got = ours(ids, attention_mask=mask, is_causal=False).logits
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)
