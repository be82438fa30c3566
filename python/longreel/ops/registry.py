"""The ops, one line each. The contract test, the benchmarks, `explain` and `longreel doctor` are driven from here."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from longreel.backends import TABLE, Row
from longreel.ops import adaptive_pool, compress_frames, context_attention
from longreel.ops._cost import Cost


@dataclass(frozen=True)
class OpSpec:
    """One op: its public function, the arguments of its low-level op, its reference and its cost."""

    name: str
    module: ModuleType

    @property
    def public(self) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(self.module, self.name)
        return function

    def cost(self, *args: Any, **kwargs: Any) -> Cost:
        counted: Cost = self.module.cost(*args, **kwargs)
        return counted

    @property
    def rows(self) -> tuple[Row, ...]:
        return TABLE[self.name]


OPS = {module.NAME: OpSpec(module.NAME, module) for module in (context_attention, adaptive_pool, compress_frames)}
