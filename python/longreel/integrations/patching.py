"""patch() and unpatch(): ops in the place of methods of a live model, where its library has no hook.

Nothing of a model's library is imported: classes are known by their names, modules by what they hold.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import unwrap
from typing import Any, NamedTuple

import torch
from torch import nn

from longreel.backends import TABLE

# Where the rows stand; they need modules that stand above this one.
ROWS = "longreel.integrations.patches"


class Aside(NamedTuple):
    """Given back for a call that ours does not serve: the class's own method does, and the report counts it."""

    why: str


@dataclass(frozen=True)
class Patch:
    """One row of the table: what is replaced, by which op.

    classes: names, of a module's class or of one that it inherits from; "*" in front stands for any beginning.
    methods: what stands in the place of each; called with the `Replacement`, then as the method is. It gives `Aside` back
        where it does not serve the call.
    fits: path and module -> whether the row means this module, beyond the name of its class.
    objection: why a module is left as it is, or None.
    at: of a method that is a child's, the child's name.
    made: classes of transformers whose new instances `register_patch_mapping` patches.
    """

    name: str
    op: str
    classes: tuple[str, ...]
    methods: Mapping[str, Callable[..., Any]]
    objection: Callable[[Any], str | None]
    fits: Callable[[str, Any], bool] = lambda path, module: True
    at: Mapping[str, str] = field(default_factory=dict)
    made: tuple[str, ...] = ()

    def means(self, path: str, module: nn.Module) -> bool:
        names = {cls.__name__ for cls in type(module).__mro__}
        known = any(
            any(n.endswith(name[1:]) for n in names) if name.startswith("*") else name in names for name in self.classes
        )
        return known and self.fits(path, module)

    def places(self, module: nn.Module) -> dict[str, nn.Module]:
        """The module that has each method."""
        return {m: getattr(module, self.at[m]) if m in self.at else module for m in self.methods}


class Replacement:
    """Stands in a module's `__dict__` under a method's name, so that it is called in the place of the class's own.

    Weights are read at the call. A copy of the module has a copy of this one that belongs to it; so has a pickled one.
    """

    def __init__(self, patch: Patch, method: str, module: nn.Module, backend: str | None, before: Any = None) -> None:
        self.patch, self.method, self.backend, self.before = patch, method, backend, before
        # what it holds is known to its row alone
        self.module: Any = module
        self.active = True
        self.calls, self.aside = 0, Counter[str]()
        self.parameters = _parameters(getattr(type(module), method))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.active:
            return self.plain(*args, **kwargs) if self.before is None else self.before(*args, **kwargs)
        out = self.patch.methods[self.method](self, *args, **kwargs)
        aside = isinstance(out, Aside)
        if not torch.compiler.is_compiling():
            self.calls += 1
            if aside:
                self.aside[out.why] += 1
        return self.plain(*args, **kwargs) if aside else out

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        """The class's own method."""
        return getattr(type(self.module), self.method)(self.module, *args, **kwargs)

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name."""
        return {**dict(zip(self.parameters, args, strict=False)), **kwargs}

    def remove(self) -> None:
        """Out of the module; whoever wrapped this one goes on to the class's own method."""
        self.active = False
        held = self.module.__dict__.get(self.method)
        if held is self:
            if self.before is None:
                del self.module.__dict__[self.method]
            else:
                self.module.__dict__[self.method] = self.before
        while isinstance(held, Replacement):
            if held.before is self:
                held.before = self.before
            held = held.before
        for key, value in list(self.module.__dict__.items()):
            if value is self:
                # kept for later by somebody who put a method of their own there
                self.module.__dict__[key] = getattr(type(self.module), self.method).__get__(self.module)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.patch.name, self.method, self.module, self.backend, self.before)

    def __repr__(self) -> str:
        return f"<longreel {self.patch.op} in the place of {type(self.module).__name__}.{self.method}>"


def _parameters(method: Any) -> tuple[str, ...]:
    """Names of a method's arguments after self."""
    code = unwrap(method).__code__
    return code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]


def _again(name: str, method: str, module: nn.Module, backend: str | None, before: Any) -> Replacement:
    return Replacement(next(row for row in rows() if row.name == name), method, module, backend, before)


@dataclass(frozen=True)
class PatchLine:
    """One module: `left` says why it is as it was, None that `op` has taken its place."""

    path: str
    module: str
    op: str
    left: str | None
    replacements: tuple[Replacement, ...] = ()


@dataclass(frozen=True)
class PatchReport:
    """What `patch` did, module by module; printing it gives the text. As a context manager it takes back what it put in."""

    model: str
    lines: tuple[PatchLine, ...]

    @property
    def patched(self) -> tuple[PatchLine, ...]:
        return tuple(line for line in self.lines if line.left is None)

    @property
    def left(self) -> tuple[PatchLine, ...]:
        return tuple(line for line in self.lines if line.left is not None)

    @property
    def aside(self) -> dict[str, dict[str, int]]:
        """Of patched modules, calls that went to the class's own method: path -> why -> how often."""
        sums: dict[str, dict[str, int]] = {}
        for line in self.lines:
            counts = sum((one.aside for one in line.replacements), Counter[str]())
            if counts:
                sums[line.path] = dict(counts)
        return sums

    def __enter__(self) -> "PatchReport":
        return self

    def __exit__(self, *_: object) -> None:
        for line in reversed(self.lines):
            for replacement in reversed(line.replacements):
                replacement.remove()

    def __str__(self) -> str:
        if not self.lines:
            return f"{self.model}: nothing in it that longreel has an op for"
        head = f"{self.model}: {len(self.patched)} of {len(self.lines)} modules patched"
        away = self.aside
        rows = []
        for line in self.lines:
            rows.append(
                f"  {line.path or '(the model)'} ({line.module}): {line.op if line.left is None else f'left, {line.left}'}"
            )
            rows += [f"    {times} calls by its own method: {why}" for why, times in away.get(line.path, {}).items()]
        return "\n".join([head, *rows])


def rows() -> tuple[Patch, ...]:
    """The table, best first."""
    table: tuple[Patch, ...] = importlib.import_module(ROWS).TABLE
    return table


def patch(model: nn.Module, ops: str | Sequence[str] = "auto", backend: str | None = None) -> PatchReport:
    """longreel's ops in the place of the methods of a live model that they compute; see docs/patch.md for the models.

    It acts on this instance, not on its class. Weights, `state_dict` and hooks stay as they are, weights are read at each call.
    A call that an op does not serve (attention dropout in training, weights asked for, adapters on a projection that is read
    as a matrix, a device without a kernel) goes to the class's own method and is counted in `PatchReport.aside`.

    Args:
        model: of transformers, of one of the four systems' repositories, or a part of one.
        ops: "auto", or names of ops: "qformer_attention", "adaptive_pool", "compress_frames".
        backend: as in the ops; None chooses, and leaves alone what only the reference would compute.

    Returns:
        PatchReport: which modules are patched, which are left and why. ``with longreel.patch(model):`` takes back on leaving
        what this call put in; `unpatch` takes back everything.

    Raises:
        TypeError: model is no module.
        ValueError: ops or backend that there is none of.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; allowed: a torch.nn.Module")
    wanted = _wanted(ops, backend)
    lines = []
    try:
        for path, module in list(model.named_modules()):
            lines += [_line(row, path, module, backend) for row in wanted if row.means(path, module)]
    except BaseException:
        PatchReport("", tuple(lines)).__exit__()
        raise
    return PatchReport(type(model).__name__, tuple(lines))


def unpatch(model: nn.Module) -> None:
    """Every method of `model` that `patch` replaced as it was, `__dict__` and all."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; allowed: a torch.nn.Module")
    for module in model.modules():
        for value in list(module.__dict__.values()):
            while isinstance(value, Replacement):
                value.remove()
                value = value.before


def _wanted(ops: str | Sequence[str], backend: str | None) -> list[Patch]:
    table = rows()
    known = sorted({row.op for row in table})
    if ops != "auto" and isinstance(ops, str):
        raise ValueError(f"ops={ops!r}; allowed: 'auto', or a list of {', '.join(map(repr, known))}")
    unknown = [op for op in ops if op not in known] if ops != "auto" else []
    if unknown:
        raise ValueError(f"ops has {', '.join(map(repr, unknown))}; allowed: {', '.join(map(repr, known))}")
    chosen = [row for row in table if ops == "auto" or row.op in ops]
    have = sorted({one.backend for row in chosen for one in TABLE[row.op]})
    if backend is not None and chosen and backend not in have:
        raise ValueError(f"backend={backend!r}; allowed: None, {', '.join(map(repr, have))}")
    return chosen


def _line(row: Patch, path: str, module: nn.Module, backend: str | None) -> PatchLine:
    made: list[Replacement] = []
    why = _objection(row, module, backend)
    if why is None:
        for method, owner in row.places(module).items():
            made.append(Replacement(row, method, owner, backend, owner.__dict__.get(method)))
            owner.__dict__[method] = made[-1]
    return PatchLine(path, type(module).__name__, row.op, why, tuple(made))


def _objection(row: Patch, module: nn.Module, backend: str | None) -> str | None:
    if backend is not None and all(one.backend != backend for one in TABLE[row.op]):
        return f"{row.op} has no backend {backend!r}"
    try:
        why = row.objection(module)
    except (AttributeError, ValueError) as error:
        # something that a module of this name has elsewhere, or a weight that is no matrix
        return str(error)
    if why is not None:
        return why
    for method, owner in row.places(module).items():
        held = owner.__dict__.get(method)
        if held is not None and not isinstance(held, Replacement):
            return f"it has a {method} of its own ({getattr(held, '__qualname__', type(held).__name__)})"
        if not hasattr(type(owner), method):
            return f"its class has no {method}"
    same = [owner.__dict__.get(method) for method, owner in row.places(module).items()]
    if all(isinstance(one, Replacement) and one.patch is row and one.backend == backend for one in same):
        return "patched already"
    return None
