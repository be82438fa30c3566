"""Causal models of the installed transformers with tiny sizes and random weights: what `sweep_models.py` and tests build."""

from copy import deepcopy
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 128
LARGEST = 20_000_000
# By the names that configurations have for sizes. Windows and chunks are shorter than the inputs.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "unpadded_vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "emb_dim": 32, "embedding_size": 32, "embedding_dim": 32,
    "word_embed_proj_dim": 32, "hidden_size_per_layer_input": 8, "input_embedding_size": 32, "output_embedding_size": 32,
    "attention_hidden_size": 32, "dim_model_base": 32, "lru_width": 32, "num_attention_heads": 4, "n_head": 4, "n_heads": 4,
    "num_heads": 4, "attention_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "swa_num_attention_heads": 4,
    "num_key_value_heads": 2, "swa_num_key_value_heads": 2, "head_dim": 8, "swa_head_dim": 8, "attention_head_size": 8,
    "dim_head": 8, "d_head": 8, "attention_head_dim": 8, "global_head_dim": 8, "rotary_dim": 4, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "qk_head_dim": 16, "v_head_dim": 12, "kv_lora_rank": 16, "q_lora_rank": 16, "o_lora_rank": 16,
    "kv_channels": 8, "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "d_inner": 48, "dff": 48, "dim_ff": 48,
    "ffn_hidden_size": 48, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16, "shared_intermediate_size": 16, "expert_ffn_hidden_size": 16,
    "intermediate_size_mlp": 48, "dense_intermediate_size": 48, "shared_experts_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16, "feed_forward_size": 48, "num_experts": 4, "n_routed_experts": 4,
    "num_local_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2, "moe_topk": 2, "zero_expert_num": 2,
    "n_group": 1, "topk_group": 1, "encoder_layers": 2, "decoder_layers": 2, "num_encoder_layers": 2,
    "num_decoder_layers": 2, "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64, "max_seq_len": 64,
    "model_max_length": 64, "context_length": 64, "max_source_positions": 64, "max_target_positions": 64,
    "sliding_window": 4, "sliding_window_size": 4, "window_size": 4, "local_attention": 8, "attention_window_size": 4,
    "attention_chunk_size": 4, "max_window_layers": 1, "index_head_dim": 8, "index_n_heads": 2, "index_topk": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_head_dim": 8, "linear_num_heads": 4, "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8,
    "mamba_num_heads": 8, "mamba_head_dim": 8, "state_size": 8, "ssm_state_size": 8, "chunk_size": 8, "mamba_chunk_size": 8,
    "time_step_rank": 4, "mamba_dt_rank": 4, "mamba_headdim": 8, "num_mem_heads": 4, "mamba_d_ssm": 64, "adapter_rank": 4,
    "laurel_rank": 4, "num_kv_shared_layers": 0, "is_decoder": True, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": None, "sep_token_id": None, "cls_token_id": None, "start_token_id": 1,
}  # fmt: skip
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# What the names above do not say.
SPECIAL: dict[str, dict[str, Any]] = {
    "BambaForCausalLM": {"attn_layer_indices": [1]},
    "DeepseekV2ForCausalLM": {"num_experts_per_tok": 2},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "Ernie4_5_MoeForCausalLM": {"moe_k": 2},
    "GraniteMoeHybridForCausalLM": {"layer_types": ["mamba", "attention"], "num_hidden_layers": 2},
    "HunYuanDenseV1ForCausalLM": {"head_dim": 8},
    "HunYuanMoEV1ForCausalLM": {"head_dim": 8},
    "KimiLinearForCausalLM": {"num_experts_per_token": 2, "num_experts_per_tok": 2},
    "Lfm2MoeForCausalLM": {"layer_types": ["full_attention", "conv"], "num_hidden_layers": 2},
    "Mamba2ForCausalLM": {"hidden_size": 32, "num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1},
    "MinistralForCausalLM": {"head_dim": 8},
    "ModernBertDecoderForCausalLM": {"cls_token_id": 1, "sep_token_id": 2},
    "MusicgenForCausalLM": {"num_codebooks": 1},
    "MusicgenMelodyForCausalLM": {"num_codebooks": 1},
    "Phi4MultimodalForCausalLM": {
        "vision_config": {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2},
        "audio_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 16,
            "nemo_conv_channels": 16,
            "depthwise_separable_out_channel": 16,
        },
    },
    "NemotronForCausalLM": {"head_dim": 8, "num_key_value_heads": 2},
    "PLBartForCausalLM": {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    "RecurrentGemmaForCausalLM": {"num_hidden_layers": 3},
    "ReformerModelWithLMHead": {"is_decoder": True, "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16]},
    "WhisperForCausalLM": {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    "XmodForCausalLM": {"default_language": "en_XX"},
    "Zamba2ForCausalLM": {"n_mamba_heads": 8, "mamba_ngroups": 1, "num_attention_heads": 4, "attention_head_dim": 16},
    "ZayaForCausalLM": {"num_experts_per_tok": 1},
}


def classes() -> list[str]:
    """Names of every class that the installed transformers makes for causal language modelling."""
    return list(dict.fromkeys(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()))


def config_of(name: str, **changes: Any) -> Any:
    """A tiny configuration of the class `name`; every kind of layer is there."""
    model_class = getattr(transformers, name)
    whole = model_class.config_class()
    text = whole.get_text_config(decoder=True)
    inside = "Conditional" not in name and text is not whole
    return _tiny(type(text) if inside else type(whole), SPECIAL.get(name, {}) | changes)


def _tiny(config_class: type, changes: dict[str, Any]) -> Any:
    default = config_class()
    held = default.to_dict()
    known = set(held) | set(getattr(default, "attribute_map", {}))
    # A size that is off stays off: a window, an optional projection.
    sizes = {
        key: value for key, value in SIZES.items() if key in known and (held.get(key) is not None or value is None)
    }
    if "kv_lora_rank" in held or "qk_nope_head_dim" in held:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    count = next((key for key in LAYERS if key in held), None)
    layers = int(held[count]) if count else 0
    kinds = {key: value for key, value in held.items() if isinstance(value, list) and layers and len(value) == layers}
    chosen = _layers(kinds, layers)
    if count:
        sizes[count] = len(chosen)
    sizes |= {key: [value[i] for i in chosen] for key, value in kinds.items()}
    for key, sub in getattr(default, "sub_configs", {}).items():
        part = getattr(default, key, None)
        if part is not None and type(part) is not dict:
            sizes[key] = _tiny(type(part), {}) if sub is not None else part
    return config_class(**sizes | changes)


def _layers(kinds: dict[str, list], layers: int) -> list[int]:
    """Two layers, or the first of every kind."""
    first: dict[Any, int] = {}
    for i in range(layers):
        first.setdefault(tuple(str(value[i]) for value in kinds.values()), i)
    return sorted(first.values()) if len(first) > 1 else [0, 1]


def build(name: str, attention: str, **changes: Any) -> Any:
    """A model in fp32 and evaluation mode, whose weights are drawn wide by their name and shape: the same for any attention."""
    config = config_of(name, **changes)
    model_class = getattr(transformers, name)
    with torch.device("meta"):
        numbers = sum(
            weight.numel()
            for weight in model_class._from_config(deepcopy(config), attn_implementation="eager").parameters()
        )
    if numbers > LARGEST:
        raise ValueError(f"its tiny configuration still has {numbers / 1e6:.0f} million weights")
    torch.manual_seed(0)
    model = model_class._from_config(config, attn_implementation=attention)
    return widened(model.float()).eval()


@torch.no_grad()
def widened(model: nn.Module) -> nn.Module:
    """Weights of matrices as large as keeps a layer's scale, so that a wrong mask shows."""
    generator = torch.Generator().manual_seed(0)
    for key, weight in model.named_parameters():
        drawn = torch.randn(weight.shape, generator=generator)
        if weight.dim() >= 2:
            weight.copy_(drawn * (0.5 if "embed" in key or "wte" in key else 1.2 * weight.shape[-1] ** -0.5))
        elif "bias" in key and "norm" not in key:
            weight.copy_(drawn * 0.1)
    return model
