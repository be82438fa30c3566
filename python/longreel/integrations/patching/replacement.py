"""What stands in the place of a module's method, and the rows of the table that says where."""

import importlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import unwrap
from typing import Any, NamedTuple

import torch
from torch import nn

# Where the rows stand; they need modules that stand above this one.
ROWS = "longreel.integrations.patches"


class Aside(NamedTuple):
    """Given back for a call that ours does not serve: the class's own method does, and the report counts it."""

    why: str


@dataclass(frozen=True)
class Patch:
    """One row of the table: what is replaced, by which op.

    classes: names, of a module's class or of one that it inherits from; "*" in front stands for any beginning.
    methods: what stands in the place of each: a method's name, or a child's path and the name of its method, "*" for any
        child. Called with the `Replacement`, then as the method is; `Aside` comes back where it does not serve the call.
    fits: path and module -> whether the row means this module, beyond the name of its class.
    objection: why a module is left as it is, or None.
    made: classes of transformers, below `transformers.models`, whose new instances `register_patch_mapping` patches.
    """

    name: str
    op: str
    classes: tuple[str, ...]
    methods: Mapping[str, Callable[..., Any]]
    objection: Callable[[Any], str | None]
    fits: Callable[[str, Any], bool] = lambda path, module: True
    made: tuple[str, ...] = ()

    def means(self, path: str, module: nn.Module) -> bool:
        names = {cls.__name__ for cls in type(module).__mro__}
        known = any(
            any(n.endswith(name[1:]) for n in names) if name.startswith("*") else name in names for name in self.classes
        )
        return known and self.fits(path, module)

    def places(self, module: nn.Module) -> list[tuple[str, nn.Module]]:
        """Each method, by its key, and the module that has it."""
        found = []
        for key in self.methods:
            owners = [module]
            for name in key.split(".")[:-1]:
                owners = [
                    child for one in owners for child in (one.children() if name == "*" else [getattr(one, name)])
                ]
            found += [(key, owner) for owner in owners]
        return found


class Replacement:
    """Stands in a module's `__dict__` under a method's name, so that it is called in the place of the class's own.

    Weights are read at the call. A copy of the module has a copy of this one that belongs to it; so has a pickled one.
    """

    def __init__(self, patch: Patch, key: str, module: nn.Module, backend: str | None, before: Any = None) -> None:
        self.patch, self.key, self.backend, self.before = patch, key, backend, before
        self.method = key.rpartition(".")[2]
        # what it holds is known to its row alone
        self.module: Any = module
        self.active = True
        self.calls, self.aside = 0, Counter[str]()
        self.parameters = parameters(getattr(type(module), self.method))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.active:
            return self.plain(*args, **kwargs) if self.before is None else self.before(*args, **kwargs)
        out = self.patch.methods[self.key](self, *args, **kwargs)
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
        return _again, (self.patch.name, self.key, self.module, self.backend, self.before)

    def __repr__(self) -> str:
        return f"<longreel {self.patch.op} in the place of {type(self.module).__name__}.{self.method}>"


def parameters(method: Any) -> tuple[str, ...]:
    """Names of a method's arguments after self."""
    code = unwrap(method).__code__
    return code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]


def _again(name: str, key: str, module: nn.Module, backend: str | None, before: Any) -> Replacement:
    return Replacement(next(row for row in rows() if row.name == name), key, module, backend, before)


def rows() -> tuple[Patch, ...]:
    """The table, best first."""
    table: tuple[Patch, ...] = importlib.import_module(ROWS).TABLE
    return table
