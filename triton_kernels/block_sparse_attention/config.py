"""Tiles of block_sparse_attention: pure functions of the head size, the dtype, and what the card offers."""

import functools
from dataclasses import dataclass, replace

from longreel.triton_kernels.common.card import Card
from longreel.triton_kernels.common.launch import pow2
from longreel.triton_kernels.common.tiles import head_parts

DECODE_ROWS = 16  # up to so many query rows a program holds every row and head that share keys
LEAST_SPLIT = 256  # keys of a decoding program; fewer do not pay for the merge
MOST_SPLITS = 64


@dataclass(frozen=True)
class TileConfig:
    """A tile of query rows against keys, and how a program runs it."""

    rows: int
    keys: int
    num_warps: int
    num_stages: int
    why: str
    wgmma: bool = False  # for cards with such products alone, see Card

    def forward_bytes(self, head: int, itemsize: int) -> int:
        """Shared memory of forward and decoding: the queries, and `num_stages` tiles of K and V."""
        return (self.rows + 2 * self.num_stages * self.keys) * head * itemsize

    def dq_bytes(self, head: int, itemsize: int) -> int:
        """Of the gradient of the queries: the rows of q and of the output's gradient stay, K and V stream through."""
        return 2 * (self.rows + self.num_stages * self.keys) * head * itemsize

    def dkv_bytes(self, head: int, itemsize: int) -> int:
        """Of the gradient of the keys: K and V stay, rows stream through."""
        return 2 * (self.keys + self.num_stages * self.rows) * head * itemsize


HALF_FORWARD = {
    64: (TileConfig(128, 64, 8, 3, "32 registers of sums a thread; three stages hide a read"),),
    128: (
        TileConfig(128, 64, 8, 3, "64 registers of sums a thread; 128 KiB"),
        TileConfig(128, 64, 8, 2, "the same tile in 96 KiB: two stages"),
    ),
    256: (
        TileConfig(128, 32, 8, 3, "128 registers of sums a thread leave room for 32 keys of scores; 160 KiB"),
        TileConfig(128, 32, 8, 2, "two stages: 128 KiB, 96 with heads of 192"),
        TileConfig(64, 32, 4, 2, "half the rows: 96 KiB"),
    ),
    512: (
        TileConfig(64, 32, 8, 2, "128 registers of sums a thread; 192 KiB"),
        TileConfig(32, 16, 8, 2, "64 registers of sums a thread; 96 KiB"),
    ),
}
HALF_DECODE = {
    64: (TileConfig(64, 64, 4, 4, "one read of the keys serves every row and head of a group; four stages in flight"),),
    128: (
        TileConfig(64, 64, 4, 3, "three stages of 32 KiB, so that a read is under way while one is used: 112 KiB"),
        TileConfig(64, 64, 4, 2, "two stages: 80 KiB"),
    ),
    256: (
        TileConfig(32, 32, 4, 3, "three stages of 32 KiB: 112 KiB"),
        TileConfig(32, 32, 4, 2, "two stages: 80 KiB"),
    ),
    512: (TileConfig(16, 16, 4, 2, "two stages of 32 KiB: 80 KiB"),),
}
# Other products than wgmma have q and the output's gradient in registers too: half the rows, over half the warps.
HALF_DQ = {
    64: (
        TileConfig(128, 64, 8, 3, "q and the output's gradient stay; three stages hide a read; 80 KiB", wgmma=True),
        TileConfig(64, 32, 4, 3, "half of both; 64 keys spill with heads of 80; 40 KiB"),
    ),
    128: (
        TileConfig(
            128, 64, 8, 3, "64 + 32 + 32 registers of sums, scores and their gradient a thread; 160 KiB", wgmma=True
        ),
        TileConfig(64, 32, 4, 3, "half of both: two programs a multiprocessor of an A100; 64 keys spill; 80 KiB"),
    ),
    256: (
        TileConfig(64, 32, 8, 3, "64 registers of sums a thread; more keys spill; 160 KiB"),
        TileConfig(64, 32, 8, 2, "two stages: 128 KiB, 96 with heads of 192"),
        TileConfig(32, 32, 4, 2, "half the rows: 96 KiB"),
    ),
    512: (
        TileConfig(32, 32, 8, 2, "64 registers of sums a thread; 192 KiB"),
        TileConfig(16, 16, 8, 2, "half of both: 96 KiB"),
    ),
}
HALF_DKV = {
    64: (TileConfig(64, 64, 4, 2, "keys on the long side of the product: 64 registers of two sums a thread"),),
    128: (TileConfig(32, 64, 8, 3, "64 registers of two sums a thread; 64 rows a step spill; 80 KiB"),),
    256: (
        TileConfig(32, 32, 8, 3, "64 registers of two sums a thread; 64 keys, Hopper's wide product, spill; 128 KiB"),
        TileConfig(32, 32, 8, 2, "two stages: 96 KiB"),
    ),
    512: (
        TileConfig(32, 32, 8, 2, "128 registers of two sums a thread; 192 KiB"),
        TileConfig(16, 16, 8, 2, "half of both: 96 KiB"),
    ),
}
# fp32 products run on the ordinary cores, operands in registers: small tiles over many warps, or sums spill.
SINGLE_FORWARD = {
    64: (TileConfig(64, 32, 8, 3, "16 registers of sums a thread; 64 KiB"),),
    128: (TileConfig(64, 16, 8, 3, "32 registers of sums a thread; 80 KiB"),),
    256: (
        TileConfig(32, 16, 8, 3, "half the rows for twice the head; 128 KiB"),
        TileConfig(32, 16, 8, 2, "two stages: 96 KiB"),
    ),
    512: (TileConfig(16, 16, 8, 1, "32 registers of sums a thread; one stage: 96 KiB"),),
}
SINGLE_DECODE = {
    64: (TileConfig(32, 32, 8, 3, "three stages of 16 KiB; 56 KiB"),),
    128: (TileConfig(32, 16, 8, 3, "three stages of 16 KiB; 64 KiB"),),
    256: (
        TileConfig(16, 16, 4, 3, "three stages of 32 KiB; 112 KiB"),
        TileConfig(16, 16, 4, 2, "two stages: 80 KiB"),
    ),
    512: (TileConfig(16, 16, 8, 1, "one stage: 96 KiB"),),
}
SINGLE_DQ = {
    64: (TileConfig(32, 32, 4, 2, "two tiles of rows stay, so fewer rows than forward; a third stage spills; 48 KiB"),),
    128: (TileConfig(32, 16, 8, 3, "half the keys over twice the warps; two stages spill on Blackwell; 80 KiB"),),
    256: (TileConfig(16, 16, 8, 2, "half the rows too; 96 KiB"),),
    512: (TileConfig(16, 16, 8, 1, "the least tiles there are; 128 KiB"),),
}
SINGLE_DKV = {
    64: (TileConfig(32, 32, 8, 2, "two sums of 32 x 64 over eight warps; 48 KiB"),),
    128: (TileConfig(16, 32, 8, 2, "half the rows a step; 64 KiB"),),
    256: (TileConfig(16, 16, 8, 2, "half the keys too; 96 KiB"),),
    512: (TileConfig(16, 16, 8, 1, "the least tiles there are; 128 KiB"),),
}
FITTING = {
    "forward": (HALF_FORWARD, SINGLE_FORWARD, TileConfig.forward_bytes),
    "decode": (HALF_DECODE, SINGLE_DECODE, TileConfig.forward_bytes),
    "backward_dq": (HALF_DQ, SINGLE_DQ, TileConfig.dq_bytes),
    "backward_dkv": (HALF_DKV, SINGLE_DKV, TileConfig.dkv_bytes),
}


@functools.lru_cache
def tile_config(kernel: str, head: int, itemsize: int, rows: int, keys: int, card: Card) -> TileConfig:
    """The first configuration of `kernel`, one of FITTING, that the card has products for and whose tiles fit its blocks.

    Its tile is no larger than the `rows` x `keys` of the plan's tile, rounded up to powers of two; any such tile walks any
    plan, whole multiples waste nothing. Half the rows take half of eight warps: a thread holds what it held, and two programs
    share a multiprocessor.
    """
    half, single, needed = FITTING[kernel]
    for config in (half if itemsize == 2 else single)[pow2(head, 64, 512)]:
        if config.wgmma <= card.wgmma and needed(config, sum(head_parts(head)), itemsize) <= card.shared:
            fewer, warps = min(config.rows, pow2(rows, 16, 128)), config.num_warps
            if fewer < config.rows == 128:
                warps = 4
            return replace(config, rows=fewer, keys=min(config.keys, pow2(keys, 16, 128)), num_warps=warps)
    raise ValueError(
        f"block_sparse_attention: heads of {head} need more shared memory a block than {card.shared} bytes"
    )


def splits(keys: int, programs: int, processors: int) -> int:
    """Parts of the keys of a decoding step: two programs a multiprocessor, of LEAST_SPLIT keys at least."""
    return max(1, min(keys // LEAST_SPLIT, -(-2 * processors // programs), MOST_SPLITS))


def keys_are_split(rows: int, keys: int, programs: int, processors: int) -> bool:
    """Whether the keys of `rows` query rows are split over programs: few rows, or rows whose own `programs` leave half of
    the multiprocessors idle before many keys (a question after a video)."""
    return rows <= DECODE_ROWS or (2 * programs <= processors and splits(keys, programs, processors) > 1)
