"""The layout in force, for calls that take no keyword of ours (`generate`)."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import checkpoint

from longreel.layout import PlannedLayout, VideoLayout
from longreel.layout.shared import SharedRows


class InForce(NamedTuple):
    """What `use_layout` was given."""

    layout: VideoLayout | PlannedLayout | None = None
    backend: str | None = None
    shared: SharedRows | None = None


_NOTHING = InForce()
_IN_FORCE: ContextVar[InForce | None] = ContextVar("longreel_layout", default=None)
# The same as `value`, for torch.compile: a graph reads and guards an attribute of a thread, which it cannot do with a context
# variable (nor, on torch 2.10, with one of a subclass). `tasks`: blocks that tasks of an event loop hold open; they take turns
# in one thread, so that what it holds is not theirs.
_TRACED = threading.local()


def check_layout(name: str, layout: object) -> None:
    """TypeError for what is neither a layout nor None, ValueError for a plan of a device's lengths, of a step or of some rows."""
    if layout is None or isinstance(layout, VideoLayout):
        return
    if not isinstance(layout, PlannedLayout):
        raise TypeError(f"{name} is a {type(layout).__name__}; allowed: VideoLayout, or what layout.to(device) gives")
    if not isinstance(layout.layout, VideoLayout):
        raise ValueError(
            f"{name} of a model is one that the host knows; this plan is of lengths on a device, of a step or of some rows:"
            " allowed are a VideoLayout, and what its .to(device) gives"
        )


@contextmanager
def use_layout(
    layout: VideoLayout | PlannedLayout | None,
    *,
    backend: str | None = None,
    rows: Tensor | None = None,
    group: Any = None,
) -> Iterator[None]:
    """Forward passes inside the block, of models with ``attn_implementation="longreel"``, run under `layout`.

    For `generate`: the layout of the prompt; decoded rows are text rows behind it, and a batch that is a multiple of the
    layout's samples (beams, several answers) has each sample so many times in a row. The layout is read when a forward pass
    begins, so that gradient checkpointing recomputes under the same one, wherever the backward pass runs. Threads that are
    started inside the block, work that is given to a `ThreadPoolExecutor` there, and what `torch.utils.checkpoint` recomputes
    of it, run under it too, also when the block has ended by then.

    Args:
        layout: of the rows of the model's input; None: causal.
        backend: of `block_sparse_attention`; None chooses.
        rows: int64 [R], the rows of the sequence that this process computes, where the processes of `group` share one (context
            parallel): its inputs are those rows, in that order, with their own `position_ids`; the layout is of the whole
            sequence. Every layer gathers the keys and values of all. All processes enter the block.
        group: a process group of torch.distributed; None is the default one.

    Raises:
        TypeError, ValueError: it is no layout, or one that only a device knows; rows that do not make up a sequence.
    """
    check_layout("layout", layout)
    _hand_on_to_threads()
    _hand_on_to_recomputation()
    with _entered(InForce(layout, backend, None if rows is None else SharedRows(rows, group))):
        yield


@contextmanager
def _entered(value: InForce) -> Iterator[None]:
    token = _IN_FORCE.set(value)
    name: str = "value"
    traced: Any = value
    if asyncio._get_running_loop() is not None:
        name, traced = "tasks", getattr(_TRACED, "tasks", 0) + 1
    before = getattr(_TRACED, name, None)
    setattr(_TRACED, name, traced)
    try:
        yield
    finally:
        _IN_FORCE.reset(token)
        setattr(_TRACED, name, before if name == "value" else _TRACED.tasks - 1)


def in_force() -> InForce:
    if not torch.compiler.is_compiling():
        return _IN_FORCE.get() or _NOTHING
    if getattr(_TRACED, "tasks", 0):
        raise RuntimeError(
            "use_layout in a task of an event loop is not known to torch.compile: run the model in a thread (asyncio.to_thread),"
            " or pass video_layout="
        )
    return getattr(_TRACED, "value", None) or _NOTHING


def _under(value: InForce, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _entered(value):
            return function(*args, **kwargs)

    return run


_HANDS_ON = "_longreel_hands_on"


def _hand_on_to_threads() -> None:
    """From the first use on, threads take the layout of the thread that starts them; a new thread's context is empty."""
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit
    if hasattr(start, _HANDS_ON):
        return

    @wraps(start)
    def start_under(self: threading.Thread) -> None:
        value = _IN_FORCE.get()
        if value is not None:
            self.run = _under(value, self.run)  # type: ignore[method-assign]
        start(self)

    @wraps(submit)  # type: ignore[arg-type]
    def submit_under(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        # What a pool's thread holds is of whoever started it.
        return submit(self, _under(_IN_FORCE.get() or _NOTHING, fn), *args, **kwargs)

    setattr(start_under, _HANDS_ON, True)
    threading.Thread.start = start_under  # type: ignore[method-assign]
    ThreadPoolExecutor.submit = submit_under  # type: ignore[method-assign,assignment]


# Functions of torch.utils.checkpoint whose first argument a later backward pass calls again: of newer and of older versions.
_RECOMPUTE = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")


def _hand_on_to_recomputation() -> None:
    """From the first use on, checkpoints recompute under the layout of the pass that they recompute."""
    name = next(name for name in _RECOMPUTE if hasattr(checkpoint, name))
    generator, forward = getattr(checkpoint, name), checkpoint.CheckpointFunction.forward
    if hasattr(generator, _HANDS_ON):
        return

    @wraps(generator)
    def generator_under(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return generator(_in_layout(fn), *args, **kwargs)

    @wraps(forward)
    def forward_under(ctx: Any, run_function: Callable[..., Any], *args: Any) -> Any:
        return forward(ctx, _in_layout(run_function), *args)

    setattr(generator_under, _HANDS_ON, True)
    setattr(checkpoint, name, generator_under)
    checkpoint.CheckpointFunction.forward = staticmethod(forward_under)  # type: ignore[method-assign]


def _in_layout(function: Callable[..., Any]) -> Callable[..., Any]:
    value = _IN_FORCE.get()
    return function if value is None else _under(value, function)
