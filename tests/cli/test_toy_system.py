"""A system is one object and one line of the registry: run, extract, profile and --compare know of no more."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import toy_system
from safetensors import safe_open
from test_run import refused
from typer.testing import CliRunner, Result

from longreel.cli.main import make_app
from longreel.models import registry
from longreel.models.record import RunRecord
from longreel.models.system import Cached, Chunk, Clock

RATE = 4800


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.SYSTEMS, "toy", "toy_system:SYSTEM")


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of pictures at 5 a second, with sound that grows louder in every half second."""
    path = tmp_path_factory.mktemp("loud") / "loud.mkv"
    with av.open(str(path), "w") as out:
        pictures, sound = out.add_stream("ffv1", rate=5), out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        pictures.width, pictures.height, pictures.pix_fmt = 32, 32, "yuv420p"
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * index, np.uint8), "rgb24")
            out.mux(pictures.encode(frame))
        out.mux(pictures.encode(None))
        steps = np.repeat(np.arange(1, 5, dtype=np.int16) * 4000, RATE // 2)
        wave = av.AudioFrame.from_ndarray(steps[None], "s16", "mono")
        wave.sample_rate, wave.pts = RATE, 0
        out.mux(sound.encode(wave))
        out.mux(sound.encode(None))
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), [str(item) for item in arguments])


def run(tmp_path: Path, *arguments: object, command: str = "run") -> dict[str, Any]:
    lines = tmp_path / "run.jsonl"
    result = call(command, *arguments, "--system", "toy", "--json", lines)
    assert result.exit_code == 0, result.output
    return json.loads(lines.read_text().splitlines()[-1])


def ids(line: dict[str, Any]) -> list[list[int]]:
    return [one["ids"] for one in line["questions"]]


def test_run_and_compare(tmp_path: Path, loud: Path) -> None:
    given = [loud, "--frames", "fps:5", "--question", "a", "--question", "why?"]
    line = run(tmp_path, *given, "--compare", "--plot", tmp_path / "toy.png")
    assert (line["frames"], line["tokens"], line["tokens_bytes"], line["backend"]) == (10, 14, 14 * 12 * 4, "toy")
    assert list(line["stages_s"]["longreel"]) == ["decode", "tower", "audio", "sum", "language", "other"]
    assert list(line["stage_ratios"]) == ["sum", "language"]
    assert line["passed"]
    assert (tmp_path / "toy.png").exists()
    assert ids(run(tmp_path, *given, "--chunk", 10)) == ids(line)
    assert ids(run(tmp_path, *given, "--loudness", 50)) != ids(line)
    assert run(tmp_path, *given, "--count", 4)["tokens"] == 4 + 2, "sound up to the last frame taken"


def test_paths_take_turns_and_float64_is_not_timed(tmp_path: Path, loud: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    right = toy_system.ToySession.consume

    def noted(self: toy_system.ToySession, chunk: Chunk, clock: Clock) -> None:
        order.append("float64" if self.dtype == torch.float64 else "reference" if self.halves else "longreel")
        right(self, chunk, clock)

    monkeypatch.setattr(toy_system.ToySession, "consume", noted)
    timed, clock = set[str](), RunRecord.clock
    monkeypatch.setattr(RunRecord, "clock", lambda self, *names: timed.update(names[1:]) or clock(self, *names))
    lines = tmp_path / "run.jsonl"
    shown = call("run", loud, "--system", "toy", "--frames", "fps:5", "--chunk", 4, "--compare", "--json", lines).stdout
    line = json.loads(lines.read_text())
    elapsed = next(text for text in shown.splitlines() if text.startswith("elapsed"))
    parts = [part.rpartition(" ")[0] for part in elapsed.partition(": ")[2].split(", ")]
    assert parts == ["stages", "reference path's own", "warm-up", "float64 truth"]
    first, second = ["longreel", "reference"], ["reference", "longreel"]
    assert order == [*first, *first, "float64", *second, "float64", *first, "float64"], "a warm-up, then three chunks"
    assert list(line["stages_s"]) == first
    assert timed == set(first)
    assert all(seconds > 0 for seconds in line["stages_s"]["reference"].values())
    assert line["stages_s"]["longreel"]["tower"] == line["stages_s"]["reference"]["tower"]


def test_wrong_numbers_fail(loud: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = toy_system.ToySession.finish

    def wrong(self: toy_system.ToySession, clock: Clock) -> Cached:
        self.tokens = [tokens * (1 if self.halves else 1.0001) for tokens in self.tokens]
        return right(self, clock)

    monkeypatch.setattr(toy_system.ToySession, "finish", wrong)
    result = call("run", loud, "--system", "toy", "--compare")
    assert result.exit_code == 1
    assert "NO:" in result.stdout


def test_extract_holds_both_modalities(tmp_path: Path, loud: Path) -> None:
    out, kept = tmp_path / "f.safetensors", tmp_path / "kept.safetensors"
    assert run(tmp_path, loud, "--frames", "fps:5", "--out", out, command="extract")["frames"] == 10
    with safe_open(out, "pt") as file:
        assert sorted(file.keys()) == ["audio", "audio.times", "features", "times"]
        assert file.get_tensor("audio.times").tolist() == [0.0, 0.5, 1.0, 1.5]
        levels = file.get_tensor("audio").mean((1, 2)) * 2**15
        assert [round(level / 1000) for level in levels.tolist()] == [4, 8, 12, 16]
    video = run(tmp_path, loud, "--frames", "fps:5", "--features", kept)
    assert out.read_bytes() == kept.read_bytes()
    for chunk in (1, 4, 64):
        later = run(tmp_path, out, "--chunk", chunk)
        assert (later["tokens"], ids(later)) == (14, ids(video))
        assert list(later["stages_s"]["longreel"]) == ["read", "sum", "language", "other"]
    assert run(tmp_path, out, "--count", 4, "--chunk", 3)["tokens"] == 4 + 2


def test_a_saved_memory(tmp_path: Path, loud: Path) -> None:
    saved = tmp_path / "saved.safetensors"
    first = run(tmp_path, loud, "--keep", saved, "--loudness", 3, "--frames", "fps:5")
    later = run(tmp_path, saved)
    assert (ids(later), later["frames"], later["tokens"]) == (ids(first), 10, 14)
    assert list(later["stages_s"]["longreel"]) == ["load", "language", "other"]
    refused(call("run", saved, "--system", "toy", "--loudness", 2), "made with --loudness 3.0, this run has 2.0")
    refused(call("run", saved, "--system", "toy", "--compare"), "keeps no frames")
    for other in ("llama-vid", "voco-llama"):
        refused(call("run", saved, "--system", other), f"a memory saved by toy, this run is {other}")


def test_profile(tmp_path: Path, loud: Path) -> None:
    given = [loud, "--frames", "fps:5", "--count", 4, "--count", 10, "--loudness", 2, "--compare"]
    growth = run(tmp_path, *given, "--plot", tmp_path / "p.png", command="profile")
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [line["tokens"] for line in lines[:2]] == [6, 14]
    assert all(line["passed"] for line in lines[:2])
    assert list(growth["stage_exponents"]) == ["decode", "tower", "audio", "sum", "language", "other"]
    assert (tmp_path / "p.png").exists()


def test_without_sound_it_only_sees(tmp_path: Path, clip: Path) -> None:
    result = call("run", clip, "--system", "toy", "--frames", "fps:5", "--json", tmp_path / "a.jsonl")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [f"warning: {clip}: has no sound"]
    assert json.loads((tmp_path / "a.jsonl").read_text())["tokens"] == 10


def test_options_belong_to_their_system(clip: Path) -> None:
    refused(call("run", clip, "--loudness", 2), "--loudness: an option of toy, this run is llama-vid")
    refused(call("run", clip, "--system", "toy", "--voco", 2), "--voco: an option of voco-llama, this run is toy")
    refused(call("extract", clip, "--system", "toy", "--drop-cls", "--out", "f.safetensors"), "an option of llama-vid")
    refused(
        call("run", clip, "--keep", "k.safetensors"),
        "--save-memory: an option of voco-llama, video-xl, video-llama, toy, this run is llama-vid",
    )
    said = " ".join(call("run", "--help").stdout.replace("│", " ").split())
    assert "toy: how much the sound counts." in said
