"""What a call costs at least: counted, not measured."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Cost:
    """FLOPs (a multiply-add is 2), and bytes with each input read once and each output written once."""

    flops: int
    bytes_read: int
    bytes_written: int

    @property
    def bytes(self) -> int:
        return self.bytes_read + self.bytes_written

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / max(self.bytes, 1)


def nbytes(*values: Any) -> int:
    """Bytes of the tensors among an op's arguments."""
    return sum(t.numel() * t.element_size() for t in values if isinstance(t, Tensor))
