"""The layout in force, for calls that take no keyword of ours (`generate`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from longreel.layout import PlannedLayout, VideoLayout


class InForce(NamedTuple):
    """What `use_layout` was given."""

    layout: VideoLayout | PlannedLayout | None = None
    backend: str | None = None


_IN_FORCE: ContextVar[InForce | None] = ContextVar("longreel_layout", default=None)


@contextmanager
def use_layout(layout: VideoLayout | PlannedLayout | None, *, backend: str | None = None) -> Iterator[None]:
    """Forward passes inside the block, of models with ``attn_implementation="longreel"``, run under `layout`.

    For `generate`: the layout of the prompt; decoded rows are text rows behind it, and a batch that is a multiple of the
    layout's samples (beams, several answers) has each sample so many times in a row. The layout is read when a forward pass
    begins, so that gradient checkpointing recomputes under the same one, wherever the backward pass runs.

    Args:
        layout: of the rows of the model's input; None: causal.
        backend: of `block_sparse_attention`; None chooses.
    """
    token = _IN_FORCE.set(InForce(layout, backend))
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


def in_force() -> InForce:
    return _IN_FORCE.get() or InForce()
