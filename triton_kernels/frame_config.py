"""Tiles and frames in flight of the frame pass: a pure function of sizes and of what the card offers."""

from dataclasses import dataclass

from longreel.triton_kernels.launch import pow2

PORTABLE_SHARED = 99 * 1024  # what a block may have on every card from compute capability 8.0 on
TOKEN_TILE = 128
MOST_IN_FLIGHT = 128  # frames; more than the programs that run at once, so a longer lag hides nothing


@dataclass(frozen=True)
class FrameConfig:
    """How one frame is cut into programs, and how far the scores run ahead of the second sweep."""

    token_tile: int
    channel_tile: int
    query_tile: int
    slice_rows: int
    slice: int
    frames_in_flight: int
    num_warps: int
    num_stages: int
    why: str

    def shared_bytes(self, itemsize: int) -> int:
        """Shared memory of the score loop: `num_stages` tiles of patches and queries."""
        return self.num_stages * self.channel_tile * (self.token_tile + self.query_tile) * itemsize

    def parts(self, tokens: int) -> int:
        return -(-tokens // self.token_tile)

    def slices(self, channels: int) -> int:
        return -(-channels // self.slice)


def frame_config(
    tokens: int, channels: int, queries: int, itemsize: int, l2_bytes: int, shared_bytes: int = PORTABLE_SHARED
) -> FrameConfig:
    """The configuration for frames of `tokens` x `channels` and `queries` rows (prompts x queries) of `itemsize` bytes.

    `l2_bytes` and `shared_bytes` (a block's opt-in limit) come from the card. The frames between the two sweeps take at
    most half of L2, scores included; the other half is for what streams through. Blocks stay within PORTABLE_SHARED
    where the card has more: two of them then run on one multiprocessor.
    """
    query_tile = pow2(queries, 16, 32 if itemsize == 4 else 128)
    channel_tile = 128 // itemsize
    stage_bytes = channel_tile * (TOKEN_TILE + query_tile) * itemsize
    stages = min(4, shared_bytes // stage_bytes, PORTABLE_SHARED // stage_bytes)
    if stages < 2:
        raise ValueError(
            f"the scores need {2 * stage_bytes} bytes of shared memory a block, the card has {shared_bytes}"
        )
    frame_bytes = tokens * (channels * itemsize + queries * 4)
    in_flight = max(1, min(MOST_IN_FLIGHT, l2_bytes // 2 // frame_bytes))
    return FrameConfig(
        token_tile=TOKEN_TILE,
        channel_tile=channel_tile,
        query_tile=query_tile,
        slice_rows=16,
        slice=256,
        frames_in_flight=in_flight,
        num_warps=8 if itemsize == 4 or query_tile == 128 else 4,
        num_stages=stages,
        why=f"{in_flight} frames of {frame_bytes / 2**20:.2f} MiB fit half of {l2_bytes / 2**20:.0f} MiB L2; "
        f"{TOKEN_TILE} tokens are the rows of the tensor-core tile, {query_tile} queries its columns, "
        f"128 bytes of channels one line; {stages} stages of {stage_bytes // 1024} KiB fit a block of any card",
    )
