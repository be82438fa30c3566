"""The ops, one line each. The contract test, the benchmarks, `explain` and `longreel doctor` are driven from here."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from longreel.backends import TABLE, Row
from longreel.ops import _adaptive_pool, _block_sparse_attention, _compress_frames, _context_attention
from longreel.ops.common.cost import Cost


@dataclass(frozen=True)
class OpSpec:
    """One op: its public function, the arguments of its low-level op, its reference and its cost."""

    name: str
    module: ModuleType

    @property
    def public(self) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(self.module, self.name)
        return function

    def lower(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Arguments of the low-level op for these arguments of the public function."""
        lowered: tuple[Any, ...] = self.module.lower(*args, **kwargs)[0]
        return lowered

    def reference(self, *args: Any, same_dtype: bool = False) -> tuple[Tensor, ...]:
        """Outputs of the reference for arguments of the low-level op; `same_dtype` computes in their dtype throughout."""
        outputs = self.module.run_reference(*args, same_dtype=same_dtype)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    @property
    def specification(self) -> ModuleType:
        """The reference's module: with its maths, the corners and the bad input that the contract test tries."""
        return importlib.import_module(f"longreel.reference.{self.name}")

    def cost(self, *args: Any, **kwargs: Any) -> Cost:
        counted: Cost = self.module.cost(*args, **kwargs)
        return counted

    def objection(self, *args: Any, **kwargs: Any) -> Callable[[str], str | None]:
        """Why a backend does not serve the values of these arguments of the public function."""
        found: Callable[[str], str | None]
        found = self.module.objection(*args, **kwargs) if hasattr(self.module, "objection") else lambda backend: None
        return found

    @property
    def rows(self) -> tuple[Row, ...]:
        return TABLE[self.name]


OPS = {
    module.NAME: OpSpec(module.NAME, module)
    for module in (_context_attention, _adaptive_pool, _compress_frames, _block_sparse_attention)
}
