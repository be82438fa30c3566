"""A stand-in for VoCo-LLaMA's repository and the transformers 4.37 below it: their class, attribute, argument and parameter names
around what longreel.patch takes the place of, written for these tests."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BaseModelOutputWithPast(NamedTuple):
    last_hidden_state: Tensor
    past_key_values: Any = None
    hidden_states: Any = None
    attentions: Any = None


class LlamaRotaryEmbedding(nn.Module):
    def __init__(self, dim: int, base: float = 10000.0) -> None:
        super().__init__()
        self.register_buffer("inv_freq", base ** -(torch.arange(0, dim, 2).float() / dim), persistent=False)

    def forward(self, x, seq_len=None):
        angles = torch.outer(torch.arange(seq_len).float(), self.inv_freq)
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def apply_rotary_pos_emb(q, k, cos, sin, position_ids, unsqueeze_dim=1):
    cos, sin = (table[position_ids].unsqueeze(unsqueeze_dim) for table in (cos, sin))

    def rotated(x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return x * cos + torch.cat([-right, left], -1) * sin

    return rotated(q), rotated(k)


class LlamaSdpaAttention(nn.Module):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx, self.attention_dropout = config, layer_idx, config.attention_dropout
        self.head_dim = config.hidden_size // config.num_attention_heads
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(config.hidden_size, config.hidden_size, bias=False))
        self.rotary_emb = LlamaRotaryEmbedding(self.head_dim)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        position_ids=None,
        past_key_value=None,
        output_attentions=False,
        use_cache=False,
    ):
        split = (*hidden_states.shape[:2], -1, self.head_dim)
        q, k, v = (p(hidden_states).view(split).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = apply_rotary_pos_emb(q, k, *self.rotary_emb(v, seq_len=k.shape[2]), position_ids)
        rate = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attention_mask, rate)
        return self.o_proj(mixed.transpose(1, 2).flatten(2)), None, past_key_value


class LlamaMLP(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (
            nn.Linear(config.hidden_size, config.intermediate_size, bias=False) for _ in range(2)
        )
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaDecoderLayer(nn.Module):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = LlamaSdpaAttention(config=config, layer_idx=layer_idx), LlamaMLP(config)
        self.input_layernorm, self.post_attention_layernorm = (
            nn.RMSNorm(config.hidden_size, config.rms_norm_eps) for _ in range(2)
        )

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        position_ids=None,
        past_key_value=None,
        output_attentions=False,
        use_cache=False,
        **kwargs,
    ):
        mixed, _, _ = self.self_attn(
            hidden_states=self.input_layernorm(hidden_states),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_value=past_key_value,
            output_attentions=output_attentions,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = hidden_states + mixed
        return (hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)),)


class LlamaModel(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self._use_sdpa, self._use_flash_attention_2 = config, True, False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LlamaDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False

    def _gradient_checkpointing_func(self, function, *args):
        return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        voco_loc_back=None,
    ):
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        length = hidden.shape[1]
        if position_ids is None:
            position_ids = torch.arange(length)[None]
        mask = _mask(attention_mask, voco_loc_back, hidden.dtype)
        kept = ()
        for layer in self.layers:
            kept = (*kept, hidden)
            if self.gradient_checkpointing and self.training:
                run = self._gradient_checkpointing_func
                hidden = run(layer.__call__, hidden, mask, position_ids, past_key_values, output_attentions, use_cache)[
                    0
                ]
            else:
                hidden = layer(hidden, attention_mask=mask, position_ids=position_ids)[0]
        hidden = self.norm(hidden)
        states = (*kept, hidden) if output_hidden_states else None
        if return_dict is False:
            return tuple(value for value in (hidden, states) if value is not None)
        return BaseModelOutputWithPast(hidden, hidden_states=states)


def _mask(real: Tensor, places: list[list[int]], dtype: torch.dtype) -> Tensor:
    """[B, 1, S, S]: causal; rows behind the last VoCo token see nothing before the first; rows of padding see everything."""
    length = real.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool).tril() & real.bool()[:, None]
    for sample, back in zip(seen, places, strict=False):
        at = [length - 1 - place for place in back]
        if at:
            sample[max(at) + 1 :, : min(at)] = False
    seen |= ~real.bool()[:, :, None]
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


class LlavaLlamaModel(LlamaModel):
    pass


class LlavaLlamaForCausalLM(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.model = config, LlavaLlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_model(self):
        return self.model

    def forward(self, **given: Any) -> Tensor:
        """Logits of real rows: those of padding mean nothing."""
        logits = self.lm_head(self.model(**given)[0])
        return logits[given["attention_mask"].bool()]


def config(**sizes: Any) -> SimpleNamespace:
    given = {
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 64, "vocab_size": 24,
        "rms_norm_eps": 1e-6, "attention_dropout": 0.0, "use_cache": False, "output_attentions": False,
        "output_hidden_states": False, "use_return_dict": True,
    }  # fmt: skip
    return SimpleNamespace(**(given | sizes))


def voco_llama() -> tuple[nn.Module, dict[str, Any]]:
    """Left padding, VoCo tokens in different places, and a sample without any."""
    mask = torch.ones(3, 40, dtype=torch.long)
    mask[1, :7] = 0
    given = {"inputs_embeds": torch.randn(3, 40, 48), "attention_mask": mask, "voco_loc_back": [[9, 8], [14], []]}
    return LlavaLlamaForCausalLM(config()).eval(), given
