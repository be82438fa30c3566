"""Public names of a system's package, found when they are first used: what names its options must not import a model."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from longreel._transformers import require


def lazily(package: str, names: Sequence[str], rooms: Sequence[str]) -> Callable[[str], Any]:
    """`__getattr__` of a package whose public `names` stand in its modules `rooms`, the light ones first."""

    def find(name: str) -> Any:
        if name in names:
            require(package)
            for room in rooms:
                module = vars(import_module(f"{package}.{room}"))
                if name in module:
                    return module[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
