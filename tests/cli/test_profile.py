import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from longreel.cli.main import app
from longreel.cli.profile import counts_of
from longreel.models.record import OURS
from longreel.report.growth import Growth, exponent, interval, show

# The runs of a sweep are processes of their own, which know no preset of a test: these take `tiny`.


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["profile", *map(str, arguments)])


def test_a_sweep(tmp_path: Path, clip: Path) -> None:
    trace, lines, picture, features = (
        tmp_path / "t.json",
        tmp_path / "p.jsonl",
        tmp_path / "p.png",
        tmp_path / "f.safetensors",
    )
    assert (
        CliRunner()
        .invoke(app, ["extract", str(clip), "--frames", "fps:5", "--dtype", "float32", "--out", str(features)])
        .exit_code
        == 0
    )
    result = call(
        features,
        "--count",
        "2:5:+3",
        "--compare",
        "--json",
        lines,
        "--plot",
        picture,
        "--trace",
        trace,
        "--dtype",
        "float32",
    )
    assert result.exit_code == 0, result.output
    first, second, growth = (json.loads(line) for line in lines.read_text().splitlines())
    assert [first["frames"], second["frames"]] == growth["frames"] == [2, 5]
    assert (first["tokens"], second["tokens"]) == (4, 10)
    assert second["tokens_bytes"] == 10 * 256 * 4
    assert first["passed"]
    assert set(growth["stage_exponents"]) == {"read", "query", "compress", "language", "other"}
    peaks = [run["peak_memory_bytes"]["longreel"] - run["tokens_bytes"] for run in (first, second)]
    assert growth["memory_beyond_tokens_ratio"] == pytest.approx(peaks[1] / peaks[0])
    assert growth["memory_fit"]["half_95"] == [None, None]
    assert growth["cpu_fits"].keys() == growth["cpu_top_exponents"].keys() == second["stages_cpu_s"]["longreel"].keys()
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"longreel: query", "longreel: compress", "longreel: language"} <= names
    assert "beyond the tokens cached" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    with Image.open(picture) as image:
        assert min(image.size) > 500


def test_figures_of_a_long_sweep_are_whole() -> None:
    def line(frames: int) -> dict[str, Any]:
        own = {"tower": 0.0123 * frames, "other": 0.00123 * frames}
        return {
            "system": "video-xl", "preset": "tiny", "frames": frames, "tokens": 18 * frames, "tokens_bytes": 36864 * frames,
            "total_s": {OURS: 0.01353 * frames}, "stages_s": {OURS: own}, "cpu_s": {OURS: 0.02706 * frames},
            "stages_cpu_s": {OURS: {name: 2 * seconds for name, seconds in own.items()}}, "frames_per_s": {OURS: 73.911},
            "first_token_s": {OURS: 0.0135 * frames}, "peak_memory_bytes": {OURS: 2**30 + 40000 * frames},
        }  # fmt: skip

    runs, text = [line(64 * 2**each) for each in range(9)], io.StringIO()
    show(runs, Growth.of(runs), Console(width=60, file=text))
    assert "…" not in text.getvalue()
    assert {"16,384", "294,912", "221.7"} <= set(text.getvalue().split())


def test_exponents() -> None:
    frames = [100, 200, 800]
    assert exponent(frames, [3.0 * n for n in frames]) == pytest.approx(1)
    assert exponent(frames, [1e-3 * n**2 for n in frames]) == pytest.approx(2)
    assert math.isnan(exponent(frames, [0.0, 1.0, 2.0]))
    runs = [
        {
            "frames": n,
            "stages_s": {"longreel": {"tower": 0.1 * n, "language": 0.1 * n**1.5}},
            "total_s": {"longreel": 1.0 * n},
            "stages_cpu_s": {"longreel": {"tower": 3 + 0.2 * n, "language": 1e-3 * n**2}},
            "cpu_s": {"longreel": 3 + 0.2 * n + 1e-3 * n**2},
            "peak_memory_bytes": {"longreel": 1000 + 2 * n},
            "tokens_bytes": 2 * n,
        }
        for n in frames
    ]
    growth = Growth.of(runs)
    assert growth.stages == pytest.approx({"tower": 1.0, "language": 1.5})
    assert growth.memory == 1.0
    assert growth.top == pytest.approx({"tower": 1.0, "language": 2.0})
    assert growth.cpu_total.coefficients == pytest.approx((3, 0.2, 1e-3))
    assert growth.peak.coefficients == pytest.approx((1000, 2))
    assert growth.beyond.coefficients == pytest.approx((1000, 0), abs=1e-6)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("64", [64]),
        ("64:3600:x2", [64, 128, 256, 512, 1024, 2048, 3600]),
        ("100:350:+100", [100, 200, 300, 350]),
        ("5:5:x2", [5]),
    ],
)
def test_counts(text: str, counts: list[int]) -> None:
    assert counts_of(text) == counts


def test_intervals_are_read() -> None:
    assert interval(1.23456, 0.0123) == "1.235 ± 0.012"
    assert interval(123.456, 12.3) == "123 ± 12"
    assert interval(1.5, math.nan) == "1.5"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--count", "2"], "give --count twice"),
        (["--count", "2:1:x2"], "must be a number from 1 on"),
        (["--count", "2:8:x1"], "must be a number from 1 on"),
        (["--count", "many"], "must be a number from 1 on"),
        (["--trace", "t.txt"], "must end in .json"),
        (["--count", "1", "--count", "3"], "the input has 2 frames"),
        (["--preset", "giant"], "llama-vid has tiny"),
        (["--plot", "p.mp3"], "must end in"),
    ],
)
def test_bad_options_are_one_line(clip: Path, options: list[str], said: str) -> None:
    result = call(clip, *options)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert said in result.stderr
