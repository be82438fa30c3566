"""Running an op on its cases: the arguments in a dtype, on a device, in a layout; results and gradients by name."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from longreel import _native, schemas
from longreel.backends import Request, Row, refusal
from longreel.layout import PlannedLayout, VideoLayout
from longreel.ops.op import Lowered, Op
from longreel.ops.registry import OPS
from longreel.schemas import arguments, overload
from longreel.testing.budget import Errors, allowed, check_within, errors
from longreel.testing.cases.case import Inputs

__all__ = [
    "DTYPES",
    "Composed",
    "Recorder",
    "Run",
    "Variant",
    "Yardstick",
    "cpu_isa",
    "layouts",
    "low_level",
    "names",
    "of_variant",
    "outputs_of",
    "prepare",
    "run",
    "variants",
    "yardstick",
]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Variant:
    """One way to run an op on this machine: a backend, a device, and for C++ kernels an instruction set (None: the best)."""

    op: str
    backend: str
    device: str
    isa: str | None = None

    @property
    def spec(self) -> Op:
        return OPS[self.op]

    @property
    def row(self) -> Row:
        return next(row for row in self.spec.rows if row.backend == self.backend)

    def __str__(self) -> str:
        place = "" if self.device == "cpu" else f"@{self.device}"
        return f"{self.op}-{self.backend}{place}{'' if self.isa is None else f'[{self.isa}]'}"


def variants(op: str, isas: bool = False, kinds: Sequence[str] = ("kernel", "reference")) -> list[Variant]:
    """What the backend table offers for `op` on this machine, and a card has passed; with `isas` the C++ kernels once for each
    instruction set."""
    found = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for row in OPS[op].rows:
            if row.kind in kinds and row.proven and refusal(row, Request(device, row.dtypes[0]), named=True) is None:
                sets = _native.cpu_isas() if isas and row.backend == "cpu" else (None,)
                found += [Variant(op, row.backend, device, isa) for isa in sets]
    return found


@contextmanager
def cpu_isa(name: str | None) -> Iterator[None]:
    """The C++ kernels use this instruction set inside; None leaves their choice alone."""
    if name is None:
        yield
        return
    before = os.environ.get("LONGREEL_CPU_ISA")
    os.environ["LONGREEL_CPU_ISA"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["LONGREEL_CPU_ISA"]
        else:
            os.environ["LONGREEL_CPU_ISA"] = before


def prepare(inputs: Inputs, dtype: torch.dtype, device: str = "cpu", grad: Sequence[str] = ()) -> Inputs:
    """Copies on `device`, floating tensors rounded to `dtype`; those named in `grad` ask for a gradient. Layouts are planned."""

    def one(name: str, value: Any) -> Any:
        if isinstance(value, VideoLayout | PlannedLayout):
            return value.to(device)
        if not isinstance(value, Tensor):
            return value
        value = value.to(device, dtype if value.is_floating_point() else value.dtype, copy=True)
        return value.requires_grad_(name in grad)

    return {name: one(name, value) for name, value in inputs.items()}


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    """The same values under other strides: offset, gaps between rows, a last stride that is not 1, dimensions swapped, and
    (of the first entry, repeated) stride 0."""
    shape = tensor.shape
    if tensor.dim() == 0 or tensor.numel() == 0:
        return {}
    offset = tensor.new_empty(tensor.numel() + 3)[3:].view(shape).copy_(tensor)
    gaps = tensor.new_empty(*shape[:-1], shape[-1] + 3)[..., 1:-2].copy_(tensor)
    stepped = tensor.new_empty(*shape[:-1], 2 * shape[-1])[..., ::2].copy_(tensor)
    swapped = tensor.new_empty(tuple(reversed(shape))).permute(*reversed(range(tensor.dim()))).copy_(tensor)
    return {
        "offset": offset,
        "gaps": gaps,
        "stepped": stepped,
        "swapped": swapped,
        "repeated": tensor[:1].expand(shape),
    }


# A function of the low-level arguments, the kernel or the reference, that returns every output.
LowLevel = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Composed:
    """A composition: a function of the whole lowered call."""

    compute: Callable[[Lowered], Any]


def low_level(variant: Variant) -> LowLevel:
    """The low-level op of `variant`, a kernel or the reference, with its instruction set."""
    if variant.backend == "reference":
        return variant.spec.reference
    op = overload(variant.op, variant.backend)

    def run(*args: Any) -> tuple[Tensor, ...]:
        with cpu_isa(variant.isa):
            outputs = op(*args)
        return as_tuple(outputs)

    return run


def of_variant(variant: Variant) -> LowLevel | Composed:
    """What `run` takes for any variant."""
    composed = variant.spec.compositions.get(variant.backend)
    return low_level(variant) if composed is None else Composed(composed)


def outputs_of(variant: Variant, inputs: Inputs) -> tuple[Tensor, ...]:
    """Every output of the low-level op, or of what stands in its place, for arguments of the public function."""
    return _outputs(of_variant(variant), variant.spec.lowered(**inputs))


def _outputs(function: LowLevel | Composed, lowered: Lowered) -> tuple[Tensor, ...]:
    return as_tuple(function.compute(lowered)) if isinstance(function, Composed) else function(*lowered.args)


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else () if outputs is None else (outputs,)


def names(op: str) -> tuple[list[str], list[str]]:
    """Names of the low-level op's arguments and outputs; what it changes in place counts as an output."""
    return list(arguments(op)._fields), [*schemas.outputs(op), *OPS[op].mutates]


@dataclass
class Run:
    """Outputs and gradients of one call of a low-level function, by name."""

    outputs: dict[str, Tensor]
    grads: dict[str, Tensor] = field(default_factory=dict)

    @property
    def everything(self) -> dict[str, Tensor]:
        return self.outputs | {f"grad_{name}": grad for name, grad in self.grads.items()}


def run(
    op: str,
    function: LowLevel | Composed,
    inputs: Inputs,
    grad: Sequence[str] = (),
    through: Sequence[str] | None = None,
    isa: str | None = None,
) -> Run:
    """Call `function` on the lowered `inputs`; then gradients for the inputs named in `grad`, through the outputs named in
    `through` (None: all that have one), from upstream gradients that depend on the outputs' names and shapes only."""
    leaves = {name: inputs[name].detach().requires_grad_() for name in grad}
    lowered = OPS[op].lowered(**(inputs | leaves))
    # what is changed in place is changed in a copy
    changed = {name: getattr(lowered.args, name).clone() for name in OPS[op].mutates}
    lowered = lowered._replace(args=lowered.args._replace(**changed))
    results = dict(zip(names(op)[1], (*_outputs(function, lowered), *changed.values()), strict=True))
    reached = {
        name: output
        for name, output in results.items()
        if output.requires_grad and (through is None or name in through)
    }
    grads: Sequence[Tensor | None] = [None] * len(leaves)
    if reached and leaves:
        upstream = [_upstream(name, output) for name, output in reached.items()]
        with cpu_isa(isa):
            grads = torch.autograd.grad(list(reached.values()), list(leaves.values()), upstream, allow_unused=True)
    found = {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
    }
    return Run({name: output.detach() for name, output in results.items()}, found)


def _upstream(name: str, output: Tensor) -> Tensor:
    """Numbers that every dtype holds exactly, a pattern over the position counted from the end: a longer output of the same
    name ends with the same ones."""
    place = torch.arange(output.numel() - 1, -1, -1, device=output.device)
    return ((place * 2654435761 + len(name)) % 1021 / 128 - 4).to(torch.bfloat16).to(output.dtype).view(output.shape)


@dataclass
class Yardstick:
    """What the results of a call must be, in float64, and how far they may be from it: (budget, unit) by name."""

    truth: dict[str, Tensor]
    limits: dict[str, tuple[Errors, float]]

    def check(self, results: dict[str, Tensor], budgets: float = 1.0) -> None:
        """Raise AssertionError where one of the named results is over its budget; `budgets`: how many it may use up, for code
        that is not ours."""
        for name, value in results.items():
            limit, unit = self.limits[name]
            limit = Errors(budgets * limit.max_rel, budgets * limit.rms_rel)
            check_within(name, value.cpu(), self.truth[name], limit, unit)


def yardstick(
    op: str, rounded: Inputs, dtype: torch.dtype, grad: Sequence[str], through: Sequence[str] | None = None
) -> Yardstick:
    """The reference in float64 on inputs that are `rounded` to `dtype`, and the error of the reference in `dtype` itself.

    A gradient that vanishes in real arithmetic is rounding noise: it is measured against the largest gradient of the call.
    """

    def plain(*args: Any) -> tuple[Tensor, ...]:
        return OPS[op].reference(*args, same_dtype=True)

    truth = run(op, OPS[op].reference, prepare(rounded, torch.float64), grad, through)
    baseline = run(op, plain, prepare(rounded, dtype), grad, through).everything
    largest = max((t.abs().max().item() for t in truth.grads.values() if t.numel()), default=0.0)
    limits = {}
    for name, expected in truth.everything.items():
        vanishes = name.startswith("grad_") and expected.numel() > 0 and expected.abs().max().item() < 1e-12 * largest
        unit = largest if vanishes else 0.0
        limits[name] = allowed(errors(baseline[name], expected, unit), dtype), unit
    return Yardstick(truth.everything, limits)


class Recorder(TorchDispatchMode):
    """Notes every call of a longreel low-level op inside the block: (op, arguments, outputs)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch._ops.OpOverload, tuple[Any, ...], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "longreel":
            self.calls.append((func, args, result))
        return result
