"""The tiles of the kernels over frames are a pure function of sizes: checked here for cards that nobody has at hand."""

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from longreel.triton_kernels.common.card import PORTABLE_SHARED, Card
from longreel.triton_kernels.frames.config import frame_config

MIB, KIB = 1 << 20, 1 << 10
CARDS = {
    "A100": Card(40 * MIB, 163 * KIB, 108, wgmma=False),
    "L4": Card(48 * MIB, 99 * KIB, 58, wgmma=False),
    "RTX 3090": Card(6 * MIB, 99 * KIB, 82, wgmma=False),
    "H200": Card(50 * MIB, 227 * KIB, 132, wgmma=True),
}
each_card = pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)


@each_card
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("rows", [1, 16, 32, 100, 512])
@pytest.mark.parametrize(("tokens", "channels"), [(256, 1408), (576, 1024), (1, 8), (4096, 3584)])
@pytest.mark.parametrize("backward", [False, True])
def test_tiles_and_shared_memory(
    card: Card, itemsize: int, rows: int, tokens: int, channels: int, backward: bool
) -> None:
    config = frame_config(tokens, channels, rows, itemsize, card, backward=backward, shared=backward)
    # what products without wgmma keep in registers is not in shared memory
    held = config.shared_bytes(itemsize)
    if not card.wgmma or itemsize == 4:
        held = held // config.num_stages * (config.num_stages - 1)
    assert card.shared / 2 < held <= card.shared, "one block runs on a multiprocessor"
    assert config.parts(tokens) * config.token_tile >= tokens
    assert config.slices(channels) * config.slice >= channels
    assert config.lag * config.group * config.parts(tokens) >= card.multiprocessors, "sweeps find their scores done"
    assert config.group == 1 or config.lag >= 8
    assert str(config.token_tile) in config.why


@each_card
def test_an_hour_stays_in_half_of_l2(card: Card) -> None:
    """Frames of 704 KiB; a card with 6 MiB of L2 reads them twice."""
    config = frame_config(256, 1408, 32, 2, card)
    scored = card.multiprocessors * config.token_tile * 1408 * 2
    assert config.token_tile == 64 or scored <= card.l2 // 2
    assert scored <= card.l2 // 2 or card.l2 == 6 * MIB
    assert config.flight_bytes(256, 1408, 2) <= scored + 2 * 256 * 1408 * 2


def test_portable_blocks() -> None:
    card = Card(40 * MIB, PORTABLE_SHARED, 108, wgmma=True)
    assert all(frame_config(256, 1408, r, 2, card).shared_bytes(2) <= PORTABLE_SHARED for r in (1, 32, 128))


def test_too_little_shared_memory_is_an_error() -> None:
    with pytest.raises(ValueError, match="bytes of shared memory"):
        frame_config(256, 1408, 128, 2, Card(50 * MIB, 8 * KIB, 132, wgmma=True))
