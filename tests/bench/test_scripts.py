"""Scripts of benchmarks/ that pages name and no other test runs: run here by their command lines, at small sizes.

A size that has no option is a constant of its script, and made smaller here. What is printed is looked at in a few words.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from longreel.cli.main import app

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from encoded import Encode, encode

__all__ = ["encode"]
pytestmark = pytest.mark.usefixtures("_place")
ROOT = Path(__file__).resolve().parents[2]


class Script(NamedTuple):
    """words: of its command line. says: what its output holds. small: constants in place of its own."""

    name: str
    words: str
    says: str
    small: dict[str, Any] = {}  # noqa: RUF012, a NamedTuple's default, which nobody writes to


CLIP = {"hour_clip": lambda *_, **__: Path("F.mp4")}
SCRIPTS = [
    Script("compress_video", "--size 3b --layers 1 --frames 24 --side 4 --method evs --keep 0.5 --rounds 1", "evs",
           {"SIZES": {"3b": (128, 48, 1, 1)}}),
    Script("cut_an_hour", "--frames 8 16 --method evs --method merge", "16", {"GRID": (4, 4), "WIDTH": 16, "LEFT": 32}),
    Script("decode_attention", "--keys 256 --rows 1 --heads 4 --kv-heads 2 --layers 2 --repeats 2", "256"),
    Script("decode_host", "", "VST memory"),
    Script("distillation", "--rows 8 --words 32 --width 16 --repeats 2", "plain"),
    Script("layout", "--repeats 1", "causal", {"FRAMES": (2, 4, 8, 16)}),
    Script("masks", "attention towers", "SDPA", {"WINDOW": 64, "SHORT": 300, "WIDTHS": (16,), "TOWERS": ((2, 5, 2, 8),)}),
    Script("needle/cards_asked", "--frames fps:5", "of 8 right;", CLIP),
    Script("needle/cards_train", "--tower 1 --steps 1 --minutes 0.01 --folder .", ""),
    Script("needle/needle_strip", "--frames fps:5", "", CLIP),
    Script("needle/needle_train", "--minutes 0.01 --last 1 --folder .", ""),
    Script("soak", "--minutes 0", "1 rounds of voco-llama", {"SYSTEMS": ("voco-llama",)}),
    Script("needle/needle_grid", "--videos 1 --chunks 2 --ratios 8", "shuffled"),
    Script("pool_before_projector", "--frames 2 --rounds 1 --dtype float32", "activations",
           {"SIDE": 6, "WIDTH": 8, "HIDDEN": 16}),
    Script("pool_before_projector", "--hour --frames 2 --dtype float32", "4 frames",
           {"SIDE": 6, "WIDTH": 8, "HIDDEN": 16, "HOUR": 4}),
    Script("qformer", "--part one-gemm --dtype fp32 --repeats 2", "each", {"PATCHES": 5, "WIDTH": 16}),
    Script("time_over_size", "--png F.png", "steepest", {"SIZES": (4, 5), "WIDTH": 16, "QUERIES": 2, "ROUNDS": 1}),
    Script("video_xl_growth", "--frames 50 --step 10", "predicted"),
    Script("voco_two_stage", "--frames 2 --layers 1 --text 4 --dtype fp32", "question", {"WIDTH": 64, "ROWS": 4}),
]  # fmt: skip


@pytest.fixture
def _place(tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own with a clip of two seconds, and scripts that import their neighbours."""
    monkeypatch.chdir(tmp_path)
    encode("F.mp4").rename("F.mp4")
    for folder in ("benchmarks", "benchmarks/needle"):
        monkeypatch.syspath_prepend(ROOT / folder)


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{Path(name).name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded(script.name)
    for constant, value in script.small.items():
        monkeypatch.setattr(module, constant, value)
    monkeypatch.setattr(sys, "argv", [script.name, *script.words.split()])
    try:
        ended = typer.run(module.main) if hasattr(module, "typer") else module.main()
    except SystemExit as end:
        ended = end.code
    assert not ended


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: f"{script.name} {script.words}"[:40])
def test_a_script(script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(script, monkeypatch)
    assert script.says in capsys.readouterr().out


RUN = subprocess.run


def here(command: Any, **given: Any) -> Any:
    """`python -m longreel ...` and `.../longreel ...`, which a script begins as a process, in this one; no work tree is made."""
    words = command.split() if isinstance(command, str) else [str(word) for word in command]
    at = 3 if words[1:3] == ["-m", "longreel"] else 1 if words[0].endswith("/longreel") else 0
    if not at:
        return None if words[0] == "true" or "worktree" in words else RUN(command, **given)
    done = CliRunner().invoke(app, words[at:])
    assert done.exit_code == 0, done.output
    return subprocess.CompletedProcess(words, 0, done.output, "")


@pytest.mark.parametrize(
    "script",
    [
        Script(
            "instruction_sets", "--set avx2 --dtype fp32 -- --frames 2 --width 16 --repeats 2", "| avx2 | float32 |"
        ),
        Script("plan_memory", "F.mp4 --system llama-vid --count 2", "planned, MiB", {"OFF": 1e9}),
        Script(
            "two_commits",
            "a b --rounds 1 --build true --folder . -- --op adaptive_pool --frames 2 --dtype fp32 --peer strong --backward none"
            " --repeats 2",
            "change",
        ),
    ],
    ids=lambda script: script.name,
)
def test_a_script_of_processes(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", here)
    run(script, monkeypatch)
    assert script.says in capsys.readouterr().out
