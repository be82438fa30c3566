import json
import math
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from longreel.cli.main import app
from longreel.report.growth import Growth, exponent

# The runs of a sweep are processes of their own, which know no preset of a test: these take `tiny`.


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["profile", *map(str, arguments)])


def test_a_sweep(tmp_path: Path, clip: Path) -> None:
    lines, picture, features = tmp_path / "p.jsonl", tmp_path / "p.png", tmp_path / "f.safetensors"
    assert CliRunner().invoke(app, ["extract", str(clip), "--frames", "fps:5", "--out", str(features)]).exit_code == 0
    result = call(features, "--count", 2, "--count", 5, "--compare", "--json", lines, "--plot", picture)
    assert result.exit_code == 0, result.output
    first, second, growth = (json.loads(line) for line in lines.read_text().splitlines())
    assert [first["frames"], second["frames"]] == growth["frames"] == [2, 5]
    assert (first["tokens"], second["tokens"]) == (4, 10)
    assert second["tokens_bytes"] == 10 * 256 * 4
    assert first["passed"]
    assert set(growth["stage_exponents"]) == {"read", "query", "compress", "language", "other"}
    peaks = [run["peak_memory_bytes"]["longreel"] - run["tokens_bytes"] for run in (first, second)]
    assert growth["memory_beyond_tokens_ratio"] == pytest.approx(peaks[1] / peaks[0])
    assert "beyond the tokens kept" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    with Image.open(picture) as image:
        assert min(image.size) > 500


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
            "peak_memory_bytes": {"longreel": 1000 + 2 * n},
            "tokens_bytes": 2 * n,
        }
        for n in frames
    ]
    growth = Growth.of(runs)
    assert growth.stages == pytest.approx({"tower": 1.0, "language": 1.5})
    assert growth.memory == 1.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--count", "2"], "give --count twice"),
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
