"""The frame pass's configuration is a pure function of sizes: it is checked here for cards that nobody has at hand."""

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from longreel.triton_kernels.frame_config import PORTABLE_SHARED, frame_config

MIB = 1 << 20
# bytes of L2, opt-in shared memory of a block
CARDS = {
    "A100": (40 * MIB, 163 * 1024),
    "L4": (48 * MIB, 99 * 1024),
    "RTX 3090": (6 * MIB, 99 * 1024),
    "H200": (50 * MIB, 227 * 1024),
}


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("queries", [1, 16, 32, 100, 512])
@pytest.mark.parametrize(("tokens", "channels"), [(256, 1408), (576, 1024), (1, 8), (4096, 3584)])
def test_frames_in_flight_and_shared_memory(
    card: tuple[int, int], itemsize: int, queries: int, tokens: int, channels: int
) -> None:
    l2, shared = card
    config = frame_config(tokens, channels, queries, itemsize, l2, shared)
    frame = tokens * (channels * itemsize + 4 * queries)
    assert config.frames_in_flight >= 1
    assert config.frames_in_flight == 1 or config.frames_in_flight * frame <= l2 // 2
    assert config.shared_bytes(itemsize) <= min(shared, PORTABLE_SHARED)
    assert config.parts(tokens) * config.token_tile >= tokens
    assert config.slices(channels) * config.slice >= channels
    assert str(config.frames_in_flight) in config.why


def test_an_hour_at_bf16_on_a_large_card() -> None:
    """A 704 KiB frame and its scores: 34 of them are half of 50 MiB."""
    assert frame_config(256, 1408, 32, 2, 50 * MIB).frames_in_flight == 34


def test_too_little_shared_memory_is_an_error() -> None:
    with pytest.raises(ValueError, match="bytes of shared memory"):
        frame_config(256, 1408, 128, 2, 50 * MIB, 48 * 1024)
