"""Tiny vision-language models whose picture tokens see one another, and inputs that make their masks say so."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from tiny_vlms import BATCH, IMAGE, TOWER, VOCABULARY, WORDS, Built, ids, pixels
from torch import Tensor

HYBRID = ["sliding_attention", "full_attention"]
# Two pictures of four tokens, words between them.
PICTURES = [*[IMAGE] * 4, 7, 8, *[IMAGE] * 4, 9, 10, 11, 12]


def gemma3() -> Built:
    text = WORDS | {"head_dim": 8, "sliding_window": 6, "layer_types": HYBRID}
    config = tf.Gemma3Config(
        text_config=text, vision_config=TOWER, mm_tokens_per_image=4, image_token_index=IMAGE, boi_token_index=124,
        eoi_token_index=125,
    )  # fmt: skip
    x = ids(*PICTURES)
    given = {"input_ids": x, "pixel_values": pixels(2 * BATCH, 3, 8, 8), "token_type_ids": (x == IMAGE).long()}
    return tf.Gemma3ForConditionalGeneration, config, given


def gemma4(shared: int = 0) -> Built:
    text = WORDS | {
        "head_dim": 8, "global_head_dim": 16, "sliding_window": 6, "use_bidirectional_attention": "vision",
        "num_hidden_layers": 4, "layer_types": HYBRID * 2, "num_kv_shared_layers": shared, "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
    }  # fmt: skip
    x = ids(*PICTURES)
    config = tf.Gemma4Config(text_config=text, vision_config=None, audio_config=None, image_token_id=IMAGE, video_token_id=121,
                             audio_token_id=126)  # fmt: skip
    given = {"input_ids": x.where(x != IMAGE, 5), "mm_token_type_ids": (x == IMAGE).long()}
    return tf.Gemma4ForConditionalGeneration, config, given


def gemma4_sharing() -> Built:
    return gemma4(shared=2)


def paligemma() -> Built:
    text = tf.GemmaConfig(**WORDS | {"head_dim": 8}).to_dict()
    config = tf.PaliGemmaConfig(
        text_config=text | {"model_type": "gemma"}, vision_config=TOWER | {"model_type": "siglip_vision_model"},
        image_token_index=IMAGE, projection_dim=32,
    )  # fmt: skip
    x = ids(*[IMAGE] * 16, 7, 8)
    kinds = torch.zeros_like(x)
    kinds[:, 21:] = 1
    return tf.PaliGemmaForConditionalGeneration, config, {
        "input_ids": x, "pixel_values": pixels(BATCH, 3, 8, 8), "token_type_ids": kinds,
    }  # fmt: skip


def molmo2() -> Built:
    heads = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "intermediate_size": 48,
    }
    config = tf.Molmo2Config(
        text_config=WORDS | {"head_dim": 8, "additional_vocab_size": 4},
        vision_config=heads | {"num_hidden_layers": 2, "image_size": [8, 8], "patch_size": 2},
        adapter_config=heads | {"vision_feature_layer": [0, 1], "text_hidden_size": 32},
    )
    x = ids(*PICTURES)
    given = {"input_ids": x.where(x != IMAGE, 5), "mm_token_type_ids": (x == IMAGE).long()}
    return tf.Molmo2ForConditionalGeneration, config, given


# The oldest transformers that is supported has no Molmo2.
MODELS: dict[str, Callable[[], Built]] = {
    build.__name__: build
    for build in (gemma3, gemma4, gemma4_sharing, paligemma, molmo2)
    if build is not molmo2 or hasattr(tf, "Molmo2Config")
}


def kinds_of(given: dict[str, Any]) -> str:
    """The keyword that says which tokens are of pictures."""
    return next(key for key in ("token_type_ids", "mm_token_type_ids") if key in given)


def padded(given: dict[str, Any], pad: int = 3) -> tuple[dict[str, Any], Tensor]:
    """Inputs whose second sample has `pad` rows of padding on the left, and the real rows bool [B, S]."""
    out, key = dict(given), kinds_of(given)
    for name, fill in (
        ("input_ids", 0),
        (key, 1 if key == "token_type_ids" and not (given[key] == 1)[:, :3].any() else 0),
    ):
        rows = given[name]
        # Longer by the padding; the first sample begins with more words.
        front = torch.full((len(rows), pad), fill)
        out[name] = torch.cat([front, rows], 1)
    out["input_ids"][0, :pad] = 9
    real = torch.ones_like(out["input_ids"])
    real[1, :pad] = 0
    out["attention_mask"] = real
    return out, real.bool()
