"""`longreel ask`: the file says what made it; the answers are those of the run."""

import json
from pathlib import Path

import pytest
from test_run import call, refused
from test_run_video_xl import SMALL as XL
from test_run_voco import SMALL as VOCO

from longreel.models import video_xl, voco_llama


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(video_xl.PRESETS, XL.name, XL)
    monkeypatch.setitem(voco_llama.PRESETS, VOCO.name, VOCO)


@pytest.mark.parametrize("system", ["voco-llama", "video-xl"])
def test_ask(tmp_path: Path, clip: Path, system: str) -> None:
    memory, lines = tmp_path / "memory.safetensors", tmp_path / "lines.jsonl"
    asked = ["--question", "why?", "--question", "what is it?", "--json", lines]
    given = ["--system", system, "--preset", XL.name, "--frames", "fps:5"]
    given += ["--ratio", 4] if system == "video-xl" else ["--voco", 2]
    done = [call("run", clip, *given, "--save-memory", memory, *asked), call("ask", memory, *asked)]
    assert [one.exit_code for one in done] == [0, 0], done[-1].output
    first, again = map(json.loads, lines.read_text().splitlines())
    assert [one["ids"] for one in again["questions"]] == [one["ids"] for one in first["questions"]]
    assert (again["system"], again["frames"]) == (system, 10)
    assert list(again["stages_s"]["longreel"]) == ["load", "language", "other"]
    refused(call("ask", memory, "--checkpoint", tmp_path), "not a checkpoint folder")


def test_refused(tmp_path: Path, clip: Path) -> None:
    refused(call("ask", tmp_path / "none"), "none: no such file")
    refused(call("ask", clip), "no saved memory")
