from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encoded import Encode

from longreel.data import frames
from longreel.data.cards import COLOURS, DIGITS, SHOWN, DigitCard, check_apart, dealt
from longreel.data.clips import hour_clip


def test_dealt_by_seed() -> None:
    cards = dealt(3, 3600)
    assert cards == dealt(3, 3600) != dealt(4, 3600)
    assert sorted(card.colour for card in cards) == sorted(COLOURS)
    when = [card.second for card in cards]
    assert when == sorted(set(when))
    assert all(0 <= second <= 3600 - SHOWN and second % SHOWN == 0 for second in when)
    assert len({card.digit for seed in range(8) for card in dealt(seed, 3600)}) == DIGITS
    # All places are taken where there are only as many.
    assert [card.second for card in dealt(0, 80)] == list(range(0, 80, SHOWN))
    with pytest.raises(ValueError, match="8 cards take 80 seconds, the video has 79"):
        dealt(0, 79)


@pytest.mark.parametrize("wrong", [("gold", 1, 0), ("red", 10, 0), ("red", -1, 0), ("red", 1, -10), ("red", 1, 5)])
def test_card_refused(wrong: tuple[str, int, int]) -> None:
    with pytest.raises(ValueError, match=r"allowed are red, orange, .*, digits 0 to 9, and seconds that 10 divides"):
        DigitCard(*wrong)


@pytest.mark.parametrize("when", [(10, 10), (0, 30)])
def test_cards_apart(when: tuple[int, int], tmp_path: Path) -> None:
    cards = [DigitCard("red", 1, when[0]), DigitCard("blue", 2, when[1])]
    with pytest.raises(ValueError, match="allowed is one at a time, up to the end"):
        check_apart(cards, 30)
    with pytest.raises(ValueError, match="allowed is one at a time, up to the end"):
        hour_clip(tmp_path, 30, cards=cards)
    assert not list(tmp_path.iterdir())


def test_pictures_differ() -> None:
    cards = [DigitCard(colour, 3, 0) for colour in COLOURS] + [
        DigitCard("red", digit, 0) for digit in range(DIGITS) if digit != 3
    ]
    assert len({card.picture(128, 96).tobytes() for card in cards}) == len(cards)
    tall = DigitCard("green", 4, 0).picture(60, 90)
    assert tall.shape == (90, 60, 3)
    assert (tall[:15] == COLOURS["green"]).all()
    assert (tall[-15:] == COLOURS["green"]).all()


def test_cards_in_a_video(tmp_path: Path, encode: Encode) -> None:
    source = encode("source.mp4", frames=40, rate=5)
    # Two behind each other, one behind the part that is encoded, one up to the end; out of order.
    cards = [DigitCard("blue", 7, 30), DigitCard("red", 3, 20), DigitCard("cyan", 0, 190), DigitCard("pink", 9, 130)]
    path, plain = hour_clip(tmp_path, 200, source, cards=cards), hour_clip(tmp_path, 200, source)
    assert path != plain
    made = torch.cat([chunk.pixels for chunk in frames(path, "fps:1")]).float()
    beside = torch.cat([chunk.pixels for chunk in frames(plain, "fps:1")]).float()
    assert made.shape == beside.shape
    assert len(made) == 200
    shown = torch.zeros(200, dtype=torch.bool)
    for card in cards:
        there = slice(card.second, card.second + SHOWN)
        drawn = torch.from_numpy(card.picture(made.shape[2], made.shape[1]).astype(np.float32))
        other = torch.from_numpy(
            replace(card, colour="yellow").picture(made.shape[2], made.shape[1]).astype(np.float32)
        )
        assert ((made[there] - drawn).abs().mean((1, 2, 3)) < 20).all()
        assert ((made[there] - other).abs().mean((1, 2, 3)) > 40).all()
        shown[there] = True
    # Everywhere else the video is as it is without cards, but for how the coder got there.
    assert ((made - beside)[~shown].abs().mean((1, 2, 3)) < 6).all()


def test_kept_by_its_cards(tmp_path: Path, encode: Encode) -> None:
    source, cards = encode("short.mp4", frames=10), [DigitCard("red", 3, 0), DigitCard("blue", 1, 10)]
    path = hour_clip(tmp_path, 20, source, cards=cards)
    stamp = path.stat().st_mtime_ns
    assert hour_clip(tmp_path, 20, source, cards=cards[::-1]) == path
    assert path.stat().st_mtime_ns == stamp
    assert hour_clip(tmp_path, 20, source, cards=[replace(cards[0], digit=4), cards[1]]) != path
