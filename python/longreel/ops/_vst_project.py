"""vst_project: queries, keys and values of Video-XL's rows, two products instead of six and no gather."""

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.layout.numbers import count
from longreel.ops.common.arguments import check_tensors
from longreel.ops.common.memory import check_alike
from longreel.ops.op import wants_grad


def vst_project(
    x: Tensor,
    n_raw: int,
    w_raw: Tensor,
    b_raw: Tensor | None,
    w_vst: Tensor,
    b_vst: Tensor | None,
    *,
    heads: int,
    kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Project rows grouped ``[raw | VST]``, each group by weights of its own.

    PyTorch's matrix products on every device, differentiable: no op of the registry, as there is no kernel to choose. Without
    gradients both write into one buffer.

    Args:
        x: ``[B, R, E]``, the first `n_raw` rows raw, the others VST (the order of a grouped layout).
        n_raw: how many are raw.
        w_raw, w_vst: ``[(H + 2 Hkv) D, E]``, the weights of queries, keys and values behind one another.
        b_raw, b_vst: ``[(H + 2 Hkv) D]`` or None.
        heads, kv_heads: H and Hkv.

    Returns:
        q ``[B, R, H, D]``, k and v ``[B, R, Hkv, D]``, not rotated: views of one tensor.

    Raises:
        ValueError: shapes that do not fit, naming what was given and what is allowed.
    """
    _check(x, n_raw, w_raw, b_raw, w_vst, b_vst, heads, kv_heads)
    groups = ((x[:, :n_raw], w_raw, b_raw), (x[:, n_raw:], w_vst, b_vst))
    plain = torch.compiler.is_compiling() or wants_grad((x, w_raw, b_raw, w_vst, b_vst)) or x.shape[0] != 1 or x.is_meta
    if plain or torch.is_autocast_enabled(x.device.type):
        rows = torch.cat([F.linear(*group) for group in groups], 1)
    else:
        rows = x.new_empty(1, x.shape[1], w_raw.shape[0])
        for (part, w, b), to in zip(groups, (rows[0, :n_raw], rows[0, n_raw:]), strict=True):
            if b is None:
                torch.mm(part[0], w.t(), out=to)
            else:
                torch.addmm(b, part[0], w.t(), out=to)
    # [B, R, H + 2 Hkv, D]
    every = rows.unflatten(-1, (heads + 2 * kv_heads, -1))
    return every[:, :, :heads], every[:, :, heads : heads + kv_heads], every[:, :, heads + kv_heads :]


def _check(
    x: Tensor,
    n_raw: int,
    w_raw: Tensor,
    b_raw: Tensor | None,
    w_vst: Tensor,
    b_vst: Tensor | None,
    heads: int,
    kv_heads: int,
) -> None:
    given = {"x": x, "w_raw": w_raw, "w_vst": w_vst}
    given |= {name: bias for name, bias in (("b_raw", b_raw), ("b_vst", b_vst)) if bias is not None}
    check_tensors(**given)
    # autocast makes the dtypes alike
    cast = not x.is_meta and torch.is_autocast_enabled(x.device.type)
    for name, tensor in given.items():
        check_alike(name, tensor.to(x.dtype) if cast else tensor, "x", x)
    for name, number in (("n_raw", n_raw), ("heads", heads), ("kv_heads", kv_heads)):
        count(name, number)
    if x.dim() != 3 or not 0 <= n_raw <= x.shape[1]:
        raise ValueError(f"x is [B, R, E] with n_raw of its R rows first; given {tuple(x.shape)}, n_raw={n_raw}")
    if w_raw.dim() != 2 or w_raw.shape[1] != x.shape[2] or w_vst.shape != w_raw.shape:
        raise ValueError(
            f"w_raw and w_vst are [(H + 2 Hkv) D, {x.shape[2]}]; given {tuple(w_raw.shape)} and {tuple(w_vst.shape)}"
        )
    every = heads + 2 * kv_heads
    if every < 1 or w_raw.shape[0] % every:
        raise ValueError(f"weights of {w_raw.shape[0]} rows are not those of {every} heads (H + 2 Hkv) of one size")
    for name, bias in (("b_raw", b_raw), ("b_vst", b_vst)):
        if bias is not None and bias.shape != w_raw.shape[:1]:
            raise ValueError(f"{name} is [{w_raw.shape[0]}]; given {list(bias.shape)}")
