"""LLaMA-VID's projections around compress_frames: what its code calls vlm_attention's token_generation."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.backends import BackendError
from longreel.nn.linear import is_matrix, product, said
from longreel.ops._adaptive_pool import adaptive_pool
from longreel.ops._compress_frames import compress_frames
from longreel.ops.common.queries import autocast, check_pair, exact, lower_queries

# Frames of a block without gradients. 64 x 32 query rows fill a matrix product and stay in the caches of a few cores.
FRAMES_AT_ONCE = {"cpu": 64, "gpu": 1024}
# Content tokens of a block: the weights of mm_projector fit no cache, so many rows share one read of them.
PROJECTED_AT_ONCE = 1024


def fold_projections(
    key: Tensor, query: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """One projection for both sides of the scores: ``q . (Wk x + bk) / sqrt(C) = q' . x + const``, and the constant cancels
    in the softmax.

    Args:
        key: Wk ``[C, C]``.
        query: Wp ``[C, Dq]``, or None where queries arrive projected.
        bias: bp ``[C]`` or None.

    Returns:
        ``W' = Wk^T Wp / sqrt(C)`` ``[C, Dq]`` and ``b' = Wk^T bp / sqrt(C)`` ``[C]`` (None without a bias), summed in
        float32 or wider and rounded once to the dtype of `key`. Differentiable.

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit.
    """
    _check_fold(key, query, bias)
    scale = key.shape[-1] ** -0.5
    with exact(key.device):
        weight = key.t() * scale if query is None else product(key.t(), query, scale)
        folded_bias = None if bias is None else product(key.t(), bias[:, None], scale).squeeze(-1)
    return weight, folded_bias


class ContextAttention(nn.Module):
    """Text queries and patches of every frame -> 1 context token and n content tokens in the language model's width.

    LLaMA-VID (arXiv 2311.17043), section 3.1, as released: ``softmax(Wp text . Wk x / sqrt(C))`` over the patches, mean over
    the queries, value sum, Wv; the content tokens are the pooled patches through mm_projector. Wp and Wk are folded into one
    projection (`fold_projections`), so the keys are never formed and the patches are read once.

    Parameters carry the released names, below ``model.`` in a checkpoint: vlm_att_projector (Wp ``[C, Dq]``),
    vlm_att_key_projector (Wk ``[C, C]``; its bias cancels, takes no part and gets no gradient), vlm_att_val_projector
    (Wv ``[H, C]``), mm_projector.0 and .2 (``[H, C]``, ``[H, H]``, GELU between; see `projector`).

    Every call folds the weights as they are: nothing derived from them is stored, so nothing goes stale. A projection whose
    weight is not all it computes (LoRA and other adapters, hooks, parametrisations, quantisation, sharding) is called
    instead: vlm_att_projector on the text, before the fold; vlm_att_key_projector on the patches, whose keys are then formed
    as in the released code, at its cost. Merge adapters for the speed of the fold.

    Args:
        query_width: Dq, the width of the text queries; None where they arrive projected, as ``[*, M, C]``: then there is no
            vlm_att_projector.
        vision_width: C, the width of the patches.
        llm_width: H, the width of the language model.
        compress: None, all patches as content; "mean", one token; "grid:g" with g of at least 2, LLaMA-VID's grid pooling
            (see `longreel.adaptive_pool`, mode "grid").
        projector: mm_projector as the released ``mm_projector_type`` names it: "mlp2x_gelu" and any "mlpNx_gelu", "linear",
            or "identity", where C is H.
        num_prefix_tokens: leading tokens of each frame (CLS) that take no part.
        backend: as in `longreel.compress_frames`.

    Raises:
        ValueError: `compress` or `projector` is something else.
    """

    def __init__(
        self,
        query_width: int | None,
        vision_width: int,
        llm_width: int,
        *,
        compress: str | None = None,
        projector: str = "mlp2x_gelu",
        num_prefix_tokens: int = 0,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.pooling = pooling_of(compress)
        self.query_width, self.vision_width = query_width, vision_width
        self.num_prefix_tokens = num_prefix_tokens
        self.backend = backend
        self.vlm_att_projector = None if query_width is None else nn.Linear(query_width, vision_width, **made)
        self.vlm_att_key_projector = nn.Linear(vision_width, vision_width, **made)
        self.vlm_att_val_projector = nn.Linear(vision_width, llm_width, **made)
        self.mm_projector = build_projector(projector, vision_width, llm_width, **made)

    def forward(self, text: Tensor, patches: Tensor, query_mask: Tensor | None = None) -> Tensor:
        """Tokens of every frame.

        Args:
            text: ``[*q, M, Dq]`` (or ``[*q, M, C]``, see `query_width`), ``*q`` broadcasting with ``(F,)`` as in
                `longreel.context_attention`: ``[P, F, M, Dq]`` has P prompts with queries of their own for every frame.
            patches: ``[F, N, C]`` raw output of the vision tower.
            query_mask: bool, broadcasts to ``[*q, M]``, True for a valid row.

        Returns:
            ``[*, 1 + n, H]``, prompt-major, ``*`` is ``*q`` broadcast with ``(F,)``: the context token first, then the content
            tokens, row-major over the grid.

        Raises:
            ValueError, TypeError: shapes or dtypes that do not fit, or a projection that is sharded and not gathered.
            BackendError: see `longreel.compress_frames`; `backend` names one that forms no keys, and they are needed.
        """
        self._check(text, patches)
        project, compress = self._ways()
        frames = patches.shape[0]
        at_once = FRAMES_AT_ONCE["cpu" if patches.device.type == "cpu" else "gpu"]
        fits = all(_sets(rows, axis) in (1, frames) for rows, axis in ((text, 3), (query_mask, 2)))
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or frames <= at_once or not fits:
            return torch.cat(self._project(*compress(project(text), patches, query_mask)), -2)
        # In blocks: projected queries of a few frames, and hidden rows of a few more, take no memory that grows with F.
        shared = _sets(text, 3) == 1
        projected = project(text) if shared else text
        out: Tensor | None = None
        waiting: list[tuple[Tensor, Tensor]] = []
        begin = 0
        for start in range(0, frames, at_once):
            end = min(start + at_once, frames)
            query = projected if shared else project(text[..., start:end, :, :])
            mask = query_mask if query_mask is None or _sets(query_mask, 2) == 1 else query_mask[..., start:end, :]
            waiting.append(compress(query, patches[start:end], mask))
            if (end - begin) * waiting[0][1].shape[1] < PROJECTED_AT_ONCE and end < frames:
                continue
            contexts, contents = zip(*waiting, strict=True)
            first, rest = self._project(torch.cat(contexts, -2), torch.cat(contents))
            if out is None:
                out = first.new_empty(*first.shape[:-3], frames, 1 + rest.shape[-2], first.shape[-1])
            out[..., begin:end, :1, :], out[..., begin:end, 1:, :] = first, rest
            begin, waiting = end, []
        assert out is not None
        return out

    @property
    def folded_weight(self) -> Tensor:
        """W' ``[C, Dq]`` of the weights as they are now; see `fold_projections`."""
        return self._folded()[0]

    @property
    def folded_bias(self) -> Tensor | None:
        """b' ``[C]`` likewise."""
        return self._folded()[1]

    def fold(self) -> None:
        """Of earlier versions, which stored the fold. Nothing is stored: it does nothing."""

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.pooling.items())

    def _ways(self) -> tuple[Callable[[Tensor], Tensor], Callable[..., tuple[Tensor, Tensor]]]:
        """What makes queries of text, and what makes context ``[*, C]`` and content ``[F, n, C]`` of queries and patches."""
        key, query = self.vlm_att_key_projector, self.vlm_att_projector
        if not is_matrix(key):
            return (lambda text: text) if query is None else query, self._compress_by_keys
        if query is None or is_matrix(query):
            weight, bias = self._folded()
            return partial(F.linear, weight=weight, bias=bias), self._compress
        weight, _ = fold_projections(key.weight)
        return lambda text: F.linear(query(text), weight), self._compress

    def _folded(self) -> tuple[Tensor, Tensor | None]:
        query = self.vlm_att_projector
        given = () if query is None else (query.weight, query.bias)
        return fold_projections(self.vlm_att_key_projector.weight, *given)

    def _compress(self, query: Tensor, patches: Tensor, query_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return compress_frames(
            query, patches, **self.pooling, num_prefix_tokens=self.num_prefix_tokens, scale=1.0, query_mask=query_mask,
            backend=self.backend,
        )[:2]  # fmt: skip

    def _compress_by_keys(self, query: Tensor, patches: Tensor, query_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """In the released order up to the weights: the key projection is called on the patches."""
        if self.backend not in (None, "reference"):
            raise BackendError(
                f"backend={self.backend!r} forms no keys, which vlm_att_key_projector, a"
                f" {said(self.vlm_att_key_projector)}, needs; backend=None or 'reference' does"
            )
        query, patches = autocast(query, patches)
        check_pair(query, patches)
        lower_queries(query, query_mask, patches.shape[0])
        attended = patches[:, self.num_prefix_tokens :]
        keys = self.vlm_att_key_projector(attended)
        # [*, M, N], summed over M
        scores = (query * patches.shape[-1] ** -0.5) @ keys.mT
        weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        if query_mask is None:
            weights = weights.mean(-2)
        else:
            weights = (weights * query_mask[..., None]).sum(-2) / query_mask.sum(-1, keepdim=True).clamp(min=1)
        context = (weights.to(attended.dtype)[..., None, :] @ attended).squeeze(-2)
        return context, adaptive_pool(patches, **self.pooling, num_prefix_tokens=self.num_prefix_tokens)

    def _project(self, context: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        """The context token ``[*, 1, H]`` and the content tokens ``[*, n, H]``."""
        first = self.vlm_att_val_projector(context).unsqueeze(-2)
        rest = self.mm_projector(content)
        return first, rest.expand(*first.shape[:-2], *rest.shape[-2:])

    def _check(self, text: Tensor, patches: Tensor) -> None:
        for name, given in (("text", text), ("patches", patches)):
            if not isinstance(given, Tensor) or not given.is_floating_point():
                kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
                raise TypeError(f"{name} must be a floating tensor, given {kind}")
        width = self.vision_width
        if patches.dim() != 3 or patches.shape[-1] != width:
            raise ValueError(f"patches must be [F, N, {width}], given {list(patches.shape)}")
        wanted = width if self.query_width is None else self.query_width
        if text.dim() < 2 or text.shape[-1] != wanted:
            raise ValueError(f"text must be [*q, M, {wanted}], given {list(text.shape)}")


def build_projector(kind: str, width: int, out: int, **made: Any) -> nn.Module:
    """The released mm_projector of type `kind`, ``[*, width]`` -> ``[*, out]``, under its parameter names.

    Raises:
        ValueError: an unknown kind, or "identity" between different widths.
    """
    if kind == "linear":
        return nn.Linear(width, out, **made)
    if kind == "identity":
        if width != out:
            raise ValueError(
                f"projector='identity' keeps the width of the patches, {width}; the language model has {out}"
            )
        return nn.Identity()
    deep = re.fullmatch(r"mlp([1-9]\d*)x_gelu", kind)
    if deep is None:
        raise ValueError(f"projector={kind!r}: allowed are 'linear', 'identity' and 'mlpNx_gelu'")
    layers: list[nn.Module] = [nn.Linear(width, out, **made)]
    for _ in range(1, int(deep[1])):
        layers += [nn.GELU(), nn.Linear(out, out, **made)]
    return nn.Sequential(*layers)


def _sets(rows: Tensor | None, axis: int) -> int:
    """How many frames `rows` has sets for: its size on the `axis`-th dimension from the end, 1 where it has none."""
    return 1 if rows is None or rows.dim() < axis else rows.shape[-axis]


def _check_fold(key: Tensor, query: Tensor | None, bias: Tensor | None) -> None:
    if key.dim() != 2 or key.shape[0] != key.shape[1]:
        raise ValueError(f"key must be [C, C], given {list(key.shape)}")
    if query is not None and (query.dim() != 2 or query.shape[0] != key.shape[0]):
        raise ValueError(f"query must be [{key.shape[0]}, Dq], given {list(query.shape)}")
    if bias is not None and bias.shape != key.shape[:1]:
        raise ValueError(f"bias must be [{key.shape[0]}], given {list(bias.shape)}")
    for name, given in (("query", query), ("bias", bias)):
        if given is not None and given.dtype is not key.dtype:
            raise TypeError(f"key is {key.dtype} and {name} is {given.dtype}: they must have one dtype")


def pooling_of(compress: str | None) -> dict[str, Any]:
    """LLaMA-VID's compress_type as arguments of compress_frames."""
    if compress is None:
        return {"mode": "none"}
    if compress == "mean":
        return {"mode": "mean"}
    kind, _, size = compress.partition(":")
    if kind == "grid" and size.isdecimal() and int(size) >= 2:
        return {"mode": "grid", "output_size": int(size)}
    raise ValueError(f"compress={compress!r}: allowed are None, 'mean' and 'grid:g' with g of at least 2")
