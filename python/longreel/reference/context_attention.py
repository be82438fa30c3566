"""context_attention, as the LLaMA-VID paper writes it: E_f = mean_m softmax_n(scale q_m . x_n) X_f."""

from typing import Any

import torch
from torch import Generator, Tensor

from longreel.reference.case import BadCase, Case, Inputs, normal

DIFFERENTIABLE = ("query", "patches")


def context_attention(
    query: Tensor, patches: Tensor, query_mask: Tensor | None, cu_seqlens: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """query [P, Q, M, C] (Q is 1 or F), patches [F, N, C] or packed [total, C] -> context [P, F, C], weights [P, F, N]
    or [P, total], lse [P, F, M]; computed in the dtype of the inputs."""
    if cu_seqlens is not None:
        return _packed(query, patches, query_mask, cu_seqlens, scale)
    # [P, F, M, N]
    scores = torch.matmul(query, patches.transpose(-1, -2)) * scale
    valid = query.new_ones(query.shape[:-1], dtype=torch.bool) if query_mask is None else query_mask
    valid = valid.expand(scores.shape[:-1])
    # [P, F, N]
    weights = (scores.softmax(-1) * row_share(valid, scores.dtype)[..., None]).sum(-2)
    # [P, F, C]
    context = torch.matmul(weights[..., None, :], patches)[..., 0, :]
    lse = scores.detach().logsumexp(-1).masked_fill(~valid, -torch.inf)
    return context, weights, lse


def row_share(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """valid [..., M] -> a_m = 1 / (number of valid rows), 0 for an invalid row."""
    return valid.to(dtype) / valid.sum(-1, keepdim=True).clamp(min=1)


def _packed(
    query: Tensor, patches: Tensor, query_mask: Tensor | None, cu_seqlens: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    prompts, sets, m, _ = query.shape
    total, frames = patches.shape[0], cu_seqlens.shape[0] - 1
    lengths = cu_seqlens.diff()
    # [total], the frame of every patch
    frame = torch.repeat_interleave(torch.arange(frames, device=patches.device), lengths, output_size=total)
    rows = query[:, frame] if sets == frames and sets != 1 else query.expand(-1, total, -1, -1)
    # [P, total, M]
    scores = torch.einsum("ptmc,tc->ptm", rows, patches) * scale
    index = frame[None, :, None].expand_as(scores)
    top = scores.new_full((prompts, frames, m), -torch.inf).scatter_reduce(1, index, scores.detach(), "amax")
    exp = (scores - top[:, frame]).exp()
    # [P, F, M]
    denominator = exp.new_zeros(prompts, frames, m).index_add(1, frame, exp)
    valid = query.new_ones(query.shape[:-1], dtype=torch.bool) if query_mask is None else query_mask
    valid = valid.expand(prompts, frames, m)
    # [P, total]
    weights = (exp / denominator[:, frame] * row_share(valid, exp.dtype)[:, frame]).sum(-1)
    context = patches.new_zeros(prompts, frames, patches.shape[1]).index_add(1, frame, weights[..., None] * patches)
    lse = (top + denominator.detach().log()).masked_fill(~valid, -torch.inf)
    return context, weights, lse.masked_fill(lengths[:, None] == 0, -torch.inf)


def frames_case(
    name: str,
    *,
    lead: tuple[int, ...] = (),
    rows: int = 5,
    tokens: int = 10,
    width: int = 24,
    frames: int = 3,
    sharp: float = 1.0,
    masked: bool = False,
    packed: tuple[int, ...] | None = None,
    fast: bool = False,
    **options: Any,
) -> Case:
    """A case of queries over frames. `lead` is query's *q, with -1 for the frames; `packed` gives frame lengths, repeated as
    needed; `masked` keeps about half of the rows and none of the last query set. Scores reach about 4 * `sharp`."""

    def make(generator: Generator, frames: int) -> Inputs:
        sets = tuple(frames if size == -1 else size for size in lead)
        inputs: Inputs = {"query": sharp * normal(generator, *sets, rows, width), **options}
        if packed is None:
            inputs["patches"] = normal(generator, frames, tokens, width)
        else:
            lengths = torch.tensor([0] + [packed[f % len(packed)] for f in range(frames)])
            inputs["cu_seqlens"] = lengths.cumsum(0)
            inputs["patches"] = normal(generator, int(lengths.sum()), width)
        if masked:
            mask = torch.rand(*sets, rows, generator=generator) < 0.5
            mask.view(-1, rows)[-1] = False
            inputs["query_mask"] = mask
        return inputs

    return Case(name, make, frames, fast)


def cases() -> list[Case]:
    weights: dict[str, Any] = {"return_weights": True}
    return [
        frames_case("shared", fast=True, **weights),
        frames_case("shared-without-weights"),
        frames_case("per-frame", lead=(-1,), **weights),
        frames_case("prompts", lead=(2, 1), frames=13, **weights),
        frames_case("prompts-per-frame-masked", lead=(2, -1), masked=True, fast=True, **weights),
        frames_case("two-prompt-dims", lead=(2, 2, 1), rows=3, **weights),
        frames_case("sets-over-one-frame", lead=(4,), frames=1, **weights),
        frames_case("no-valid-row", masked=True, **weights),
        frames_case("prompt-without-valid-row", lead=(3, 1), masked=True, **weights),
        frames_case("one-of-each", rows=1, tokens=1, width=1, frames=1, **weights),
        frames_case("one-patch", tokens=1, **weights),
        frames_case("odd", rows=7, tokens=37, width=17, frames=5, **weights),
        frames_case("more-rows-than-patches", rows=33, tokens=3, width=130, frames=2, **weights),
        frames_case("vision-tower", rows=32, tokens=257, width=96, frames=2, **weights),
        frames_case("wide", rows=9, tokens=50, width=1408, frames=2, **weights),
        frames_case("sharp", sharp=5.0, rows=16, tokens=49, width=64, frames=6, **weights),
        frames_case("sharpest", sharp=50.0, rows=16, tokens=49, width=64, frames=6, **weights),
        frames_case("scale-one", sharp=0.5, scale=1.0, **weights),
        frames_case("scale-zero", scale=0.0, **weights),
        frames_case("scale-negative", scale=-0.3, **weights),
        frames_case("no-frames", frames=0, **weights),
        frames_case("no-frames-per-frame", lead=(2, -1), frames=0, **weights),
        frames_case("no-patches", tokens=0, **weights),
        frames_case("no-rows", rows=0, **weights),
        frames_case("no-prompts", lead=(0, 1), **weights),
        frames_case("packed", packed=(4, 0, 7, 1), frames=5, fast=True, **weights),
        frames_case("packed-per-frame", lead=(-1,), packed=(4, 0, 7, 1), frames=5, **weights),
        frames_case("packed-prompts-masked", lead=(2, -1), masked=True, packed=(3, 40, 0), frames=6, **weights),
        frames_case("packed-nothing", packed=(0,), **weights),
        frames_case("packed-no-frames", packed=(1,), frames=0, **weights),
    ]


def bad_cases() -> list[BadCase]:
    q, x = torch.zeros(5, 8), torch.zeros(3, 10, 8)
    cu_seqlens = torch.tensor([0, 4, 10])
    return [
        BadCase("dtypes-differ", {"query": q.half(), "patches": x}, TypeError, "float16.*float32"),
        BadCase(
            "integers", {"query": q.int(), "patches": x.int()}, TypeError, "query is torch.int32; allowed: float32"
        ),
        BadCase("query-1d", {"query": q[0], "patches": x}, ValueError, r"\[\*q, M, C\], given \(8,\)"),
        BadCase("patches-2d", {"query": q, "patches": x[0]}, ValueError, r"\[F, N, C\].*given \(10, 8\)"),
        BadCase("widths-differ", {"query": q[:, :7], "patches": x}, ValueError, "width 7 .* width 8"),
        BadCase("no-width", {"query": q[:, :0], "patches": x[..., :0]}, ValueError, "at least 1"),
        BadCase("sets", {"query": q.expand(2, 5, 8), "patches": x}, ValueError, "last entry is 2, allowed are 1 and 3"),
        BadCase(
            "float-mask", {"query": q, "patches": x, "query_mask": torch.ones(5)}, TypeError, "float32; it must be bool"
        ),
        BadCase(
            "mask-shape", {"query": q, "patches": x, "query_mask": torch.ones(4) > 0}, ValueError, r"\(4,\).*\(5,\)"
        ),
        BadCase(
            "packed-3d", {"query": q, "patches": x, "cu_seqlens": cu_seqlens}, ValueError, r"\[total, C\].*\(3, 10, 8\)"
        ),
        BadCase(
            "cu_seqlens-float",
            {"query": q, "patches": x[0], "cu_seqlens": cu_seqlens.float()},
            ValueError,
            r"int32 or int64 \[F \+ 1\], given torch.float32",
        ),
        BadCase("cu_seqlens-empty", {"query": q, "patches": x[0], "cu_seqlens": cu_seqlens[:0]}, ValueError, r"\(0,\)"),
        BadCase(
            "cu_seqlens-beyond",
            {"query": q, "patches": x[0], "cu_seqlens": cu_seqlens + 1},
            ValueError,
            r"rise from 0 to 10.*\[1, 5, 11\]",
        ),
        BadCase(
            "cu_seqlens-falls",
            {"query": q, "patches": x[0], "cu_seqlens": torch.tensor([0, 8, 4, 10])},
            ValueError,
            "rise from 0 to 10",
        ),
    ]
