"""The tiles of block_sparse_attention are a pure function of sizes: checked here for cards that nobody has at hand."""

from dataclasses import replace

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from longreel.triton_kernels.block_sparse_attention.config import (
    FITTING,
    LEAST_SPLIT,
    keys_are_split,
    splits,
    tile_config,
)
from longreel.triton_kernels.common.card import LARGE_SHARED, PORTABLE_SHARED, Card
from longreel.triton_kernels.common.tiles import head_parts

SMALL = Card(6 << 20, PORTABLE_SHARED, 82, wgmma=False)
AMPERE = Card(40 << 20, 163 * 1024, 108, wgmma=False)
LARGE = Card(50 << 20, LARGE_SHARED, 132, wgmma=True)
CARDS = {"RTX 3090": SMALL, "A100": AMPERE, "H200": LARGE}


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("kernel", FITTING)
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("head", [1, 64, 80, 96, 128, 200, 256, 512])
def test_tiles_fit_the_card(kernel: str, head: int, itemsize: int, card: Card) -> None:
    if head == 512 and itemsize == 4 and card == SMALL and kernel.startswith("backward"):
        with pytest.raises(ValueError, match="heads of 512 need more shared memory"):
            tile_config(kernel, head, itemsize, 128, 64, card)
        return
    config = tile_config(kernel, head, itemsize, 128, 64, card)
    *_, needed = FITTING[kernel]
    assert needed(config, sum(head_parts(head)), itemsize) <= card.shared
    assert config.wgmma <= card.wgmma
    assert config.why


@pytest.mark.parametrize(
    ("head", "parts"),
    [
        (1, (16, 0)), (16, (16, 0)), (17, (32, 0)), (33, (32, 16)), (64, (64, 0)), (72, (64, 16)), (80, (64, 16)),
        (81, (64, 32)), (96, (64, 32)), (112, (128, 0)), (128, (128, 0)), (160, (128, 32)), (192, (128, 64)),
        (193, (256, 0)), (256, (256, 0)), (320, (256, 64)), (512, (512, 0)),
    ],
)  # fmt: skip
def test_a_head_is_two_tiles_where_that_is_narrower(head: int, parts: tuple[int, int]) -> None:
    assert head_parts(head) == parts


def test_a_large_card_takes_larger_tiles() -> None:
    small, large = (tile_config("forward", 128, 2, 128, 64, card) for card in (SMALL, LARGE))
    assert (small.num_stages, large.num_stages) == (2, 3)


@pytest.mark.parametrize("head", [64, 80, 96, 128])
def test_operands_in_registers_leave_room_for_fewer_sums(head: int) -> None:
    assert {tile_config("backward_dq", head, 2, 128, 64, card).rows for card in (SMALL, AMPERE)} == {64}
    assert tile_config("backward_dq", head, 2, 128, 64, LARGE).rows == 128


@pytest.mark.parametrize(("rows", "keys", "tile"), [(1, 1, (16, 16)), (100, 48, (128, 64)), (32, 200, (32, 64))])
def test_tiles_are_no_larger_than_the_plans(rows: int, keys: int, tile: tuple[int, int]) -> None:
    config = tile_config("forward", 128, 2, rows, keys, SMALL)
    assert (config.rows, config.keys) == tile


@pytest.mark.parametrize("kernel", ["forward", "backward_dq"])
def test_half_the_rows_take_half_the_warps(kernel: str) -> None:
    whole, half = (tile_config(kernel, 128, 2, rows, 64, LARGE) for rows in (128, 64))
    assert (whole.rows, whole.num_warps) == (128, 8)
    assert (half.rows, half.num_warps, half.num_stages) == (64, 4, 3)


def test_too_little_shared_memory_is_an_error() -> None:
    with pytest.raises(ValueError, match="shared memory"):
        tile_config("forward", 256, 2, 128, 64, replace(SMALL, shared=48 * 1024))


@pytest.mark.parametrize(
    ("keys", "programs", "processors", "parts"),
    [(100_000, 8, 132, 33), (100_000, 1, 132, 64), (1_000, 1, 132, 3), (100, 1, 132, 1), (100_000, 500, 132, 1)],
)
def test_decoding_fills_the_card(keys: int, programs: int, processors: int, parts: int) -> None:
    assert splits(keys, programs, processors) == parts
    assert parts == 1 or keys // parts >= LEAST_SPLIT


@pytest.mark.parametrize(
    ("rows", "keys", "programs", "split"),
    [(1, 100, 32, True), (70, 30_000, 28, True), (70, 300, 28, False), (70, 30_000, 100, False)],
)
def test_few_rows_split_their_keys(rows: int, keys: int, programs: int, split: bool) -> None:
    assert keys_are_split(rows, keys, programs, processors=132) == split
