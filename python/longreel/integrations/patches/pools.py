"""Pooling of visual tokens by adaptive_pool; where a projector's last linear comes before it, that linear comes after.

An average commutes with ``W x + b``: its weights sum to one. So the last linear is applied to a quarter of the rows.
"""

import math
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.integrations.patches.common import aside, hooked, no_kernel, not_matrix
from longreel.integrations.patching.replacement import Aside, Patch, Replacement
from longreel.ops._adaptive_pool import NAME, adaptive_pool


def _side(tokens: int) -> int | None:
    side = math.isqrt(tokens)
    return side if side * side == tokens else None


def _pooled(x: Tensor, size: int, backend: str | None, mode: str = "adaptive") -> Tensor:
    """In the dtype of `x`, under torch.autocast too, as PyTorch's own pooling is."""
    # The meta device has no autocast.
    with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        return adaptive_pool(x, size, mode=mode, backend=backend)


# LLaVA-NeXT-Video: average pooling alone.


def _next_video_objection(module: Any) -> str | None:
    pool = module.pool
    if type(pool) is not nn.AvgPool2d:
        return f"it pools by {type(pool).__name__}, which is no average"
    plain = pool.padding == 0 and not pool.ceil_mode and pool.divisor_override is None
    if not plain or not isinstance(pool.stride, int) or pool.stride != pool.kernel_size:
        return "its average is padded, or its windows overlap"
    return hooked(pool=pool)


def _next_video(call: Replacement, *args: Any, **kwargs: Any) -> Any:
    """image_features [F, N, C] of a square of patches -> [F, n, C]."""
    (x,) = call.named(args, kwargs).values()
    side, stride = _side(x.shape[1]), call.module.pool.stride
    away = aside(hooked(pool=call.module.pool), no_kernel(NAME, call.backend, x), _uneven(side, stride))
    if away is not None or side is None:
        return away
    return _pooled(x, side // stride, call.backend)


def _uneven(side: int | None, stride: int) -> str | None:
    if side is None:
        return "patches that are not a square"
    return None if side >= stride and side % stride == 0 else f"a side of {side} patches, not a multiple of {stride}"


# PerceptionLM: linear, GELU, linear, average.


def _perception_objection(module: Any) -> str | None:
    if not hasattr(module.pooling, "pooling_ratio"):
        return f"it does not pool ({type(module.pooling).__name__})"
    return not_matrix(linear_2=module.linear_2) or hooked(pooling=module.pooling)


def _perception(call: Replacement, *args: Any, **kwargs: Any) -> Any:
    """features [F, N, C] of a square of patches -> [F, n, E]."""
    module, (x,) = call.module, call.named(args, kwargs).values()
    side, ratio = _side(x.shape[1]), module.pooling.pooling_ratio
    small = None if side is not None and side >= ratio else f"{x.shape[1]} patches, not a square of at least {ratio}"
    away = aside(
        not_matrix(linear_2=module.linear_2), hooked(pooling=module.pooling), no_kernel(NAME, call.backend, x), small
    )
    if away is not None or side is None:
        return away
    hidden = module.gelu(module.linear_1(x))
    return module.linear_2(_pooled(hidden, side // ratio, call.backend))


# LLaVA-OneVision: linear, activation, linear, bilinear to half a side; pictures pass the same projector and are not pooled.

# While features of a video are made: what the projector gave, pooled already.
_POOLED: ContextVar[list[Tensor] | None] = ContextVar("longreel_pooled", default=None)


def _onevision_objection(module: Any) -> str | None:
    projector = module.multi_modal_projector
    return not_matrix(linear_2=projector.linear_2) or hooked(multi_modal_projector=projector)


def _onevision_video(call: Replacement, *args: Any, **kwargs: Any) -> Any:
    module = call.module
    away = aside(
        _onevision_objection(module),
        None if _ours(module, call) else "the projector or the pooling is not ours any more",
    )
    if away is not None:
        return away
    pooled: list[Tensor] = []
    token = _POOLED.set(pooled)
    try:
        out = call.plain(*args, **kwargs)
    finally:
        _POOLED.reset(token)
    if pooled:
        raise RuntimeError(
            f"{type(module).__name__}.get_video_features did not hand what its projector gave to apply_pooling, as the"
            " versions of transformers do that longreel.patch knows: longreel.unpatch(model) gives its own way back"
        )
    return out


def _ours(module: Any, call: Replacement) -> bool:
    held = (module.__dict__.get("apply_pooling"), module.multi_modal_projector.__dict__.get("forward"))
    return all(isinstance(one, Replacement) and one.active and one.patch is call.patch for one in held)


# Numbers of the hidden layer that are made at a time where no gradient is wanted: what a core's cache holds, and for devices.
_HIDDEN = {"cpu": 2**22, "other": 2**27}


def projected_and_pooled(projector: Any, x: Tensor, side: int, backend: str | None) -> Tensor:
    """x [F, side * side, C] -> [F, ceil(side / 2) ** 2, E]: LLaVA-OneVision's projector, pooled before its second linear layer,
    in pieces of frames: the wide hidden layer of a video never stands whole."""

    def piece(frames: Tensor) -> Tensor:
        hidden, half = projector.act(projector.linear_1(frames)), math.ceil(side / 2)
        if no_kernel(NAME, backend, hidden) is None:
            # An even side's cells lie half way between two patches, which averages are for CUDA C++ too.
            hidden = _pooled(hidden, half, backend, "adaptive" if side % 2 == 0 else "bilinear")
        else:
            grid = hidden.unflatten(1, (side, side)).movedim(-1, 1)
            hidden = F.interpolate(grid, size=(half, half), mode="bilinear").flatten(2).mT
        pooled: Tensor = projector.linear_2(hidden)
        return pooled

    room = _HIDDEN["cpu" if x.device.type == "cpu" else "other"]
    step = max(1, room // max(1, x.shape[1] * projector.linear_1.weight.shape[0]))
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or len(x) <= step:
        return piece(x)
    first = piece(x[:step])
    out = first.new_empty(len(x), *first.shape[1:])
    out[:step] = first
    for a in range(step, len(x), step):
        out[a : a + step] = piece(x[a : a + step])
    return out


def _onevision_projector(call: Replacement, *args: Any, **kwargs: Any) -> Any:
    """image_features [F, N, C] -> [F, N, E], of a video [F, n, E]."""
    pooled, module, (x,) = _POOLED.get(), call.module, call.named(args, kwargs).values()
    if pooled is None:
        return call.plain(x)
    side = _side(x.shape[1])
    if side is None:
        return Aside("patches that are not a square")
    pooled.append(projected_and_pooled(module, x, side, call.backend))
    return pooled[-1]


def _onevision_pooling(call: Replacement, *args: Any, **kwargs: Any) -> Any:
    pooled, (x,) = _POOLED.get(), call.named(args, kwargs).values()
    if pooled and x is pooled[-1]:
        return pooled.pop()
    return call.plain(x)


# Video-XL: Sequential(linear, GELU, linear), average; videos alone are pooled.


def _video_xl_objection(module: Any) -> str | None:
    projector, mode = module.get_model().mm_projector, getattr(module.config, "mm_spatial_pool_mode", None)
    if mode != "average":
        return f"mm_spatial_pool_mode is {mode!r}, which is no average"
    if type(projector) is not nn.Sequential or len(projector) < 2:
        return f"mm_projector is a {type(projector).__name__}; known: Sequential(Linear, ..., Linear)"
    return not_matrix(mm_projector=projector[-1]) or hooked(mm_projector=projector)


def _video_xl(call: Replacement, *args: Any, **kwargs: Any) -> Any:
    """videos_or_images [F, 3, h, w] -> a list of [F, N, H], of a video [F, n, H]."""
    module, given = call.module, call.named(args, kwargs)
    parts, tower = module.get_model(), module.get_model().get_vision_tower()
    side, stride = tower.num_patches_per_side, module.config.mm_spatial_pool_stride
    own = module.__dict__.get("get_2dPool")
    away = aside(
        _video_xl_objection(module),
        _uneven(side, stride),
        no_kernel(NAME, call.backend, parts.mm_projector[-1].weight),
        None if own is None else "get_2dPool has been replaced",
    )
    if away is not None:
        return away
    features = torch.split(tower(given["videos_or_images"]), given["split_sizes"], dim=0)
    return [
        _project(parts.mm_projector, x, side // stride, call.backend)
        if index in given["video_idx_in_batch"]
        else parts.mm_projector(x)
        for index, x in enumerate(features)
    ]


def _project(projector: nn.Sequential, x: Tensor, size: int, backend: str | None) -> Tensor:
    *before, last = projector
    for layer in before:
        x = layer(x)
    out: Tensor = last(_pooled(x, size, backend))
    return out


ROWS = (
    Patch(
        "llava_next_video",
        NAME,
        ("LlavaNextVideoPooler",),
        {"forward": _next_video},
        _next_video_objection,
        made=("llava_next_video.modeling_llava_next_video.LlavaNextVideoPooler",),
    ),
    Patch(
        "perception_lm",
        NAME,
        ("PerceptionLMMultiModalProjector",),
        {"forward": _perception},
        _perception_objection,
        made=("perception_lm.modeling_perception_lm.PerceptionLMMultiModalProjector",),
    ),
    Patch(
        "llava_onevision",
        NAME,
        ("LlavaOnevisionModel",),
        {
            "get_video_features": _onevision_video,
            "apply_pooling": _onevision_pooling,
            "multi_modal_projector.forward": _onevision_projector,
        },
        _onevision_objection,
        made=("llava_onevision.modeling_llava_onevision.LlavaOnevisionModel",),
    ),
    Patch(
        "video_xl",
        NAME,
        ("LlavaQwenForCausalLM",),
        {"encode_multimodals": _video_xl},
        _video_xl_objection,
        # LLaVA-NeXT has a class of this name, too
        fits=lambda path, module: hasattr(module.config, "beacon_window"),
    ),
)
