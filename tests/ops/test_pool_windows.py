"""Pooling windows whose sizes do not fit 64 bits together are refused before anything is read or written."""

import pytest
import torch

from longreel import adaptive_pool
from longreel.backends import available
from longreel.schemas import overload

pytestmark = [
    pytest.mark.fast,
    pytest.mark.skipif("cpu" not in available("adaptive_pool", "cpu"), reason="no native kernels"),
]

HUGE = 2**62


@pytest.mark.parametrize(
    "window",
    [
        (0, HUGE, 5, 4, 2, 2), (0, 2**61 + 1, 9, 1, 2, 2), (0, 4, 4, 4, 2**32, 2**32), (0, 4, 4, 4, HUGE, 4), (0, 4, 4, 4, -1, 2),
        (0, 1, HUGE, 1, 1, 1), (0, 4, 4, 4, 0, 2), (0, 4, 0, 4, 2, 2), (0, 4, 4, 4, 2**31, 1), (2**62, 4, 4, 4, 2, 2),
    ],
)  # fmt: skip
def test_a_window_that_cannot_be(window: tuple[int, ...]) -> None:
    patches = torch.ones(2, 16, 8)
    with pytest.raises(RuntimeError, match=r"pooling|prefix|cells"):
        overload("adaptive_pool", "cpu")(patches, *window, 0, 0, [])
    with pytest.raises(RuntimeError, match=r"pooling|prefix|cells|grad"):
        overload("adaptive_pool_backward", "cpu")(torch.ones(2, 4, 8), 16, *window, 0, 0, [], 0)


@pytest.mark.parametrize(
    "grids",
    [
        [1, 4, 4, 1, 2], [1, 4, 4, 1, 2, 0], [1, 4, 5, 1, 2, 2], [1, 4, 3, 1, 2, 2], [HUGE, 4, 4, 1, 2, 2],
        [1, 4, 4, 2**30, 2**30, 4], [2**30, 2**30, 16, 1, 1, 1], [-1, 4, 4, 1, 2, 2],
    ],
)  # fmt: skip
def test_grids_that_cannot_be(grids: list[int]) -> None:
    window = (0, 1, 0, 1, 0, 1, 0, 0)
    with pytest.raises(RuntimeError, match="pooling grid"):
        overload("adaptive_pool", "cpu")(torch.ones(16, 8), *window, grids)
    with pytest.raises(RuntimeError, match="pooling grid"):
        overload("adaptive_pool_backward", "cpu")(torch.ones(4, 8), 16, *window, grids, 0)


def test_a_time_that_cannot_be() -> None:
    with pytest.raises(RuntimeError, match="a pooling of 0 frames to 2"):
        overload("adaptive_pool", "cpu")(torch.ones(0, 16, 8), 0, 4, 4, 4, 2, 2, 2, 0, [])


def test_more_cells_than_can_be() -> None:
    with pytest.raises(ValueError, match=r"allowed: at most 2\^31 - 1"):
        adaptive_pool(torch.ones(1, 16, 8), (2**32, 2**32))
