"""What an op is: its public function and everything that stands behind it, as one object."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from longreel import backends, schemas
from longreel.backends import Request, Row
from longreel.ops.common.cost import Cost
from longreel.ops.common.forward_mode import REFUSING, transformed_in_place


class Lowered(NamedTuple):
    """A call of a public function that was checked: the low-level op's arguments by name (`schemas.arguments`), and what else
    the result's shape or the choice of a backend depends on."""

    args: Any
    rest: Any = None


@dataclass(frozen=True)
class Backward:
    """How `<op>_backward` is called where its schema does not say it all.

    needs: which inputs a flag stands for (`need_kv` for k and v), default the one of its name.
    sizes: arguments that are numbers of the forward's inputs (`tokens`).
    fake: outputs for the arguments by name; default an empty tensor like each input, of no elements where it is not wanted.
    """

    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sizes: Mapping[str, Callable[[Any], int]] = field(default_factory=dict)
    fake: Callable[..., Any] | None = None


# Every op that was made, by name.
OPS: dict[str, "Op"] = {}


@dataclass(frozen=True, eq=False)
class Op:
    """One op. Making it registers its fakes, its autograd, its Triton kernels, its backend rows, and itself in `OPS`.

    public: what users call; ends in `run(OP, lowered, backend)`.
    lowering: public arguments, without `backend` and what only shapes the result, to `Lowered`; raises where they do not fit.
    plain: the reference: low-level arguments to outputs; `same_dtype=True` computes in their dtype throughout.
    counted: public arguments, as `lowering` takes them, to FLOPs and bytes.
    rows: the backends, best first; the last is `backends.reference_row(name)`.
    fake: low-level arguments (one NamedTuple) to empty outputs.
    backward: None for an op without `<op>_backward` in the schemas: no kernel of it has a gradient.
    compositions: by backend, a function of `Lowered` for every row of that kind.
    objections: by backend, why it does not serve the values of a call, or None.
    form: public arguments, as `lowering` takes them, to a line on the form that is computed and what others would take.
    """

    name: str
    public: Callable[..., Any]
    lowering: Callable[..., Lowered]
    plain: Callable[..., Any]
    counted: Callable[..., Cost]
    rows: tuple[Row, ...]
    fake: Callable[[Any], Any]
    backward: Backward | None = None
    compositions: Mapping[str, Callable[[Lowered], Any]] = field(default_factory=dict)
    objections: Mapping[str, Callable[[Lowered], str | None]] = field(default_factory=dict)
    form: Callable[..., str] | None = None
    # the arguments that are changed in place
    mutates: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mutates", schemas.mutated(self.name))
        composed = {row.backend for row in self.rows if row.kind == "composition"}
        if composed != set(self.compositions):
            raise ValueError(
                f"{self.name}: rows and functions of compositions differ: {composed ^ {*self.compositions}}"
            )
        if (f"{self.name}_backward" in schemas.SCHEMAS) != (self.backward is not None):
            raise ValueError(f"{self.name}: a schema {self.name}_backward and `backward` come together")
        if bool(self.mutates) != self.name.endswith("_") or (self.mutates and self.backward is not None):
            raise ValueError(f"{self.name}: an op that changes arguments ends in _ and has no backward")
        register(self)
        backends.declare(self.rows)
        OPS[self.name] = self

    def lowered(self, *args: Any, **kwargs: Any) -> Lowered:
        """A call of the public function, checked and lowered; raises TypeError where the call would."""
        return self.lowering(**self._needed(*args, **kwargs))

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """Arguments of the low-level op for those of the public function."""
        return self.lowered(*args, **kwargs).args

    def cost(self, *args: Any, **kwargs: Any) -> Cost:
        """What a call of the public function costs at least."""
        return self.counted(**self._needed(*args, **kwargs))

    def form_of(self, *args: Any, **kwargs: Any) -> str | None:
        """Which of several forms a call of the public function computes, and why; None where there is one."""
        return None if self.form is None else self.form(**self._needed(*args, **kwargs))

    def _needed(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        taken = inspect.signature(self.lowering).parameters
        given = inspect.signature(self.public).bind(*args, **kwargs).arguments
        return {name: value for name, value in given.items() if name in taken}

    def reference(self, *args: Any, same_dtype: bool = False) -> tuple[Tensor, ...]:
        """Outputs of the reference for arguments of the low-level op; `same_dtype` computes in their dtype throughout."""
        outputs = self.plain(*args, same_dtype=same_dtype)
        return outputs if isinstance(outputs, tuple) else () if outputs is None else (outputs,)

    @property
    def differentiable(self) -> tuple[str, ...]:
        """The arguments that the kernels have gradients for."""
        return () if self.backward is None else tuple(made.removeprefix("grad_") for made in self._gradients)

    @property
    def gradients_together(self) -> tuple[tuple[str, ...], ...]:
        """Gradients that one flag asks for: who wants one of them gets all."""
        return () if self.backward is None else tuple(self.backward.needs.values())

    @property
    def _gradients(self) -> tuple[str, ...]:
        return schemas.outputs(f"{self.name}_backward")

    def request(self, lowered: Lowered) -> Request:
        """The call as the backend table takes it: device and dtype are those of the first argument."""
        first = lowered.args[0]

        def objection(backend: str) -> str | None:
            return self.objections[backend](lowered) if backend in self.objections else None

        return Request(first.device.type, first.dtype, objection, _transformed())


def _transformed() -> bool:
    return bool(torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0)


def _choose(op: Op, lowered: Lowered, backend: str | None) -> str:
    """The backend that serves the call. Asked once for a device and dtype where these alone decide: a question costs 2 us."""
    if backend is not None or torch.compiler.is_compiling() or _transformed():
        return backends.choose(op.name, backend, op.request(lowered))
    call = (op.name, lowered.args[0].device, lowered.args[0].dtype)
    chosen = backends.CHOSEN.get(call)
    if chosen is None:
        chosen = backends.choose(op.name, None, op.request(lowered))
        names = [row.backend for row in op.rows]
        if not op.objections.keys() & {*names[: names.index(chosen) + 1]}:
            backends.CHOSEN[call] = chosen
    return chosen


def run(op: Op, lowered: Lowered, backend: str | None) -> Any:
    """The outputs of the backend named, or of the first that can serve the call."""
    chosen = _choose(op, lowered, backend)
    if op.mutates and wants_grad(lowered.args):
        raise RuntimeError(
            f"{op.name} changes {', '.join(op.mutates)} in place and has no gradient: use torch.no_grad()"
        )
    if lowered.args[0].is_meta:
        outputs = call(op.name, schemas.KERNEL_BACKENDS[0], lowered.args)
    elif chosen == "reference":
        with transformed_in_place(op.name, op.mutates):
            outputs = op.plain(*lowered.args)
    elif chosen in op.compositions:
        outputs = op.compositions[chosen](lowered)
    else:
        outputs = call(op.name, chosen, lowered.args)
        if op.mutates and not torch.compiler.is_compiling():
            for changed in (getattr(lowered.args, name) for name in op.mutates):
                if not changed.is_inference():
                    torch.autograd.graph.increment_version(changed)
    return outputs


def wants_grad(args: tuple[Any, ...]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)


def call(name: str, backend: str, args: tuple[Any, ...]) -> Any:
    """Run `longreel::name.backend`. Where no gradient is wanted, Python's autograd kernel (about 5 us) is stepped over."""
    if torch.compiler.is_compiling():
        return schemas.overload(name, backend)(*args)
    overload = _overload(name, backend)
    if torch.is_inference_mode_enabled() or (torch.is_grad_enabled() and wants_grad(args)):
        # Inference mode steps over it itself.
        return overload(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return overload(*args)


_overload = cache(schemas.overload)


def register(op: Op) -> None:
    """Fakes, autograd and Triton kernels of one op, for every kernel backend."""
    Arguments = schemas.arguments(op.name)
    fakes = {op.name: lambda *args, **kwargs: op.fake(Arguments(*args, **kwargs))}
    if op.backward is not None:
        fakes[f"{op.name}_backward"] = _fake_backward(op.name, op.backward)
    for name, fake in fakes.items():
        for backend in schemas.kernel_backends(name):
            torch.library.register_fake(f"longreel::{name}.{backend}", fake, lib=schemas.LIBRARY)
        for key in ("CUDA", "CPU"):
            schemas.LIBRARY.impl(f"{name}.triton", _triton(op.name, name), key)
        if "gluon" in schemas.kernel_backends(name):
            schemas.LIBRARY.impl(f"{name}.gluon", _triton(op.name, f"{name}_gluon"), "CUDA")
    for backend in schemas.kernel_backends(op.name) if not op.mutates else ():
        if op.backward is None:
            backward, setup_context = (
                _refuses(f"{op.name} has no gradient on this backend; backend='reference' has"),
                None,
            )
        else:
            backward, setup_context = _autograd(op.name, backend, op.backward)
            again = _refuses(f"{op.name} has no second derivative on this backend; backend='reference' has")
            torch.library.register_autograd(f"longreel::{op.name}_backward.{backend}", again, lib=REFUSING)
        torch.library.register_autograd(
            f"longreel::{op.name}.{backend}", backward, setup_context=setup_context, lib=REFUSING
        )


def _triton(module: str, name: str) -> Callable[..., Any]:
    """The host function of triton_kernels/<op>, imported at the first call."""

    @cache
    def function() -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(importlib.import_module(f"longreel.triton_kernels.{module}"), name)
        return found

    return lambda *args: function()(*args)


def _refuses(message: str) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(message)

    return backward


def _flag(name: str, rules: Backward) -> tuple[str, ...]:
    """The inputs that the flag `need_...` stands for."""
    return rules.needs.get(name, (name.removeprefix("need_"),))


def _fake_backward(name: str, rules: Backward) -> Callable[..., Any]:
    """An empty gradient like each input; of no elements where no flag that stands for the input is set."""
    Arguments, returned = schemas.arguments(f"{name}_backward"), schemas.outputs(f"{name}_backward")
    inputs = [output.removeprefix("grad_") for output in returned]
    flags = {i: flag for flag in Arguments._fields if flag.startswith("need_") for i in _flag(flag, rules)}

    def fake(*args: Any, **kwargs: Any) -> Any:
        given = Arguments(*args, **kwargs)
        if rules.fake is not None:
            return rules.fake(given)
        wanted = [(getattr(given, i), getattr(given, flags[i])) for i in inputs]
        some = next(t for t, _ in wanted if t is not None)
        made = tuple(some.new_empty(t.shape if need and t is not None else (0,)) for t, need in wanted)
        return made if len(made) > 1 else made[0]

    return fake


def _autograd(name: str, backend: str, rules: Backward) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(backward, setup_context) that call `<name>_backward.<backend>` with what its schema names."""
    Arguments, produced = schemas.arguments(name), schemas.outputs(name)
    asked, returned = schemas.arguments(f"{name}_backward")._fields, schemas.outputs(f"{name}_backward")
    overload = schemas.overload(f"{name}_backward", backend)
    # An output that no gradient comes in for has none.
    constant = [output for output in produced if f"grad_{output}" not in asked]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        given = Arguments(*inputs)
        results = dict(zip(produced, output if isinstance(output, tuple) else (output,), strict=True))
        named = given._asdict() | results
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(results[name] for name in constant))
        ctx.tensors = [name for name in asked if isinstance(named.get(name), Tensor)]
        ctx.save_for_backward(*(named[name] for name in ctx.tensors))
        ctx.numbers = {name: value for name, value in named.items() if not isinstance(value, Tensor)}
        ctx.numbers |= {name: size(given) for name, size in rules.sizes.items()}

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        if all(grad is None for grad in grads):
            return (None,) * len(Arguments._fields)
        wanted = dict(zip(Arguments._fields, ctx.needs_input_grad, strict=True))
        # Once: gradient checkpointing makes them anew and lets go of them.
        named = ctx.numbers | dict(zip(ctx.tensors, ctx.saved_tensors, strict=True))
        named |= {f"grad_{output}": grad for output, grad in zip(produced, grads, strict=True)}
        named |= {flag: int(any(wanted[i] for i in _flag(flag, rules))) for flag in asked if flag.startswith("need_")}
        made = overload(*(named[argument] for argument in asked))
        by_name = dict(zip(returned, made if isinstance(made, tuple) else (made,), strict=True))
        return tuple(by_name.get(f"grad_{i}") if wanted[i] else None for i in Arguments._fields)

    return backward, setup_context
