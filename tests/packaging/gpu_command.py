"""What the tests of `make gpu` share: its modules by their paths, a clock, and runs that take what they are told to."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_command", ROOT / f".ci/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"{name}_command"] = module
    spec.loader.exec_module(module)
    return module


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def taking(clock: Clock, seconds: float, status: int | None = 0) -> Callable[[object, float], int | None]:
    """A run that takes `seconds`, or its limit, which stops it."""

    def run(step: object, limit: float) -> int | None:
        clock.now += min(seconds, limit)
        return status if seconds <= limit else None

    return run
