"""LLaMA-VID's projections around compress_frames: what its code calls vlm_attention's token_generation."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.ops._compress_frames import compress_frames
from longreel.ops.common.queries import exact

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
        ``W' = Wk^T Wp / sqrt(C)`` ``[C, Dq]`` and ``b' = Wk^T bp / sqrt(C)`` ``[C]`` (None without a bias), computed in
        float32 or wider and rounded once to the dtype of `key`. Differentiable.
    """
    wide = torch.promote_types(key.dtype, torch.float32)
    with exact(key.device):
        scaled = key.to(wide).t() * key.shape[-1] ** -0.5
        weight = scaled if query is None else scaled @ query.to(wide)
        folded_bias = None if bias is None else (scaled @ bias.to(wide)).to(key.dtype)
    return weight.to(key.dtype), folded_bias


class ContextAttention(nn.Module):
    """Text queries and patches of every frame -> 1 context token and n content tokens in the language model's width.

    LLaMA-VID (arXiv 2311.17043), section 3.1, as released: ``softmax(Wp text . Wk x / sqrt(C))`` over the patches, mean over
    the queries, value sum, Wv; the content tokens are the pooled patches through mm_projector. Wp and Wk are folded into one
    projection (`fold_projections`), so the keys are never formed and the patches are read once.

    Parameters carry the released names, below ``model.`` in a checkpoint: vlm_att_projector (Wp ``[C, Dq]``),
    vlm_att_key_projector (Wk ``[C, C]``; its bias cancels, takes no part and gets no gradient), vlm_att_val_projector
    (Wv ``[H, C]``), mm_projector.0 and .2 (``[H, C]``, ``[H, H]``, GELU between).

    Where the folded weights want a gradient they are folded at every call. Otherwise the fold is stored, and refreshed by
    load_state_dict, by .to() and its kin, and by any call outside compiled code that finds a weight changed. Compiled code
    uses the stored fold where Wp and Wk are frozen (requires_grad is False) and folds in the graph where they are not. A change
    through ``weight.data`` is invisible: call `fold` after one.

    Args:
        query_width: Dq, the width of the text queries; None where they arrive projected, as ``[*, M, C]``: then there is no
            vlm_att_projector.
        vision_width: C, the width of the patches.
        llm_width: H, the width of the language model.
        compress: None, all patches as content; "mean", one token; "grid:g" with g of at least 2, LLaMA-VID's grid pooling
            (see `longreel.adaptive_pool`, mode "grid").
        num_prefix_tokens: leading tokens of each frame (CLS) that take no part.
        backend: as in `longreel.compress_frames`.

    Raises:
        ValueError: `compress` is something else.
    """

    folded_weight: Tensor
    folded_bias: Tensor | None

    def __init__(
        self,
        query_width: int | None,
        vision_width: int,
        llm_width: int,
        *,
        compress: str | None = None,
        num_prefix_tokens: int = 0,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.pooling = _pooling(compress)
        self.num_prefix_tokens = num_prefix_tokens
        self.backend = backend
        self.vlm_att_projector = None if query_width is None else nn.Linear(query_width, vision_width, **made)
        self.vlm_att_key_projector = nn.Linear(vision_width, vision_width, **made)
        self.vlm_att_val_projector = nn.Linear(vision_width, llm_width, **made)
        self.mm_projector = nn.Sequential(
            nn.Linear(vision_width, llm_width, **made), nn.GELU(), nn.Linear(llm_width, llm_width, **made)
        )
        self.register_buffer("folded_weight", None, persistent=False)
        self.register_buffer("folded_bias", None, persistent=False)
        self.register_load_state_dict_post_hook(_fold_loaded)
        self.fold()

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
        """
        weight, bias = self._projection()
        frames = patches.shape[0]
        at_once = FRAMES_AT_ONCE["cpu" if patches.device.type == "cpu" else "gpu"]
        fits = all(_sets(rows, axis) in (1, frames) for rows, axis in ((text, 3), (query_mask, 2)))
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or frames <= at_once or not fits:
            return torch.cat(self._project(*self._compress(F.linear(text, weight, bias), patches, query_mask)), -2)
        # In blocks: projected queries of a few frames, and hidden rows of a few more, take no memory that grows with F.
        shared = _sets(text, 3) == 1
        projected = F.linear(text, weight, bias) if shared else text
        out: Tensor | None = None
        waiting: list[tuple[Tensor, Tensor]] = []
        begin = 0
        for start in range(0, frames, at_once):
            end = min(start + at_once, frames)
            query = projected if shared else F.linear(text[..., start:end, :, :], weight, bias)
            mask = query_mask if query_mask is None or _sets(query_mask, 2) == 1 else query_mask[..., start:end, :]
            waiting.append(self._compress(query, patches[start:end], mask))
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

    def _compress(self, query: Tensor, patches: Tensor, query_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """context ``[*, C]`` and content ``[F, n, C]``."""
        return compress_frames(
            query, patches, **self.pooling, num_prefix_tokens=self.num_prefix_tokens, scale=1.0, query_mask=query_mask,
            backend=self.backend,
        )[:2]  # fmt: skip

    def _project(self, context: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        """The context token ``[*, 1, H]`` and the content tokens ``[*, n, H]``."""
        first = self.vlm_att_val_projector(context).unsqueeze(-2)
        rest = self.mm_projector(content)
        return first, rest.expand(*first.shape[:-2], *rest.shape[-2:])

    def fold(self) -> None:
        """Store the fold of the weights as they are now."""
        with torch.inference_mode(False), torch.no_grad():
            self.folded_weight, self.folded_bias = fold_projections(*self._weights())
        self._folded_from = self._state()

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.pooling.items())

    def _projection(self) -> tuple[Tensor, Tensor | None]:
        weights = self._weights()
        trained = any(w is not None and w.requires_grad for w in weights)
        compiling = torch.compiler.is_compiling()
        if trained and (torch.is_grad_enabled() or compiling):
            return fold_projections(*weights)
        if not compiling and self._folded_from != self._state():
            self.fold()
        return self.folded_weight, self.folded_bias

    def _weights(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        key, query = self.vlm_att_key_projector.weight, self.vlm_att_projector
        return (key, None, None) if query is None else (key, query.weight, query.bias)

    def _state(self) -> tuple[tuple[int, int], ...]:
        """Changes with the weights: where each lies, and how often it was written."""
        return tuple((w.data_ptr(), -1 if w.is_inference() else w._version) for w in self._weights() if w is not None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ContextAttention":
        super()._apply(fn, recurse)
        self.fold()
        return self


def _sets(rows: Tensor | None, axis: int) -> int:
    """How many frames `rows` has sets for: its size on the `axis`-th dimension from the end, 1 where it has none."""
    return 1 if rows is None or rows.dim() < axis else rows.shape[-axis]


def _fold_loaded(module: ContextAttention, _: Any) -> None:
    module.fold()


def _pooling(compress: str | None) -> dict[str, Any]:
    """LLaMA-VID's compress_type as arguments of compress_frames."""
    if compress is None:
        return {"mode": "none"}
    if compress == "mean":
        return {"mode": "mean"}
    kind, _, size = compress.partition(":")
    if kind == "grid" and size.isdecimal() and int(size) >= 2:
        return {"mode": "grid", "output_size": int(size)}
    raise ValueError(f"compress={compress!r}: allowed are None, 'mean' and 'grid:g' with g of at least 2")
