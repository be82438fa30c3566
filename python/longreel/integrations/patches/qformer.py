"""Cross-attention of Q-Formers (BLIP-2, InstructBLIP, InstructBLIP-Video, LLaMA-VID, Video-LLaMA) by qformer_attention."""

from typing import Any

import torch
from torch import Tensor

from longreel.integrations.patches.common import aside, no_kernel, not_matrix
from longreel.integrations.patching.replacement import Aside, Patch, Replacement
from longreel.measure.machine import cpu_isa, multiplies_bf16
from longreel.ops._qformer_attention import NAME, absorbed_flops, projected_flops, qformer_attention

# An additive mask at or below this hides a key: BERT's own number, and smaller ones. Their exponentials are 0.
HIDES = -1e4


def _fits(path: str, module: Any) -> bool:
    # transformers: crossattention.attention; the others: crossattention.self
    return "crossattention" in path.split(".")


def _objection(module: Any) -> str | None:
    if getattr(module, "is_decoder", False):
        return "it is a decoder's, which caches the projected keys and values"
    if getattr(module, "position_embedding_type", "absolute") != "absolute":
        return f"its scores have {module.position_embedding_type} positions"
    return not_matrix(key=module.key, value=module.value) or no_kernel(NAME, None, module.key.weight)


def _dropout(module: Any) -> float:
    dropout = getattr(module, "dropout", None)
    return float(getattr(module, "attention_dropout", 0.0) if dropout is None else dropout.p)


def forward(call: Replacement, *args: Any, **kwargs: Any) -> Any:
    """hidden_states [B|1, Nq, E] read encoder_hidden_states [B, S, C]: ([B, Nq, H*D], and the fields that follow it)."""
    module, given = call.module, call.named(args, kwargs)
    rows, encoded = given.get("hidden_states"), given.get("encoder_hidden_states")
    if not isinstance(encoded, Tensor) or not isinstance(rows, Tensor):
        return Aside("a call without encoder_hidden_states")
    away = aside(
        _unserved(module, given),
        not_matrix(key=module.key, value=module.value),
        _unequal(rows, encoded, module),
        no_kernel(NAME, call.backend, encoded),
    )
    if away is not None:
        return away
    if _projects(module, rows, encoded):
        return Aside("projecting the keys is faster")
    mask = key_mask(given.get("encoder_attention_mask"), encoded.shape[0], encoded.shape[1])
    if isinstance(mask, Aside):
        return mask
    out = qformer_attention(
        module.query(rows), encoded, module.key.weight, module.value.weight, module.value.bias,
        num_heads=module.num_attention_heads, scale=getattr(module, "scaling", None), key_mask=mask, backend=call.backend,
    )  # fmt: skip
    # Second: the weights, which nobody asked for; or in older code the keys and values, which no cross-attention's caller reads.
    return out, None


def _unserved(module: Any, given: dict[str, Any]) -> str | None:
    if module.training and _dropout(module) > 0:
        return "attention dropout in training"
    if given.get("output_attentions") or getattr(module, "save_attention", False):
        return "the attention weights are wanted"
    eager = getattr(getattr(module, "config", None), "_attn_implementation", None) == "eager"
    if eager and (module._forward_hooks or getattr(module.config, "output_attentions", False)):
        return "a hook may want the attention weights"
    if any(given.get(name) is not None for name in ("head_mask", "past_key_value", "past_key_values")):
        return "a head mask or cached keys"
    return None


def _unequal(rows: Tensor, encoded: Tensor, module: Any) -> str | None:
    if len(rows) not in (1, len(encoded)):
        return f"{len(rows)} samples read {len(encoded)}"
    if {rows.dtype, module.key.weight.dtype, module.value.weight.dtype} != {
        encoded.dtype
    } and not torch.is_autocast_enabled(encoded.device.type):
        return "dtypes that differ"
    return None


def _projects(module: Any, rows: Tensor, encoded: Tensor) -> bool:
    """Whether the model's own projections are faster than the absorbed form, which the op has."""
    (batch, keys, channels), width = encoded.shape, module.key.out_features
    sizes = batch, rows.shape[1], keys, channels, width
    absorbed = absorbed_flops(*sizes, module.num_attention_heads, len(rows) < batch)
    # The CPU's kernels without tiles multiply bf16 in fp32, at half the rate of torch's where the CPU multiplies it itself.
    halved = encoded.dtype is torch.bfloat16 and encoded.device.type == "cpu" and _bf16_in_fp32()
    return (2 if halved else 1) * absorbed >= projected_flops(*sizes)


@torch.compiler.assume_constant_result
def _bf16_in_fp32() -> bool:
    return multiplies_bf16() and not cpu_isa().startswith("amx")


def key_mask(mask: Any, samples: int, keys: int) -> Tensor | Aside | None:
    """Which keys are read, bool [B, S], of the mask that the attention is given; None: all."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.shape[-1:] != (keys,) or mask.dim() not in (2, 4):
        return Aside(f"a mask of another form ({type(mask).__name__})")
    if torch.compiler.is_compiling():
        return Aside("a mask in compiled code")
    # Of four dimensions and a floating dtype it is added to the scores; others say which keys are read.
    adds = mask.dim() == 4 and mask.is_floating_point()
    if mask.dim() == 4:
        if mask.shape[1] != 1 or not bool((mask == mask[:, :, :1]).all()):
            return Aside("a mask that differs by head or query")
        mask = mask[:, 0, 0]
    keep = mask == 0 if adds else mask != 0
    if adds and not bool((keep | (mask <= HIDES)).all()):
        return Aside("a mask that adds to the scores")
    if bool(keep.all()):
        return None
    if not bool(keep.any(1).all()):
        return Aside("a sample without a key")
    return keep.expand(samples, -1)


ROW = Patch(
    "qformer",
    NAME,
    ("*QFormerMultiHeadAttention", "BertSelfAttention"),
    {"forward": forward},
    _objection,
    fits=_fits,
    made=(
        "blip_2.modeling_blip_2.Blip2QFormerModel",
        "instructblip.modeling_instructblip.InstructBlipQFormerModel",
        "instructblipvideo.modeling_instructblipvideo.InstructBlipVideoQFormerModel",
    ),
)
