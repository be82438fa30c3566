"""Launches recorded instead of run: what a host function passes to Triton is what is compiled ahead of time.

    with recorded(card) as launches:
        context_attention(...)  # tensors on the `meta` device: no memory, no values, the addresses' alignment

A launch is specialised as on a card: dtypes of pointers, integers that are 1 or multiples of 16, constants, options.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from longreel.triton_kernels.common.bound import every_launch_by_triton
from longreel.triton_kernels.common.card import Card, assumed
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction


@dataclass(frozen=True)
class Launch:
    """One specialisation of one kernel, as `triton.compile` takes it."""

    name: str
    kernel: Any
    types: dict[str, Any]
    constants: dict[tuple[int, ...], Any]
    attrs: dict[tuple[int, ...], Any]
    options: dict[str, Any]
    archs: tuple[int, ...]  # compute capabilities that it is for

    def compile(self, arch: int) -> Any:
        """The kernel compiled for one of `archs`; needs no card."""
        kind = ASTSource
        if self.kernel.is_gluon():
            from triton.experimental.gluon._runtime import GluonASTSource as kind
        source = kind(self.kernel, self.types, self.constants, self.attrs)
        return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=self.options)


class NoCard:
    """What the launcher asks of a driver before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")


class _Made(CompiledKernel):
    """Stands for what Triton makes of a launch; where it is launched again, that launch is noted once more."""

    def __init__(self, launch: Launch, launches: list[Launch]) -> None:
        self.launch, self.launches = launch, launches
        self.name, self.src, self.module, self.function, self.packed_metadata = launch.name, None, 0, 0, ()

    def __del__(self) -> None:
        pass

    @property
    def run(self) -> Any:
        return lambda *_: self.launches.append(self.launch)


@contextmanager
def recorded(card: Card, bound: bool = False) -> Iterator[list[Launch]]:
    """The launches that are asked for meanwhile, in their order, named after their kernels; nothing runs. bound: those of a
    `Bound` kernel are bound once, as on a card, and note what they were bound to, the same object each time."""
    launches: list[Launch] = []

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> _Made | None:
        options = {name: value for name, value in kwargs.items() if name not in kernel.arg_names}
        given = kwargs | {"debug": False}
        *_, backend, binder = kernel.create_binder()
        bound, specialization, parsed = binder(*args, **given)
        _, types, constants, attrs = kernel._pack_args(backend, given, bound, specialization, parsed)
        archs = (90,) if kernel.is_gluon() else (80, 90, 100)
        launches.append(Launch(kernel.fn.__name__, kernel, types, constants, attrs, options, archs))
        return _Made(launches[-1], launches) if bound else None

    run, active = JITFunction.run, driver._active
    driver.set_active(NoCard())
    JITFunction.run = record
    try:
        with assumed(card), nullcontext() if bound else every_launch_by_triton():
            yield launches
    finally:
        JITFunction.run = run
        driver._active = active


def launches_of(card: Card, labels: dict[str, str], call: Callable[..., Any], *arguments: Any) -> list[Launch]:
    """The launches of `call(*arguments)` whose kernels `labels` names by {kernel: label}, once each."""
    with recorded(card) as launches:
        call(*arguments)
    found: dict[str, Launch] = {}
    for launch in launches:
        if launch.name in labels:
            named = replace(launch, name=labels[launch.name])
            if found.setdefault(named.name, named) != named:
                raise AssertionError(f"{named.name} is launched in two specialisations")
    if missing := labels.values() - found.keys():
        raise AssertionError(f"not launched: {', '.join(sorted(missing))}")
    return list(found.values())
