import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from longreel.cli.main import app
from longreel.models import plan
from longreel.models.registry import SYSTEMS

pytestmark = pytest.mark.fast


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_card_that_is_not_here(system: str, tmp_path: Path) -> None:
    lines = tmp_path / "p.jsonl"
    long = ["--interpolate"] if system == "video-llama" else []
    given = [
        "--system",
        system,
        "--preset",
        "7b",
        "--vram",
        "24GiB",
        "--hours",
        1,
        "--roof",
        "1000,100",
        "--json",
        lines,
    ]
    result = call(*given, *long)
    assert result.exit_code == 0, result.output
    line = json.loads(lines.read_text())
    made = plan(system, "7b", frames=3600, memory=24 << 30, gpu=True, options={"interpolate": True} if long else None)
    assert (line["frames"], line["room_bytes"], line["dtype"]) == (3600, 24 << 30, "bfloat16")
    assert line["peak_memory_bytes"] == made.peak
    assert line["total_s"] == pytest.approx(sum(stage["seconds"] for stage in line["stages"]))
    assert line["total_s"] >= made.cost.flops / 100e12
    assert f"{made.cost.tokens:,} tokens" in result.stdout
    assert "yes; " in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 130


def test_what_to_change_is_said() -> None:
    result = call("--system", "video-xl", "--preset", "7b", "--vram", "19.5", "--hours", 1, "--roof", "none")
    assert result.exit_code == 0, result.output
    assert "no; up to" in result.stdout
    assert "enough       --ratio 12" in result.stdout
    assert "not known" in result.stdout


def test_this_machine() -> None:
    result = call("--count", 64, "--dtype", "float32")
    assert result.exit_code == 0, result.output
    assert "float32 on a CPU" in result.stdout
    assert "GB/s" in result.stdout
    assert "free here" in result.stdout


def test_a_preset_that_knows_few_words_has_a_question_of_its_own() -> None:
    result = call("--system", "video-xl", "--preset", "needle", "--count", 64, "--roof", "none")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--vram", "24 apples"], "must be a size"),
        (["--vram", "8", "--ram", "8"], "on one of them"),
        (["--vram", "9" * 400], "must be a size"),
        (["--roof", f"{'9' * 400},1"], "must be GB/s and TFLOP/s"),
        (["--hours", "inf"], "are more than"),
        (["--hours", "1e308"], "are more than"),
        (["--fps", "inf"], "are more than"),
        (["--count", "8", "--hours", "1"], "give one of them"),
        (["--vram", "8", "--dtype", "float32"], "computed in bfloat16"),
        (["--ram", "8", "--roof", "fast"], "GB/s and TFLOP/s"),
        (["--preset", "giant", "--ram", "8"], "llama-vid has tiny"),
        (["--ratio", "4", "--ram", "8"], "an option of video-xl"),
        (["--system", "video-llama", "--ram", "8"], "--interpolate"),
    ],
)
def test_bad_options_are_one_line(options: list[str], said: str) -> None:
    result = call(*options)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert said in result.stderr
