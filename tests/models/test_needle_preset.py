from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from typer.testing import CliRunner

from longreel.cli.main import app
from longreel.data import frames
from longreel.data.cards import DigitCard, dealt
from longreel.data.clips import sample_clip
from longreel.models import VideoMemory
from longreel.models.checkpoint import CheckpointError
from longreel.models.setup import setup_of
from longreel.models.video_xl.system import VideoXLSystem

FRAMES = 30


def asked(memory: VideoMemory, cards: list[DigitCard]) -> Mapping[str, str | None]:
    return MappingProxyType({card.colour: memory.ask(card.question).text for card in cards})


def memory_of(cards: list[DigitCard]) -> VideoMemory:
    pixels = torch.cat([chunk.pixels for chunk in frames(sample_clip(), "fps:3", size=336)])
    assert len(pixels) == FRAMES
    for card in cards:
        pixels[card.second // 10] = torch.from_numpy(card.picture(336, 336).copy())
    memory = VideoMemory("video-xl", "needle")
    # Not in step with the windows.
    for part in pixels.split(7):
        memory.append(part)
    return memory


def test_finds_cards(tmp_path: Path) -> None:
    cards = dealt(0, 10 * FRAMES)
    right = {card.colour: str(card.digit) for card in cards}
    memory = memory_of(cards)
    assert asked(memory, cards) == right
    memory.save(tmp_path / "cards.safetensors")
    # The file names the preset, which brings the weights.
    assert asked(VideoMemory.load(tmp_path / "cards.safetensors"), cards) == right
    said = CliRunner().invoke(app, ["ask", str(tmp_path / "cards.safetensors"), "--question", cards[0].question])
    assert said.exit_code == 0, said.output
    assert right[cards[0].colour] in said.output
    # Asked of other cards' memory, the same questions have other answers.
    others = asked(memory_of(dealt(1, 10 * FRAMES)), cards)
    assert sum(others[colour] == digit for colour, digit in right.items()) < len(cards) // 2


def test_question_without_a_known_word(capfd: pytest.CaptureFixture[str]) -> None:
    setup = setup_of("video-xl", "needle")
    for text in ("Which digit was on the gold card?", "What was discovered in 1877?"):
        with pytest.raises(ValueError, match=r"question '.*': .*needle knows none of its words"):
            setup.prompts([text])
    (_, after), (_, other) = setup.prompts(["Which digit was on the RED card?", "pink"]).prompts
    assert len(after) == len(other) == 1
    assert not torch.equal(after, other)
    # "llava_qwen" is a type that transformers would warn of.
    assert not capfd.readouterr().err


def test_weights_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoXLSystem, "weights", lambda self, preset: tmp_path / preset)
    with pytest.raises(
        CheckpointError, match=r"--preset needle: its weights are not in .*; they are installed with longreel"
    ):
        setup_of("video-xl", "needle")
