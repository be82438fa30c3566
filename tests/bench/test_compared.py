"""Two files of results: what moved, what is noisy, and the exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from longreel.cli import bench
from longreel.report.compared import BETTER, NOISY, SAME, WORSE, compared, comparison_text

pytestmark = pytest.mark.fast

MACHINE = {"device": "a CPU", "cpu_isa": "avx2", "threads": 2, "torch": "2.13", "date": "2026-01-01"}


def file(
    path: Path,
    ratios: dict[str, float],
    *,
    halves: float = 0.0,
    scatter: float = 0.0,
    others: float = 0.0,
    roof: float = 1e9,
    **machine: Any,
) -> Path:
    """Of one case: ours over every peer of `ratios`."""
    common = {
        "op": "adaptive_pool", "shape": "s", "pass": "forward", "dtype": "float32", "taken_by_others": others,
        "machine": MACHINE | machine, "roof": {"bandwidth": 1e9, "matrix": roof},
    }  # fmt: skip
    over = {
        name: {"median": ratio, "low": ratio, "high": ratio * (1 + scatter), "runs": 10, "halves": halves}
        for name, ratio in ratios.items()
    }
    lines = [
        common | {"variant": "cpu", "note": "longreel.adaptive_pool", "seconds": {"median": 1.0}, "speedup_over": over}
    ]
    lines += [
        common | {"variant": name, "note": "", "seconds": {"median": ratio}, "speedup_over": {}}
        for name, ratio in ratios.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_what_moved_stands_first(tmp_path: Path) -> None:
    before = file(tmp_path / "a", {"strong": 2.0, "naive": 4.0, "matmul": 3.0, "gone": 1.0})
    after = file(tmp_path / "b", {"strong": 1.5, "naive": 4.1, "matmul": 6.0})
    found = compared(before, after)
    assert [(one.before.peer["variant"], one.verdict) for one in found.moved] == [
        ("strong", WORSE), ("matmul", BETTER), ("naive", SAME),
    ]  # fmt: skip
    assert found.moved[0].change == pytest.approx(-0.25)
    assert (found.only_before, found.only_after, found.worse) == (1, 0, True)
    text = comparison_text(found)
    assert "1 worse, 1 better, 1 same, 0 noisy" in text
    assert "both on a CPU" in text


@pytest.mark.parametrize("noise", [{"halves": 0.2}, {"scatter": 0.2}, {"others": 0.3}])
def test_a_noisy_ratio_has_not_moved(tmp_path: Path, noise: dict[str, float]) -> None:
    found = compared(file(tmp_path / "a", {"strong": 2.0}), file(tmp_path / "b", {"strong": 1.0}, **noise))
    assert [one.verdict for one in found.moved] == [NOISY]
    assert not found.worse
    assert "1.00x~" in comparison_text(found)


@pytest.mark.parametrize(("roof", "verdict"), [(0.8e9, NOISY), (1.2e9, NOISY), (0.95e9, WORSE)])
def test_nothing_moved_where_the_machine_did(tmp_path: Path, roof: float, verdict: str) -> None:
    found = compared(file(tmp_path / "a", {"strong": 2.0}), file(tmp_path / "b", {"strong": 1.0}, roof=roof))
    assert [one.verdict for one in found.moved] == [verdict]


def test_another_machine_is_said(tmp_path: Path) -> None:
    found = compared(file(tmp_path / "a", {"strong": 2.0}), file(tmp_path / "b", {"strong": 2.0}, device="another"))
    assert "NOT THE SAME MACHINE: a CPU" in comparison_text(found)


def invoke(*words: str) -> Any:
    app = Typer()
    app.callback()(lambda: None)
    bench.register(app)
    return CliRunner().invoke(app, ["bench", *words], env={"COLUMNS": "200"})


def test_the_command_ends_with_what_it_found(tmp_path: Path) -> None:
    a, b = file(tmp_path / "a", {"strong": 2.0}), file(tmp_path / "b", {"strong": 1.0})
    worse, same = (invoke("--compare", str(a), str(path)) for path in (b, a))
    assert (worse.exit_code, same.exit_code) == (1, 0), worse.output
    assert "-50%" in worse.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no results"),
        ("{}\n", "line 1 is no result of"),
        ("nothing\n", "line 1 is no table of JSON"),
        (b"\xea\n", "is no text"),
        ("[" * 100_000, "is nested without end"),
        (None, "no such file"),
    ],
)
def test_what_is_no_file_of_results_is_refused(tmp_path: Path, text: str | bytes | None, message: str) -> None:
    good, bad = file(tmp_path / "a", {"strong": 2.0}), tmp_path / "b"
    if text is not None:
        bad.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = invoke("--compare", str(good), str(bad))
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output
