"""Video and picture language models of transformers with tiny sizes and random weights, and inputs for them.

A builder gives the class, its configuration, and its inputs for a batch of two.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

BATCH, TEXT, VOCABULARY = 2, 6, 128
IMAGE, VIDEO, VISION_START, VISION_END = 120, 121, 122, 123
WORDS: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None, "max_position_embeddings": 256,
}  # fmt: skip
TOWER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 8,
    "patch_size": 2,
}  # fmt: skip
QFORMER: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "encoder_hidden_size": 32,
}  # fmt: skip
GRIDS = {"image_grid_pinpoints": [[8, 16], [16, 8], [16, 16]], "image_token_index": IMAGE, "video_token_index": VIDEO}
PATCHES: dict[str, Any] = {"num_heads": 4, "patch_size": 2, "spatial_merge_size": 2, "temporal_patch_size": 2}
TOKENS = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END,
}  # fmt: skip
Built = tuple[type, Any, dict[str, Any]]


def pixels(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def ids(*special: int, seed: int = 3) -> Tensor:
    """[BATCH, ...]: two words, the special tokens, more words."""
    words = torch.randint(3, 100, (BATCH, TEXT), generator=torch.Generator().manual_seed(seed))
    return torch.cat([words[:, :2], torch.tensor(special, dtype=torch.long).expand(BATCH, -1), words[:, 2:]], 1)


def llama() -> dict[str, Any]:
    return tf.LlamaConfig(**WORDS).to_dict()


def qwen2() -> dict[str, Any]:
    return tf.Qwen2Config(**WORDS).to_dict()


def instructblip_video() -> Built:
    config = tf.InstructBlipVideoConfig(
        vision_config=TOWER, qformer_config=QFORMER, text_config=llama(), num_query_tokens=4, video_token_index=VIDEO
    )
    asked = {"qformer_input_ids": ids(seed=9), "qformer_attention_mask": torch.ones(BATCH, TEXT, dtype=torch.long)}
    given = {"input_ids": ids(*[VIDEO] * 8), "pixel_values": pixels(BATCH, 2, 3, 8, 8)} | asked
    return tf.InstructBlipVideoForConditionalGeneration, config, given


def _blip2(text: Any, **more: Any) -> Built:
    config = tf.Blip2Config(
        vision_config=TOWER,
        qformer_config=QFORMER,
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    given = {"input_ids": ids(*[IMAGE] * 4), "pixel_values": pixels(BATCH, 3, 8, 8)} | more
    return tf.Blip2ForConditionalGeneration, config, given


def blip2_opt() -> Built:
    return _blip2(
        tf.OPTConfig(
            vocab_size=VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32,
            max_position_embeddings=256, dropout=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=None,
        )
    )  # fmt: skip


def blip2_t5() -> Built:
    text = tf.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0, pad_token_id=0,
        eos_token_id=None, dropout_rate=0.0,
    )  # fmt: skip
    return _blip2(text, decoder_input_ids=ids(seed=8))


def llava_next_video() -> Built:
    config = tf.LlavaNextVideoConfig(
        vision_config=tf.CLIPVisionConfig(**TOWER).to_dict(),
        text_config=llama(),
        image_seq_length=16,
        video_seq_length=4,
        **GRIDS,
    )
    given = {"input_ids": ids(*[VIDEO] * 12), "pixel_values_videos": pixels(BATCH, 3, 3, 8, 8)}
    return tf.LlavaNextVideoForConditionalGeneration, config, given


def llava_onevision() -> Built:
    config = tf.LlavaOnevisionConfig(
        vision_config=tf.SiglipVisionConfig(**TOWER).to_dict(), text_config=qwen2(), **GRIDS
    )
    # 2 x 2 tokens a frame, and one behind the last.
    given = {"input_ids": ids(*[VIDEO] * 13), "pixel_values_videos": pixels(BATCH, 3, 3, 8, 8)}
    return tf.LlavaOnevisionForConditionalGeneration, config, given


def video_llava() -> Built:
    config = tf.VideoLlavaConfig(
        vision_config=tf.CLIPVisionConfig(**TOWER).to_dict(), text_config=llama(), image_token_index=IMAGE,
        video_token_index=VIDEO, image_seq_length=16, video_seq_length=34,
    )  # fmt: skip
    given = {"input_ids": ids(*[VIDEO] * 34), "pixel_values_videos": pixels(BATCH, 2, 3, 8, 8)}
    return tf.VideoLlavaForConditionalGeneration, config, given


def video_llama_3() -> Built:
    tower = {key: value for key, value in TOWER.items() if key != "image_size"}
    config = tf.VideoLlama3Config(text_config=qwen2(), vision_config=tower, image_token_id=IMAGE, video_token_id=VIDEO)
    given = {
        "input_ids": ids(*[VIDEO] * 8), "pixel_values_videos": pixels(BATCH * 32, 12), "video_grid_thw": _grid(),
        "video_merge_sizes": torch.tensor([2] * BATCH), "video_compression_mask": torch.ones(BATCH * 8, dtype=torch.bool),
    }  # fmt: skip
    return tf.VideoLlama3ForConditionalGeneration, config, given


def smolvlm() -> Built:
    config = tf.SmolVLMConfig(
        vision_config=TOWER, text_config=llama(), image_token_id=IMAGE, scale_factor=2, pad_token_id=0
    )
    return (
        tf.SmolVLMForConditionalGeneration,
        config,
        {"input_ids": ids(*[IMAGE] * 12), "pixel_values": pixels(BATCH, 3, 3, 8, 8)},
    )


def internvl() -> Built:
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = tf.InternVLConfig(
        vision_config=tf.InternVLVisionConfig(**tower, image_size=[8, 8], patch_size=[2, 2]).to_dict(), text_config=qwen2(),
        image_token_id=IMAGE,
    )  # fmt: skip
    given = {"input_ids": ids(*[IMAGE] * 12), "pixel_values": pixels(BATCH * 3, 3, 8, 8)}
    return tf.InternVLForConditionalGeneration, config, given


def _grid() -> Tensor:
    return torch.tensor([[2, 4, 4]] * BATCH)


def _qwen(
    model: type, config: type, tower: dict[str, Any], special: list[int], text: dict[str, Any], **rope: Any
) -> Built:
    rotary = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4} | rope
    made = config(text_config=WORDS | text | {"rope_parameters": rotary}, vision_config=PATCHES | tower, **TOKENS)
    x = ids(*special)
    given = {
        "input_ids": x, "pixel_values_videos": pixels(BATCH * 32, 24), "video_grid_thw": _grid(),
        "mm_token_type_ids": 2 * (x == VIDEO).long(),
    }  # fmt: skip
    return model, made, given


def qwen2_vl() -> Built:
    tower = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    special = [VISION_START, *[VIDEO] * 8, VISION_END]
    return _qwen(tf.Qwen2VLForConditionalGeneration, tf.Qwen2VLConfig, tower, special, {})


def qwen2_5_vl() -> Built:
    tower = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "window_size": 8,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    special = [VISION_START, *[VIDEO] * 8, VISION_END]
    return _qwen(tf.Qwen2_5_VLForConditionalGeneration, tf.Qwen2_5_VLConfig, tower, special, {})


def qwen3_vl(moe: bool = False) -> Built:
    tower = {
        "depth": 3, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    frame = [VISION_START, *[VIDEO] * 4, VISION_END]
    special = [*frame, 7, *frame]
    model, config = tf.Qwen3VLForConditionalGeneration, tf.Qwen3VLConfig
    text = {"head_dim": 8}
    if moe:
        model, config = tf.Qwen3VLMoeForConditionalGeneration, tf.Qwen3VLMoeConfig
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return _qwen(model, config, tower, special, text, mrope_interleaved=True)


MODELS: dict[str, Callable[[], Built]] = {
    build.__name__: build
    for build in (
        instructblip_video, blip2_opt, llava_next_video, llava_onevision, qwen2_vl, qwen2_5_vl, qwen3_vl, video_llava,
        video_llama_3, smolvlm,
    )
}  # fmt: skip


def made(build: Callable[[], Built], attention: str | dict[str, str] = "eager") -> tuple[Any, dict[str, Any]]:
    """The model under `attention` and its inputs; weights are wide, so that a wrong mask shows."""
    model_class, config, given = build()
    torch.manual_seed(0)
    return _widened(model_class._from_config(config, attn_implementation=attention)), given


@torch.no_grad()
def _widened(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        drawn = torch.randn(weight.shape, generator=generator)
        if weight.dim() >= 2:
            weight.copy_(drawn * (0.5 if "embed" in name or "query_tokens" in name else 1.2 * weight.shape[-1] ** -0.5))
        elif "bias" in name:
            weight.copy_(drawn * 0.1)
    return model.eval()
