"""`--system video-xl` from end to end: windows into a memory, tiles of a picture, a memory that is asked again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_run import call, refused
from typer.testing import Result

from longreel.cache import VSTCache
from longreel.models import VideoMemory
from longreel.models.sizes import TowerSize
from longreel.models.video_xl import PRESETS, VideoXLPreset
from longreel.models.video_xl.presets import qwen2

SMALL = VideoXLPreset(
    name="small-for-tests",
    tower=TowerSize(image=56, patch=14, width=32, layers=1, heads=2, mlp=64),
    language=qwen2(width=32, layers=2, heads=4, kv_heads=2, mlp=64, vocabulary=260, positions=512),
    chunk=4,
    window=12,
)
# Bytes of a token: 2 layers, keys and values of 2 heads of 8 in float32.
TOKEN = 2 * 2 * 2 * 8 * 4


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, SMALL.name, SMALL)


def run(tmp_path: Path, *arguments: object) -> tuple[Result, dict[str, Any]]:
    """A run that must succeed, and its line of JSON."""
    lines = tmp_path / "run.jsonl"
    result = call("run", *arguments, "--system", "video-xl", "--preset", SMALL.name, "--json", lines)
    assert result.exit_code == 0, result.output
    return result, json.loads(lines.read_text().splitlines()[-1])


def ids(line: dict[str, Any]) -> list[list[int]]:
    return [one["ids"] for one in line["questions"]]


def test_a_video(tmp_path: Path, clip: Path) -> None:
    """10 frames of 4 tokens: windows of 12, 12, 12 and 4."""
    result, line = run(tmp_path, clip, "--frames", "fps:5", "--ratio", 4)
    assert (line["frames"], line["patches"], line["tokens"], line["rows"]) == (10, 160, 1 + 10, 1 + 40)
    assert list(line["stages_s"]["longreel"]) == ["decode", "tower", "project", "memory", "language", "other"]
    assert line["tokens_bytes"] == 11 * TOKEN
    assert line["backend"] == "cpu"
    assert "11 tokens cached, of 41: 73.17% less" in result.stdout
    assert "first token    after" in result.stdout
    before = line["total_s"]["longreel"] - line["stages_s"]["longreel"]["language"]
    assert line["frames_per_s"]["longreel"] == pytest.approx(10 / before)
    assert "ingested       " in result.stdout
    assert result.stderr == ""
    assert max(map(len, result.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
    "options",
    [
        ["--ratio", 2],
        ["--ratio", 3],
        ["--ratio", 4, "--backend", "reference"],
        ["--ratio", "2,4"],
        ["--ratio", "1,2,4", "--draw", "sequence"],
    ],
    ids=str,
)
def test_compare(tmp_path: Path, clip: Path, options: list[object]) -> None:
    """Memory and logits of two questions, against the released order of operations and float64; 3 does not divide 4."""
    given = ["--frames", "fps:5", "--question", "a", "--question", "why is it?", *options]
    result, line = run(tmp_path, clip, "--compare", *given)
    assert line["passed"]
    assert 0 < line["error_over_budget"] <= 1
    assert list(line["stage_ratios"]) == ["project", "memory", "language"]
    assert "same numbers   yes" in result.stdout
    _, alone = run(tmp_path, clip, *given, "--chunk", 7)
    assert ids(alone) == ids(line)


def test_the_reference_path_alone(tmp_path: Path, clip: Path) -> None:
    _, both = run(tmp_path, clip, "--frames", "fps:5", "--ratio", 2, "--compare")
    _, line = run(tmp_path, clip, "--frames", "fps:5", "--ratio", 2, "--ops", "reference")
    assert ids(line) == ids(both)
    assert (line["tokens"], line["tokens_bytes"], line["backend"]) == (21, 21 * TOKEN, "reference")


def test_a_saved_memory_is_asked_again(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, question = tmp_path / "memory.safetensors", "what else is there, and where does it go?"
    _, first = run(tmp_path, clip, "--frames", "fps:5", "--ratio", 2, "--save-memory", saved, "--question", "a")
    _, whole = run(tmp_path, clip, "--frames", "fps:5", "--ratio", 2, "--question", question)
    right, lengths = VSTCache.append, list[int]()

    def counted(self: VSTCache, decoder: Any, embeds: Any, *rest: Any) -> None:
        lengths.append(embeds.shape[1])
        right(self, decoder, embeds, *rest)

    monkeypatch.setattr(VSTCache, "append", counted)
    _, again = run(tmp_path, saved, "--question", "a")
    _, other = run(tmp_path, saved, "--question", question)
    assert (ids(again), ids(other)) == (ids(first), ids(whole))
    assert (again["frames"], again["tokens"]) == (10, 21)
    # Each run's black frame behind its prefix, nothing else.
    assert lengths == [1, 6] * 2
    given = ["--preset", SMALL.name]
    refused(call("run", saved, "--system", "voco-llama"), "a memory saved by video-xl, this run is voco-llama")
    refused(call("run", saved, "--system", "video-xl", *given, "--ratio", 4), "made with --ratio 2, this run has 4")


@pytest.mark.parametrize(("draw", "tokens"), [("sequence", 6 + 3 + 6 + 1), ("step-random", None)])
def test_several_ratios(tmp_path: Path, clip: Path, draw: str, tokens: int | None) -> None:
    """Windows of 12, 12, 12 and 4 visual tokens; the same ratios in every run, and for a memory that is asked again."""
    saved, given = tmp_path / "memory.safetensors", ["--frames", "fps:5", "--ratio", "2,4", "--draw", draw]
    _, first = run(tmp_path, clip, *given, "--save-memory", saved, "--chunk", 1)
    assert tokens is None or first["tokens"] == 1 + tokens
    for again in (run(tmp_path, clip, *given)[1], run(tmp_path, saved)[1]):
        assert (ids(again), again["tokens"]) == (ids(first), first["tokens"])
    same = ["--system", "video-xl", "--preset", SMALL.name]
    assert call("run", saved, *same, "--ratio", " 2,4 ").exit_code == 0
    refused(call("run", saved, *same, "--ratio", "2,4,1"), "made with --ratio 2,4, this run has 2,4,1")


def test_a_live_memory_of_several_ratios(tmp_path: Path) -> None:
    """What is seen for a question, or fails, takes no ratio of the windows behind it; a loaded one goes on with the next."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (21, 56, 56, 3), dtype=torch.uint8, generator=generator)
    options = {"ratio": "2,4"}
    once, often = (VideoMemory("video-xl", SMALL.name, options=options) for _ in range(2))
    once.append(frames)
    for part in frames[:9].split(2):
        often.append(part)
        often.ask("a")
    often.save(tmp_path / "m.safetensors")
    loaded = VideoMemory.load(tmp_path / "m.safetensors")
    for memory in (often, loaded):
        memory.append(frames[9:])
        assert memory.ask("why?").ids == once.ask("why?").ids
        assert memory.nbytes == once.nbytes


def picture(path: Path, width: int, height: int, seed: int = 0) -> Path:
    values = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    Image.fromarray(values.numpy()).save(path)
    return path


@pytest.mark.parametrize(
    ("size", "rule", "frames"), [((168, 112), "released", 6), ((150, 120), "paper", 4), ((168, 112), "none", 1)]
)
def test_a_picture_alone_is_cut_into_tiles(tmp_path: Path, size: tuple[int, int], rule: str, frames: int) -> None:
    one = picture(tmp_path / "one.png", *size)
    _, line = run(tmp_path, one, "--ratio", 4, "--tiles", rule, "--chunk", 4)
    assert (line["frames"], line["tokens"]) == (frames, 1 + frames)
    features = tmp_path / "f.safetensors"
    done = call("extract", one, "--system", "video-xl", "--preset", SMALL.name, "--tiles", rule, "--out", features)
    assert done.exit_code == 0, done.output
    assert ids(run(tmp_path, features, "--ratio", 4)[1]) == ids(line)


def test_several_pictures_are_frames(tmp_path: Path) -> None:
    several = [picture(tmp_path / f"{i}.png", 168 + i, 112, i) for i in range(3)]
    _, line = run(tmp_path, *several, "--ratio", 4)
    assert (line["frames"], line["tokens"]) == (3, 4)


def test_refused(tmp_path: Path, clip: Path) -> None:
    given = ["--system", "video-xl", "--preset", SMALL.name]
    refused(call("run", clip, *given, "--ratio", 5), "a frame has 4 visual tokens")
    refused(call("run", clip, *given, "--ratio", "2,x"), "--ratio '2,x': allowed are a number from 1 on, or several")
    refused(call("run", clip, *given, "--ratio", 0), "--ratio '0': allowed are a number from 1 on")
    refused(call("run", clip, *given, "--ratio", "3,5"), "a frame has 4 visual tokens")
    refused(call("run", clip, *given, "--ratio", "3,3"), "one must divide the 4 visual tokens of a frame")
    refused(call("run", clip, *given, "--frames", "uniform:500", "--ratio", "2,4"), "500 frames at ratio 2,4 need")
    refused(call("run", clip, *given, "--frames", "uniform:500", "--ratio", 2), "500 frames at ratio 2 need")
    refused(call("run", clip, *given, "--voco", 2), "--voco: an option of voco-llama, this run is video-xl")
    refused(call("run", clip, *given, "--tiles", "some"), "there is released or paper or none")
    refused(call("run", clip, "--ratio", 2), "--ratio: an option of video-xl, this run is llama-vid")
