"""``attn_implementation="longreel"``: block_sparse_attention in transformers' decoders. ``import longreel`` is enough.

The layout comes with ``forward(..., video_layout=layout)`` or ``with longreel.use_layout(layout):``. Without one, rows attend
to what is before them, in the window, chunk or document that the model or its input names, and is not padding. No mask of
rows x keys is made: what the mask interface hands to the layers is a `RangeMask`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from longreel._transformers import require

require("longreel.integrations.transformers")

from transformers import AttentionInterface, AttentionMaskInterface  # noqa: E402
from transformers.masking_utils import causal_mask_function  # noqa: E402

from longreel.integrations import keywords, mask_functions, shared  # noqa: E402
from longreel.integrations.lazy import NAME, TOWERS, register  # noqa: E402
from longreel.integrations.padding import Gap, padding  # noqa: E402
from longreel.integrations.range_mask import Layout, RangeMask  # noqa: E402
from longreel.integrations.towers import attention as tower_attention  # noqa: E402
from longreel.layout.context import check_layout, in_force  # noqa: E402
from longreel.ops._block_sparse_attention import block_sparse_attention  # noqa: E402


def range_mask(
    batch_size: int,
    kv_length: int,
    q_length: int | None = None,
    q_offset: int | Tensor = 0,
    kv_offset: int | Tensor = 0,
    mask_function: Callable = causal_mask_function,
    attention_mask: Tensor | RangeMask | None = None,
    cache_position: Tensor | None = None,
    local_size: int | None = None,
    config: Any = None,
    device: torch.device | None = None,
    use_vmap: bool = False,
    **_: Any,
) -> RangeMask:
    """The mask interface: sizes and left padding of a forward pass instead of a mask.

    attention_mask [B, >= keys] is True at real rows. Padding stands on the left, or on the right, where no real row meets it, or
    behind what a cache holds (`Gap`). cache_position: int64 [queries], which older versions give for q_length and q_offset.

    Raises:
        ValueError: zeros elsewhere, or a mask of fewer rows or samples than the input.
    """
    if isinstance(attention_mask, RangeMask):
        # generate makes it before the forward pass where a cache has a fixed size.
        return attention_mask
    if cache_position is not None:
        q_length, q_offset = len(cache_position), cache_position[0]
    assert q_length is not None
    if attention_mask is not None and (attention_mask.ndim != 2 or len(attention_mask) < batch_size):
        raise ValueError(
            f"the attention mask is {list(attention_mask.shape)}, the input has {batch_size} samples; allowed: [samples, rows],"
            " a layout says more"
        )
    dropped = int(kv_offset)
    place: int | Tensor = (
        int(q_offset) - dropped if isinstance(q_offset, int) or attention_mask is not None else q_offset
    )
    if isinstance(place, Tensor):
        # A cache goes on to count in it.
        place = int(place) if torch.compiler.is_compiling() or torch.is_grad_enabled() else place.clone()
        place -= dropped
    if mask_function is causal_mask_function:
        rule = mask_functions.CAUSAL
    elif torch.compiler.is_compiling():
        rule = mask_functions.unread(mask_function, use_vmap, local_size, config)
    else:
        rule = mask_functions.read(mask_function, use_vmap)
    start: Tensor | Gap | None = None
    if attention_mask is not None:
        first = int(place)
        if attention_mask.shape[1] < dropped + first + q_length:
            raise ValueError(
                f"the attention mask is {list(attention_mask.shape)}, the rows so far are {dropped + first + q_length};"
                " allowed: one column a row, those in the cache too"
            )
        attention_mask = attention_mask[:batch_size]
        start = padding(attention_mask[:, dropped : dropped + first + q_length])
    gap, start = (start, None) if isinstance(start, Gap) else (None, start)
    return RangeMask(
        batch_size, q_length, kv_length, place, start, in_force(), rule, dropped, attention_mask, gap, device
    )


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    video_layout: Layout | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    position_ids: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention interface: query [B, H, Sq, D], key [B, Hkv, Sk, D], value [B, Hkv, Sk, Dv] -> [B, Sq, H, Dv]; heads are
    not expanded.

    Raises:
        ValueError: anything is set that would change the result and is not computed here.
    """
    name = type(module).__name__
    if attention_mask is not None and not isinstance(attention_mask, RangeMask):
        raise ValueError(
            f"{name}: a mask of its own ({keywords.described(attention_mask)}) cannot be combined with longreel attention;"
            " allowed: a 2-D attention_mask, and a layout"
        )
    # What a model hands to the mask interface says all; a layer that is given no mask says itself whether it is causal.
    causal = is_causal in (None, True) and (attention_mask is not None or getattr(module, "is_causal", True))
    if not causal and (attention_mask is None or attention_mask.rule.function is None):
        raise ValueError(
            f"{name} is not causal, longreel attention is; give it another, as in attn_implementation="
            '{"text_config": "longreel", "vision_config": "sdpa"}'
        )
    if dropout:
        raise ValueError(f"{name}: attention dropout {dropout} is not computed by longreel; 'sdpa' and 'eager' have it")
    keywords.refuse(module, others)
    check_layout("video_layout", video_layout)
    rows, keys = query.shape[2], key.shape[2]
    mask = attention_mask
    if mask is None:
        if video_layout is None and is_causal is None and not hasattr(module, "is_causal"):
            raise ValueError(
                f"{name} was given no mask and does not say that it is causal (as attention to pictures is not), longreel"
                " attention is; give the model another, as attn_implementation='sdpa'"
            )
        rule = mask_functions.MaskRule(causal=True, window=sliding_window)
        mask = RangeMask(query.shape[0], rows, keys, keys - rows, None, in_force(), rule)
    if mask.queries != rows or mask.keys > keys or (isinstance(mask.place, int) and mask.end > keys):
        raise ValueError(
            f"{name}: the mask is of {mask.queries} rows over {mask.keys} keys, the layer has {rows} over {keys}"
        )
    size, out_size = query.shape[3], value.shape[3]
    if out_size < size:
        # Heads whose values are narrower (multi-head latent attention).
        value = nn.functional.pad(value, (0, size - out_size))
    elif out_size > size:
        scaling = size**-0.5 if scaling is None else scaling
        query, key = (nn.functional.pad(t, (0, out_size - size)) for t in (query, key))
    q, k, v = (t.transpose(1, 2) for t in (query, key, value))
    bounds = None if cu_seq_lens_q is None else (cu_seq_lens_q, cu_seq_lens_k)
    if mask.in_force.shared is not None:
        out = shared.attention(q, k, v, mask, video_layout, scaling, position_ids, bounds)
    else:
        shared.refuse_torchs_own()
        plan = mask.plan(video_layout, query.shape[0], query.device, bounds, position_ids)
        out = block_sparse_attention(q, k, v, plan, scale=scaling, backend=mask.in_force.backend)
    return out[..., :out_size] if out_size < size else out, None


AttentionInterface.register(NAME, attention)
AttentionInterface.register(TOWERS, tower_attention)
for name in (NAME, TOWERS):
    AttentionMaskInterface.register(name, range_mask)
register()
