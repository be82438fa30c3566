"""A sequence that processes share (context parallel): each computes its own rows over the keys and values of all."""

import torch
from torch import Tensor
from torch.nn import functional

from longreel.integrations.range_mask import Layout, RangeMask
from longreel.layout import PlannedLayout, VideoLayout
from longreel.layout import positions as positions_of
from longreel.layout.documents import repeated
from longreel.layout.shared import SharedRows
from longreel.ops._block_sparse_attention import block_sparse_attention
from longreel.ops.common.layouts import planned

_PLAIN, _TORCHS = functional.scaled_dot_product_attention, "_distribute_function.<locals>"


def refuse_torchs_own() -> None:
    """ValueError inside `torch.distributed.tensor.experimental.context_parallel`, which shares the rows and replaces PyTorch's
    attention alone: any other would take a process's share for the whole sequence."""
    now = functional.scaled_dot_product_attention
    if now is not _PLAIN and getattr(now, "__qualname__", "").startswith(_TORCHS):
        raise ValueError(
            "inside torch's context_parallel longreel attention must be told which rows a process has:"
            " longreel.use_layout(layout, rows=..., group=...)"
        )


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: RangeMask,
    given: Layout | None,
    scale: float | None,
    positions: Tensor | None,
    bounds: object = None,
) -> Tensor:
    """q [B, R, H, D], k, v [B, R, Hkv, D] of this process's rows -> [B, R, H, D].

    Raises:
        ValueError: anything but causal rows or a layout of the whole sequence bounds what is visible.
    """
    shared = mask.in_force.shared
    assert shared is not None
    if torch.compiler.is_compiling():
        raise RuntimeError("a sequence that processes share (use_layout(rows=...)) is not computed under torch.compile")
    layout = mask.in_force.layout if given is None else given
    if bounds is not None:
        raise ValueError(
            "cu_seq_lens_q cannot be combined with a sequence that processes share: a layout says the documents"
        )
    _check(q, k, mask, layout, shared, positions)
    whole = layout.layout if isinstance(layout, PlannedLayout) else layout
    whole = repeated(VideoLayout.causal(shared.length) if whole is None else whole, len(q))
    k, v = shared.gathered(k), shared.gathered(v)
    parts = q.split([stop - first for first, stop in shared.runs], 1)
    return torch.cat(
        [
            block_sparse_attention(
                part, k, v, planned(whole.rows(*run), q.device), scale=scale, backend=mask.in_force.backend
            )
            for part, run in zip(parts, shared.runs, strict=True)
        ],
        1,
    )


def _check(
    q: Tensor, k: Tensor, mask: RangeMask, layout: Layout | None, shared: SharedRows, positions: Tensor | None
) -> None:
    rule, rows = mask.rule, shared.rows
    if q.shape[1] != len(rows):
        raise ValueError(f"this forward pass is of {q.shape[1]} rows, this process's rows= are {len(rows)}")
    others = {
        "a cache that holds keys": k.shape[1] != q.shape[1] or isinstance(mask.place, Tensor) or mask.place > 0,
        "an attention_mask that pads": mask.start is not None or mask.gap is not None,
        "a layout with padding given by with_start": isinstance(layout, PlannedLayout) and layout.start_given,
        "the model's own window, chunks or blocks": (rule.window, rule.chunk, rule.function) != (None, None, None),
    }
    if any(others.values()):
        raise ValueError(
            f"{next(what for what, there in others.items() if there)} cannot be combined with a sequence that processes share"
        )
    if isinstance(layout, PlannedLayout | VideoLayout):
        whole = layout.layout if isinstance(layout, PlannedLayout) else layout
        if whole.window is not None or whole.order != "position" or whole.length != shared.length:
            raise ValueError(
                f"the layout is of {whole.queries} rows; allowed: one of all {shared.length} that the processes share, in"
                " position order"
            )
    if positions is not None and positions.ndim == 2 and positions.shape[1]:
        # Once a pass: the host waits for a card's positions.
        given = (positions, layout)
        if not mask.checked or any(a is not b for a, b in zip(mask.checked, given, strict=True)):
            check_positions(positions.to("cpu"), rows, None if layout is None else whole)
            mask.checked = given


def check_positions(counted: Tensor, rows: Tensor, whole: VideoLayout | None) -> None:
    """ValueError where position_ids [B, R] count a process's rows instead of the sequence's, of which `whole` is the layout."""
    if whole is None and not bool((counted == rows).all()):
        raise ValueError("position_ids are not this process's rows=, and there is no layout that says otherwise")
    from_0 = torch.arange(len(rows))
    if whole is None or not bool((counted == from_0).all()) or bool((rows == from_0).all()):
        return
    # Documents behind the first count from 0 too.
    if not bool((torch.as_tensor(positions_of(whole))[:, rows] == from_0).all()):
        raise ValueError("position_ids count this process's rows from 0: give those of the whole sequence, [:, rows]")
