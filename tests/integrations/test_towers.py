"""Vision towers under longreel_flash: one call a layer, the same features, from whichever side the name comes."""

from copy import deepcopy
from typing import Any

import pytest
import torch
import transformers as tf
from tiny_vlms import (
    BATCH,
    MODELS,
    PATCHES,
    TOKENS,
    TOWER,
    VISION_END,
    VISION_START,
    WORDS,
    Built,
    made,
    pixels,
)

from longreel import VideoLayout
from longreel.integrations import towers
from longreel.testing.host import NoHost

FLASH = "longreel_flash"
CLOSE = {"atol": 1e-4, "rtol": 0}


def glm4v() -> Built:
    rotary = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4, "partial_rotary_factor": 1.0}
    tower = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "image_size": 8,
    }  # fmt: skip
    config = tf.Glm4vConfig(
        text_config=WORDS | {"rope_parameters": rotary},
        vision_config=PATCHES | tower,
        **{**TOKENS, "image_start_token_id": VISION_START, "image_end_token_id": VISION_END},
    )
    given = {"pixel_values": pixels(BATCH * 32, 24), "image_grid_thw": torch.tensor([[1, 4, 4]] * 2 * BATCH)}
    return tf.Glm4vForConditionalGeneration, config, given


# Packed towers, and how many layers attend.
PACKED = {"qwen2_vl": 2, "qwen2_5_vl": 2, "qwen3_vl": 3, "video_llama_3": 2, "glm4v": 2}
BUILT = MODELS | {"glm4v": glm4v}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    real = towers.block_sparse_attention

    def counted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Any, **options: Any) -> torch.Tensor:
        found.append(plan)
        out: torch.Tensor = real(q, k, v, plan, **options)
        return out

    monkeypatch.setattr(towers, "block_sparse_attention", counted)
    return found


def result(model: Any, given: dict[str, Any]) -> torch.Tensor:
    """Logits, or what the tower makes where the inputs are of it alone."""
    if "input_ids" in given:
        return model(**given).logits
    return torch.cat(list(model.model.get_image_features(**given).pooler_output))


@pytest.mark.parametrize("name", list(BUILT))
@torch.no_grad()
def test_a_tower(name: str, calls: list[Any]) -> None:
    eager, given = made(BUILT[name])
    ours = deepcopy(eager)
    ours.set_attn_implementation({"vision_config": FLASH})
    assert ours.config.vision_config._attn_implementation == FLASH
    assert ours.config.get_text_config()._attn_implementation == "eager"
    expected = result(eager, given)
    assert not calls
    torch.testing.assert_close(result(ours, given), expected, **CLOSE)
    assert calls
    if name in PACKED:
        assert len(calls) == PACKED[name]
        # Lengths of pictures, and of windows where there are any.
        assert len({id(plan) for plan in calls}) == (2 if name == "qwen2_5_vl" else 1)


@torch.no_grad()
def test_the_name_is_reached_from_every_side(tmp_path: Any) -> None:
    eager, given = made(BUILT["qwen3_vl"])
    expected = eager(**given).logits
    eager.save_pretrained(tmp_path)
    both = {"text_config": "longreel", "vision_config": FLASH}
    loaded = tf.Qwen3VLForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=both).eval()
    made_new = tf.Qwen3VLForConditionalGeneration._from_config(deepcopy(eager.config), attn_implementation=both).eval()
    made_new.load_state_dict(eager.state_dict())
    for model in (loaded, made_new):
        assert model.model.visual.config._attn_implementation == FLASH
        torch.testing.assert_close(model(**given).logits, expected, **CLOSE)
    tower = deepcopy(eager.model.visual)
    tower.set_attn_implementation(FLASH)
    args = given["pixel_values_videos"], given["video_grid_thw"]
    torch.testing.assert_close(tower(*args).pooler_output, eager.model.visual(*args).pooler_output, **CLOSE)
    alone = type(tower)._from_config(deepcopy(eager.config.vision_config), attn_implementation=FLASH)
    assert alone.config._attn_implementation == FLASH


def test_text_is_refused() -> None:
    eager, _ = made(BUILT["qwen3_vl"])
    for asked in (FLASH, {"text_config": FLASH}):
        with pytest.raises(ValueError, match="is of text"):
            eager.set_attn_implementation(asked)
    with pytest.raises(ValueError, match="is of text"):
        tf.LlamaForCausalLM._from_config(tf.LlamaConfig(**WORDS), attn_implementation=FLASH)
    layer = torch.nn.Identity()
    q = torch.randn(1, 2, 5, 8)
    for given, line in (
        ({"is_causal": True}, "Identity is causal"),
        ({"dropout": 0.1}, "attention dropout"),
        ({"softcap": 3.0}, "does not compute softcap"),
        ({"cu_seq_lens_q": torch.tensor([0, 5]), "cu_seq_lens_k": torch.tensor([0, 5])}, "are the same tensor"),
    ):
        with pytest.raises(ValueError, match=line):
            towers.attention(layer, q, q, q, None, **given)
    with pytest.raises(ValueError, match="a mask of its own"):
        towers.attention(layer, q, q, q, torch.zeros(1, 1, 5, 5))
    with pytest.raises(ValueError, match="5 query rows of 8 over 4 keys"):
        towers.attention(layer, q, q[:, :, :4], q[:, :, :4], None)


@torch.no_grad()
def test_a_layer_does_not_wait_for_the_host() -> None:
    layer, q, lengths = torch.nn.Identity(), torch.randn(1, 2, 20, 8), torch.tensor([0, 7, 20], dtype=torch.int32)
    with NoHost():
        first = towers.attention(layer, q, q, q, None, cu_seq_lens_q=lengths, cu_seq_lens_k=lengths)[0]
    parts = [torch.nn.functional.scaled_dot_product_attention(t, t, t) for t in q.split([7, 13], 2)]
    torch.testing.assert_close(first, torch.cat(parts, 2).transpose(1, 2), atol=1e-5, rtol=1e-5)
    # Other numbers in the same tensor are other lengths.
    lengths[1] = 9
    again = towers.attention(layer, q, q, q, None, cu_seq_lens_q=lengths)[0]
    assert not torch.allclose(again, first, atol=1e-3)


def in_inference_mode(lengths: torch.Tensor) -> None:
    lengths.copy_(torch.tensor([0, 3, 20]))


def by_data(lengths: torch.Tensor) -> None:
    lengths.data[1] = 3


@pytest.mark.parametrize("change", [in_inference_mode, by_data])
def test_another_pass_reads_the_lengths_anew(change: Any) -> None:
    """A tensor that is written without a count of it, as a buffer that stays is."""
    layers, q = [torch.nn.Identity() for _ in range(3)], torch.randn(1, 2, 20, 8)
    with torch.inference_mode(change is in_inference_mode), torch.no_grad():
        lengths = torch.tensor([0, 7, 20], dtype=torch.int32)

        def through() -> list[torch.Tensor]:
            return [towers.attention(layer, q, q, q, None, cu_seq_lens_q=lengths)[0] for layer in layers]

        through()
        version = 0 if lengths.is_inference() else lengths._version
        change(lengths)
        assert version == (0 if lengths.is_inference() else lengths._version)
        parts = [torch.nn.functional.scaled_dot_product_attention(t, t, t) for t in q.split([3, 17], 2)]
        for got in through():
            torch.testing.assert_close(got, torch.cat(parts, 2).transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", [in_inference_mode, by_data])
def test_two_towers_that_share_a_buffer(change: Any) -> None:
    """The second tower's layers are new to lengths that were rewritten, without a count, after the first one's."""
    first, second, q = torch.nn.Identity(), torch.nn.Identity(), torch.randn(1, 2, 20, 8)
    with torch.inference_mode(change is in_inference_mode), torch.no_grad():
        lengths = torch.tensor([0, 7, 20], dtype=torch.int32)
        towers.attention(first, q, q, q, None, cu_seq_lens_q=lengths)
        change(lengths)
        got = towers.attention(second, q, q, q, None, cu_seq_lens_q=lengths)[0]
        parts = [torch.nn.functional.scaled_dot_product_attention(t, t, t) for t in q.split([3, 17], 2)]
        torch.testing.assert_close(got, torch.cat(parts, 2).transpose(1, 2), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_lengths_are_planned_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = VideoLayout.from_cu_seqlens
    monkeypatch.setattr(VideoLayout, "from_cu_seqlens", lambda *given: made.append(given) or real(*given))
    layers, q = [torch.nn.Identity() for _ in range(3)], torch.randn(1, 2, 20, 8)
    pictures, windows = (torch.tensor(ends, dtype=torch.int32) for ends in ([0, 7, 20], [0, 4, 7, 20]))
    for passes in (1, 2):
        for layer in layers:
            for lengths in (pictures, windows):
                towers.attention(layer, q, q, q, None, cu_seq_lens_q=lengths)
        assert len(made) == 2 * passes


@torch.no_grad()
def test_padding_of_pictures_is_hidden() -> None:
    """A tower that is given which patches are real, on the right too."""
    eager = tf.Siglip2VisionModel(
        tf.Siglip2VisionConfig(**{k: v for k, v in TOWER.items() if k != "image_size"}, num_patches=16)
    ).eval()
    eager.set_attn_implementation("eager")
    for module in eager.modules():
        if hasattr(module, "use_head"):
            module.use_head = False
    ours = deepcopy(eager)
    ours.set_attn_implementation(FLASH)
    patches, mask = pixels(2, 16, 12), torch.ones(2, 16, dtype=torch.long)
    mask[1, 12:] = 0
    shapes = torch.tensor([[4, 4], [4, 3]])
    expected, got = (model(patches, mask, shapes).last_hidden_state for model in (eager, ours))
    assert not torch.allclose(
        expected[1], eager(patches, torch.ones_like(mask), shapes).last_hidden_state[1], atol=1e-3
    )
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], **CLOSE)
