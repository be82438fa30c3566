"""Tiles of the kernels over frames, and how far their scores run ahead: pure functions of sizes and of what the card offers."""

from dataclasses import dataclass

from longreel.triton_kernels.common.card import Card
from longreel.triton_kernels.common.launch import pow2

GRAD_TILE = 16  # columns of the narrowest tensor-core tile: one frame's context gradients, a column a prompt
MIN_BUFFERS = 3  # one in use, two on their way
# By bytes of an element. One block runs on a multiprocessor (`frame_config`): left to itself, the compiler spills some of 16 bits
# to have fewer; fp32 spills if told so.
MOST_REGISTERS = {2: 255, 4: None}


@dataclass(frozen=True)
class FrameConfig:
    """How a frame is cut into score tiles and sweep slices, and how many steps of `group` frames lie between the two.

    Forward passes have groups of one frame and no gradient columns (`grad_tile` 0).
    """

    token_tile: int
    channel_tile: int
    query_tile: int
    grad_tile: int
    slice: int
    slice_rows: int
    group: int
    lag: int
    num_warps: int
    num_stages: int
    why: str

    def shared_bytes(self, itemsize: int) -> int:
        """Shared memory of the score loop where every stage is there: tiles of patches, queries and gradients."""
        return self.num_stages * self.channel_tile * (self.token_tile + self.query_tile + self.grad_tile) * itemsize

    def flight_bytes(self, tokens: int, channels: int, itemsize: int) -> int:
        """Patches that are read between a token's score and its sweep."""
        return self.lag * self.group * tokens * channels * itemsize

    def parts(self, tokens: int) -> int:
        return max(1, -(-tokens // self.token_tile))

    def slices(self, channels: int) -> int:
        return -(-channels // self.slice)


@dataclass(frozen=True)
class PatchesConfig:
    """Tiles of the patches' gradient: `token_tile` x `channel_tile` results from `row_tile` queries at a time; a program
    covers `span` channels."""

    token_tile: int
    channel_tile: int
    row_tile: int
    span: int
    num_warps: int
    num_stages: int
    why: str


def frame_config(
    tokens: int, channels: int, rows: int, itemsize: int, card: Card, *, backward: bool = False, shared: bool = False
) -> FrameConfig:
    """The configuration for frames of `tokens` x `channels` and `rows` (prompts x queries) of `itemsize` bytes; `shared`:
    a backward pass that sums the gradient of one query set over the frames.

    A block takes more than half of a multiprocessor's shared memory, so that one runs on each: as many score tiles are
    being read as the card has multiprocessors. Tiles of 128 tokens, or of 64 where 128 would put more than half of L2
    between a token's score and its sweep; the other half is for what streams through.
    """
    query_tile = pow2(rows, 16, 32 if itemsize == 4 else 128)
    grad_tile = GRAD_TILE if backward else 0
    token_tile = 128 if card.multiprocessors * 128 * channels * itemsize <= card.l2 // 2 else 64
    channel_tile = 256 // itemsize
    while (stage := channel_tile * (token_tile + query_tile + grad_tile) * itemsize) * MIN_BUFFERS > card.shared:
        channel_tile //= 2
        if channel_tile < 16:
            raise ValueError(
                f"the scores need {MIN_BUFFERS * stage // 2} bytes of shared memory a block, given {card.shared}"
            )
    buffers = max(MIN_BUFFERS, card.shared // 2 // stage + 1)
    ahead = -(-card.multiprocessors * token_tile // max(tokens, 1)) + 1
    group = max(1, ahead // 8) if shared else 1
    wide = backward or query_tile == 128 or itemsize == 4
    return FrameConfig(
        token_tile=token_tile,
        channel_tile=channel_tile,
        query_tile=query_tile,
        grad_tile=grad_tile,
        slice=128 if wide else 256,
        slice_rows=32 if wide else 16,
        group=group,
        lag=-(-ahead // group),
        num_warps=8,
        num_stages=buffers if card.wgmma and itemsize == 2 else buffers + 1,
        why=f"{card.multiprocessors} tiles of {token_tile} x {channels} are scored at once, "
        f"{card.multiprocessors * token_tile * channels * itemsize / 2**20:.1f} MiB of {card.l2 / 2**20:.0f} MiB L2; a sweep "
        f"comes {ahead} frames after its scores, when they are done; {buffers} buffers of {stage / 1024:.0f} KiB are more "
        f"than half of a multiprocessor, which 8 warps share: 4 spill on an A100 and a B200",
    )


def patches_config(rows: int, itemsize: int) -> PatchesConfig:
    """The configuration of the patches' gradient from ds of `rows` queries."""
    return PatchesConfig(
        token_tile=64,
        channel_tile=64 if itemsize == 4 else 128,
        row_tile=pow2(rows, 16, 32),
        span=512,
        num_warps=8,
        num_stages=3 if itemsize == 2 else 2,
        why="64 x 128 sums are 32 registers a thread of 8 warps (half the channels in fp32, whose products are kept in "
        "registers and spill on an A100 with a third stage); the channel tiles of a program reuse its ds from L1, and "
        "1408 channels still give 3 programs",
    )
