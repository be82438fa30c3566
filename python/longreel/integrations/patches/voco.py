"""VoCo-LLaMA's repository: the decoder under its mask by block_sparse_attention; the dense [B, 1, S, S] masks are never made."""

import sys
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor

from longreel.integrations.patches.common import aside, hooked, no_kernel
from longreel.integrations.patching.replacement import Aside, Patch, Replacement, parameters
from longreel.layout import PlannedLayout, VideoLayout
from longreel.ops._block_sparse_attention import NAME, block_sparse_attention

TEXT, VOCO = 1, 3


def _fits(path: str, module: Any) -> bool:
    return "voco_loc_back" in parameters(type(module).forward)


def _objection(module: Any) -> str | None:
    if not module._use_sdpa:
        return "only its attention 'sdpa' has the VoCo mask"
    attention = module.layers[0].self_attn
    if not hasattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb"):
        return f"no apply_rotary_pos_emb beside {type(attention).__name__}"
    return no_kernel(NAME, None, attention.q_proj.weight)


def model_forward(call: Replacement, *args: Any, **kwargs: Any) -> Any:
    """As LlamaModel.forward: of input_ids or inputs_embeds [B, S, C] the hidden rows, those of padding apart."""
    module, given = call.module, call.named(args, kwargs)
    away = _away(call, given)
    if away is not None:
        return away
    rows, ids = given.get("inputs_embeds"), given.get("input_ids")
    hidden = module.embed_tokens(ids) if rows is None else rows
    layout = _layout(given["attention_mask"], given["voco_loc_back"])
    if isinstance(layout, Aside):
        return layout
    plan, positions = layout.to(hidden.device), given.get("position_ids")
    if positions is None:
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
    wanted = given.get("output_hidden_states")
    states: tuple[Tensor, ...] | None = () if _or(wanted, module.config.output_hidden_states) else None
    for layer in module.layers:
        states = None if states is None else (*states, hidden)
        # the plan stands where the mask does, and is met by the layer's attention below
        if module.gradient_checkpointing and module.training:
            run = module._gradient_checkpointing_func
            hidden = run(layer.__call__, hidden, plan, positions, None, False, False)[0]
        else:
            hidden = layer(hidden, attention_mask=plan, position_ids=positions)[0]
    hidden = module.norm(hidden)
    states = None if states is None else (*states, hidden)
    if not _or(given.get("return_dict"), module.config.use_return_dict):
        return tuple(value for value in (hidden, states) if value is not None)
    output = unwrap(type(module).forward).__globals__["BaseModelOutputWithPast"]
    return output(last_hidden_state=hidden, past_key_values=None, hidden_states=states, attentions=None)


def _away(call: Replacement, given: dict[str, Any]) -> Aside | None:
    module = call.module
    rows, ids = given.get("inputs_embeds"), given.get("input_ids")
    whole = (rows is None) != (ids is None) and given.get("attention_mask") is not None
    ours = [layer.self_attn.__dict__.get("forward") for layer in module.layers]
    attention = module.layers[0].self_attn
    return aside(
        _objection(module),
        None if whole and given.get("voco_loc_back") is not None else "a call without embeddings, mask or VoCo places",
        "the attention weights are wanted" if _or(given.get("output_attentions"), module.config.output_attentions) else None,
        "keys and values are to be cached" if _caches(module, given) else None,
        "attention dropout in training" if module.training and attention.attention_dropout > 0 else None,
        None if all(isinstance(one, Replacement) and one.active for one in ours) else "a layer's attention is not ours any more",
        hooked(**{f"layer {i}'s attention": layer.self_attn for i, layer in enumerate(module.layers)}),
        no_kernel(NAME, call.backend, attention.q_proj.weight if rows is None else rows),
    )  # fmt: skip


def _or(given: Any, configured: Any) -> bool:
    return bool(configured if given is None else given)


def _caches(module: Any, given: dict[str, Any]) -> bool:
    if given.get("past_key_values") is not None:
        return True
    return _or(given.get("use_cache"), module.config.use_cache) and not (
        module.gradient_checkpointing and module.training
    )


def _layout(mask: Tensor, places: Any) -> VideoLayout | Aside:
    """The layout of attention_mask [B, S] and, a sample, the places of its VoCo tokens counted from the end."""
    if mask.dim() != 2:
        return Aside("a mask of another form")
    real = (mask != 0).cpu()
    if bool((real[:, :-1] & ~real[:, 1:]).any()):
        return Aside("padding on the right, of which the released code counts VoCo places from the wrong end")
    kinds = real.long() * TEXT
    for row, counted in zip(kinds, places, strict=False):
        for place in counted:
            row[len(row) - 1 - int(place)] = VOCO
    return VideoLayout.from_kinds(kinds)


def attention_forward(call: Replacement, *args: Any, **kwargs: Any) -> Any:
    """As LlamaSdpaAttention.forward, with a plan where the mask would be: ([B, S, C], None, None)."""
    module, given = call.module, call.named(args, kwargs)
    plan, hidden = given.get("attention_mask"), given["hidden_states"]
    if not isinstance(plan, PlannedLayout):
        return call.plain(*args, **kwargs)
    # [B, H, S, D]
    query, key, value = (
        project(hidden).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        for project in (module.q_proj, module.k_proj, module.v_proj)
    )
    rotate = sys.modules[type(module).__module__].apply_rotary_pos_emb
    positions = given["position_ids"]
    query, key = rotate(query, key, *module.rotary_emb(value, seq_len=key.shape[2]), positions)
    query, key, value = (t.transpose(1, 2) for t in (query, key, value))
    mixed = block_sparse_attention(query, key, value, plan, backend=call.backend)
    return module.o_proj(mixed.flatten(2)), None, None


ROW = Patch(
    "voco",
    NAME,
    ("LlamaModel",),
    {"forward": model_forward, "layers.*.self_attn.forward": attention_forward},
    _objection,
    fits=_fits,
)
