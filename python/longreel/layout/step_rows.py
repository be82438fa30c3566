"""The rows of a step as the host knows them, for what is made there: the calls of flash attention."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, eq=False)
class StepRows:
    """Stands where a plan has its layout. made: gives the `Ranges` of the rows, which nobody else asks for."""

    batch_size: int
    queries: int
    made: Callable[[], Any]

    @cached_property
    def ranges(self) -> Any:
        return self.made()
