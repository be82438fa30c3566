"""``attn_implementation="longreel_flash"``: block_sparse_attention in vision towers, packed, one call a layer.

The word "flash" in a name makes transformers hand a tower's ``cu_seqlens`` on to its attention, where it else makes a call a
picture. The plan of the lengths is made on their device, once for all layers that get the same tensor.
"""

import threading
import weakref
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from longreel.integrations import keywords
from longreel.integrations.range_mask import RangeMask
from longreel.layout import PlannedLayout, VideoLayout
from longreel.layout._modes import fake_mode
from longreel.ops._block_sparse_attention import block_sparse_attention
from longreel.ops.common.layouts import planned

# A tower has lengths of pictures and of windows; several may run side by side.
MOST_PLANS = 8
REWRITTEN = "cu_seqlens were rewritten between the layers that got them: give each tower a tensor of its own"


class _Planned(NamedTuple):
    """A plan of the `rows` rows whose lengths are in `lengths`, and the layers that have had it."""

    lengths: "weakref.ref[Tensor]"
    version: int
    rows: int
    plan: PlannedLayout
    layers: "weakref.WeakSet[nn.Module]"


_PLANS: list[_Planned] = []
_LOCK = threading.Lock()


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    position_ids: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention interface: query [B, H, S, D], key and value [B, Hkv, S, D] -> [B, S, H, D]. With cu_seq_lens_q int [n + 1],
    B = 1 and sequence i attends to itself; else all rows attend to one another, padding aside.

    Raises:
        ValueError: a causal layer, or anything that would change the result and is not computed here.
    """
    name = type(module).__name__
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    if causal:
        raise ValueError(
            f"{name} is causal: 'longreel_flash' is the attention of vision towers, that of text is 'longreel'"
        )
    if attention_mask is not None and not isinstance(attention_mask, RangeMask):
        raise ValueError(
            f"{name}: a mask of its own ({keywords.described(attention_mask)}) cannot be combined with longreel attention"
        )
    if dropout:
        raise ValueError(f"{name}: attention dropout {dropout} is not computed by longreel; 'sdpa' and 'eager' have it")
    keywords.refuse(
        module, {k: v for k, v in others.items() if k not in ("max_length_q", "max_length_k", "deterministic")}
    )
    batch, _, rows, size = query.shape
    if key.shape[2] != rows or value.shape[3] != size:
        raise ValueError(
            f"{name}: {rows} query rows of {size} over {key.shape[2]} keys of {value.shape[3]}; 'longreel_flash' takes rows that"
            " attend to themselves, of one head size"
        )
    if cu_seq_lens_q is not None:
        if (
            batch != 1
            or attention_mask is not None
            or (cu_seq_lens_k is not None and cu_seq_lens_k is not cu_seq_lens_q)
        ):
            raise ValueError(
                f"{name}: cu_seq_lens_q are of one sample without a mask, and cu_seq_lens_k are the same tensor"
            )
        plan = of_lengths(cu_seq_lens_q, rows, module)
    elif attention_mask is not None:
        plan = attention_mask.plan(None, batch, query.device)
    else:
        plan = planned(_everything(rows), query.device, query)
    q, k, v = (t.transpose(1, 2) for t in (query, key, value))
    return block_sparse_attention(q, k, v, plan, scale=scaling), None


def of_lengths(cu_seqlens: Tensor, rows: int, layer: nn.Module) -> PlannedLayout:
    """The plan of packed sequences, made once for all layers that get the same tensor; nothing is read by the host.

    A layer that comes again belongs to another pass, for which it is made anew: a tensor's version counts no change under
    inference mode or through `.data`.
    """
    if torch.compiler.is_compiling():
        return VideoLayout.from_cu_seqlens(cu_seqlens, rows)
    version = 0 if cu_seqlens.is_inference() else cu_seqlens._version
    with _LOCK:
        for place, cached in enumerate(_PLANS):
            if cached.lengths() is cu_seqlens:
                if (
                    (cached.version, cached.rows) == (version, rows)
                    and layer not in cached.layers
                    and _same(cached, cu_seqlens)
                ):
                    cached.layers.add(layer)
                    return cached.plan
                del _PLANS[place]
                break
    plan = VideoLayout.from_cu_seqlens(cu_seqlens, rows)
    with _LOCK:
        _PLANS[:] = [cached for cached in _PLANS if cached.lengths() is not None][-MOST_PLANS + 1 :]
        _PLANS.append(_Planned(weakref.ref(cu_seqlens), version, rows, plan, weakref.WeakSet([layer])))
    return plan


def _same(cached: _Planned, cu_seqlens: Tensor) -> bool:
    """Whether the tensor holds what was planned. Another tower may meet it, rewritten without a count.

    Elsewhere than on a CPU the device asks, and the next wait for it fails where it does not.
    """
    planned_of: Tensor = cached.plan.layout.cu_seqlens
    if fake_mode(cu_seqlens) is not None:
        return True
    if cu_seqlens.device.type == "cpu":
        return torch.equal(planned_of, cu_seqlens)
    torch.ops.aten._assert_async.msg((planned_of == cu_seqlens).all(), REWRITTEN)
    return True


@lru_cache(maxsize=MOST_PLANS)
def _everything(rows: int) -> VideoLayout:
    return VideoLayout.blocks([0] * rows, causal=False)
