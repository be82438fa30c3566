"""`--system video-llama` from end to end: a question about what is seen and one about what is heard, nothing decoded twice."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors import safe_open
from test_run import call, refused
from typer.testing import Result

from longreel.data.audio import AudioBlocks
from longreel.models.sizes import LanguageSize, TowerSize
from longreel.models.video_llama import PRESETS, AudioTowerSize, BranchSize, VideoLlamaPreset

_QFORMER = BranchSize(width=16, layers=2, heads=2, mlp=32, queries=6)
SMALL = VideoLlamaPreset(
    name="small-for-tests",
    tower=TowerSize(image=28, patch=14, width=16, layers=1, heads=2, mlp=32),
    frame=_QFORMER,
    video=_QFORMER,
    listen=_QFORMER,
    audio=AudioTowerSize(width=16, layers=1, heads=2, mlp=32, out=20),
    language=LanguageSize(width=32, layers=1, heads=4, kv_heads=2, mlp=64, vocabulary=260, positions=512),
    chunk=4,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> VideoLlamaPreset:
    monkeypatch.setitem(PRESETS, SMALL.name, SMALL)
    return SMALL


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds of pictures at 2 a second, with two channels of noise that grows louder."""
    path = tmp_path_factory.mktemp("loud") / "loud.mkv"
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        pictures, sound = out.add_stream("ffv1", rate=2), out.add_stream("pcm_s16le", rate=8000, layout="stereo")
        pictures.width, pictures.height, pictures.pix_fmt = 48, 32, "yuv420p"
        for _ in range(40):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 256, (32, 48, 3), np.uint8), "rgb24")
            out.mux(pictures.encode(frame))
        for second in range(20):
            wave = random.integers(-500 * (second + 1), 500 * (second + 1), (1, 2 * 8000), np.int16)
            block = av.AudioFrame.from_ndarray(wave, "s16", "stereo")
            block.sample_rate, block.pts, block.time_base = 8000, 8000 * second, Fraction(1, 8000)
            out.mux(sound.encode(block))
        for stream in (pictures, sound):
            out.mux(stream.encode(None))
    return path


def run(tmp_path: Path, *arguments: object, command: str = "run") -> tuple[Result, dict[str, Any]]:
    lines = tmp_path / "run.jsonl"
    given = ["--system", "video-llama", "--preset", SMALL.name, "--json", lines]
    result = call(command, *arguments, *given)
    assert result.exit_code == 0, result.output
    return result, json.loads(lines.read_text().splitlines()[-1])


def checksums(line: dict[str, Any]) -> list[Any]:
    return [{k: v for k, v in one.items() if "id" in k or "checksum" in k} for one in line["questions"]]


ASKED = ("--question", "What is seen?", "--question", "What is heard?")


def test_seen_and_heard_in_one_pass(tmp_path: Path, loud: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    right = AudioBlocks._decode
    monkeypatch.setattr(AudioBlocks, "_decode", lambda blocks: opened.append(blocks) or right(blocks))
    result, line = run(tmp_path, loud, *ASKED, "--compare")
    assert (line["frames"], line["tokens"]) == (8, 12)
    assert line["passed"]
    stages = ["decode", "tower", "audio", "frame", "video", "listen", "language", "other"]
    assert sorted(line["stages_s"]["longreel"]) == sorted(stages)
    assert sorted(line["stage_ratios"]) == ["frame", "listen", "video"]
    assert len(opened) == 1, "sound is decoded once for both questions and both paths"
    assert "same numbers   yes" in result.stdout
    assert "tokens cached  12 for all questions, of 40" in result.stdout
    assert not result.stderr


def test_extract_and_later_questions(tmp_path: Path, loud: Path) -> None:
    out, kept = tmp_path / "f.safetensors", tmp_path / "kept.safetensors"
    run(tmp_path, loud, "--out", out, command="extract")
    with safe_open(out, "pt") as file:
        assert sorted(file.keys()) == ["audio", "audio.times", "features", "times"]
        assert file.get_tensor("features").shape == (8, 5, 16)
        assert file.get_tensor("audio").shape == (8, 20)
        assert file.get_tensor("audio.times").tolist() == [18 * index / 8 for index in range(8)]
        assert (file.get_tensor("audio").norm(dim=-1) - 20).abs().max() < 1e-4
    _, first = run(tmp_path, loud, *ASKED, "--save-memory", kept)
    for path in (out, kept):
        _, later = run(tmp_path, path, *ASKED)
        assert checksums(later) == checksums(first)
        assert later["tokens"] == 12
    assert "tower" not in later["stages_s"]["longreel"]
    refused(call("ask", out), "no saved memory")
    asked = call("ask", kept, *ASKED)
    assert asked.exit_code == 0, asked.output
    assert all(f"checksum {one['checksum']}" in asked.stdout for one in first["questions"])
    for option, value in (("--clip-placement", "all"), ("--audio-clips", 3), ("--audio-channels", "mean")):
        call_it = call("run", out, "--system", "video-llama", "--preset", SMALL.name, option, value)
        refused(call_it, f"{option} {value}: {out} holds features, its sound was chosen before")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(kept.read_bytes()[:-10])
    refused(call("run", cut, "--system", "video-llama", "--preset", SMALL.name), "cut short")


def test_all_of_the_sound_is_heard(tmp_path: Path, loud: Path) -> None:
    """The last clip begins behind the only frame."""
    out = tmp_path / "f.safetensors"
    _, video = run(tmp_path, loud, *ASKED, "--frames", "uniform:1", "--features", out)
    with safe_open(out, "pt") as file:
        assert (file.get_tensor("features").shape[0], file.get_tensor("audio").shape[0]) == (1, 8)
    _, later = run(tmp_path, out, *ASKED, "--compare")
    assert checksums(later) == checksums(video)
    assert later["passed"]
    run(tmp_path, loud, "--frames", "uniform:8", "--count", 4, "--features", out)
    with safe_open(out, "pt") as file:
        assert file.get_tensor("audio.times").tolist() == [0.0, 2.25, 4.5, 6.75]


def test_without_sound_it_only_sees(tmp_path: Path, clip: Path, loud: Path) -> None:
    result, line = run(tmp_path, clip)
    assert result.stderr.splitlines() == [f"warning: {clip}: has no sound"]
    assert line["tokens"] == 6
    assert "listen" not in line["stages_s"]["longreel"]
    kept = tmp_path / "kept.safetensors"
    _, first = run(tmp_path, clip, "--save-memory", kept)
    assert checksums(run(tmp_path, kept)[1]) == checksums(first)


def test_more_than_was_trained(tmp_path: Path, loud: Path) -> None:
    given = ("--system", "video-llama", "--preset", SMALL.name)
    refused(call("run", loud, *given, "--frames", "fps:2"), "40 frames are more than the 32 trained positions")
    refused(call("run", loud, *given, "--clip-placement", "all"), "10 clips are more than the 8 trained positions")
    refused(
        call("run", loud, *given, "--audio-clips", 9), "9 clips are more than the 8 trained positions; --interpolate"
    )
    both = ("--frames", "fps:2", "--clip-placement", "all", "--interpolate", "--compare", "--chunk", 7)
    _, line = run(tmp_path, loud, *both)
    assert (line["frames"], line["tokens"], line["passed"]) == (40, 12, True)
    out = tmp_path / "all.safetensors"
    run(tmp_path, loud, "--frames", "fps:2", "--clip-placement", "all", "--out", out, command="extract")
    with safe_open(out, "pt") as file:
        assert (file.get_tensor("features").shape[0], file.get_tensor("audio").shape[0]) == (40, 10)
    refused(call("run", out, *given), "10 clips are more than the 8 trained positions; --interpolate")
    _, later = run(tmp_path, out, "--interpolate")
    assert checksums(later) == checksums(line)
    refused(call("run", loud, *given, "--audio-scale", "loud"), "--audio-scale 'loud': there is released or unit")


def test_options_of_the_sound_matter(tmp_path: Path, loud: Path) -> None:
    found = []
    for options in (
        (), ("--audio-channels", "mean"), ("--clip-placement", "whole"), ("--audio-clips", "4"), ("--clip-mean", "own"),
        ("--audio-channels", "mean", "--clip-mean", "own"),
    ):  # fmt: skip
        out = tmp_path / "f.safetensors"
        run(tmp_path, loud, "--out", out, *options, command="extract")
        with safe_open(out, "pt") as file:
            found.append(file.get_tensor("audio"))
    for index, one in enumerate(found):
        assert all(one.shape != other.shape or not torch.equal(one, other) for other in found[:index]), index


def test_a_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "a.png"
    Image.new("RGB", (60, 40), (200, 30, 20)).save(path)
    _, line = run(tmp_path, path, "--compare")
    assert (line["frames"], line["tokens"], line["passed"]) == (1, 6, True)
