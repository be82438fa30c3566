"""Tiles of qformer_attention: pure functions of sizes, the dtype, and what the card offers.

What has to be fitted, at 32 queries of 12 heads and 16 bits: absorbed queries [R = 384, C] against keys [S, C], C = 768, then
weights [R, S] against the same keys. All of a row's channels are summed before its softmax weight is known, and the weight then
goes into all of the channels' sums:

- one kernel that keeps both holds sums [BM, C] in registers, 192 a thread of 256 for 64 rows, and beside its queries [BM, C]
  three stages of keys [BN, C] in shared memory, 96 + 147 KiB for 64 rows and 32 keys where there are 227; more at C = 1408;
- the sums cut into slices of channels, the scores made again for each: C / BC + 1 products where 2 would do, 4 at BC = 256;
- here: weights are stored in the keys' dtype, R / C of their bytes. Each half is a plain product with tiles of 128 x 128, over
  C and over the keys. Keys are read twice from memory and R / BM = 3 times from L2, weights written and read once.

At S = 115,200: 4 S R C = 136 GFLOP; keys 2 x 177 MB, weights 2 x 88 MB, 0.53 GB. At 790 TFLOP/s and 4.3 TB/s that is 0.17 ms and
0.12 ms: the products bound it. Projected keys and values would take 283 GFLOP and move 0.9 GB. Backward, all gradients: scores
and dp in one read, two sums, and the keys' gradient from two products: 12 S R C = 408 GFLOP, 1.2 GB.
"""

from dataclasses import dataclass

from longreel.triton_kernels.common.launch import pow2

LEAST_BLOCKS = 2  # blocks of keys of a part; fewer do not pay for its sums
MOST_SPLITS = 64


@dataclass(frozen=True)
class QFormerTile:
    """A tile of rows x columns (keys, or channels), `step` of what is summed at a time."""

    rows: int
    columns: int
    step: int
    num_warps: int
    num_stages: int


def key_block(keys: int, itemsize: int) -> int:
    """Keys of a block, which share an exponent: 128, or 64 where that leaves an eighth less of the last block empty."""
    if itemsize == 4:
        return 64
    padded = {size: -(-keys // size) * size for size in (128, 64)}
    return 64 if padded[64] * 9 <= padded[128] * 8 else 128


def scores_config(rows: int, block: int, itemsize: int, shared: int, operands: int = 1) -> QFormerTile:
    """Rows x a block of keys, over channels; two operands: as many rows of the gradient, or of what rounding took off."""
    if itemsize == 4:
        # what a step drops is carried along: short steps drop little
        return QFormerTile(pow2(rows, 16, 32), block, 16, 8, 3)
    most = pow2(rows, 16, 128 // operands)
    held = (block + most * operands) * itemsize
    step = 64 if 3 * held * 64 <= shared else 32
    return QFormerTile(most, block, step, 8 if most * block >= 128 * 64 else 4, stages(held * step, shared))


def sums_config(rows: int, channels: int, itemsize: int, shared: int) -> QFormerTile:
    """Rows x channels, over keys."""
    if itemsize == 4:
        return QFormerTile(pow2(rows, 16, 32), 64, 32, 8, 3)
    most, columns = pow2(rows, 16, 128), pow2(channels, 16, 128)
    # the weights change their scale in registers: one more stage
    held = (most + columns) * itemsize
    step = 64 if 4 * held * 64 <= shared else 32
    return QFormerTile(most, columns, step, 8 if most * columns >= 128 * 64 else 4, stages(held * step, shared))


def keys_config(block: int, channels: int, itemsize: int, shared: int) -> QFormerTile:
    """Keys x channels, over rows: the gradient of the keys."""
    if itemsize == 4:
        return QFormerTile(32, 64, 16, 8, 2)
    columns = pow2(channels, 16, 128)
    # [two weights of the keys | two rows]
    held = 2 * (block + columns) * 32 * itemsize
    keys = block if 3 * held <= shared else 64
    return QFormerTile(keys, columns, 32, 8, stages(held, shared))


def stages(held: int, shared: int) -> int:
    """Steps of `held` bytes in shared memory: one in use, two on their way, three where a tenth is left for the rest."""
    return 4 if 4 * held <= shared * 9 // 10 else 3


def splits(blocks: int, programs: int, processors: int) -> int:
    """Parts of the keys whose sums are added up in their order: at most two programs a multiprocessor, one more would wait for
    all."""
    return max(1, min(blocks // LEAST_BLOCKS, 2 * processors // max(programs, 1), MOST_SPLITS))
