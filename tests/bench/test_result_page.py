"""`longreel report`: everything that was measured is on one page, and the page needs nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from longreel.cli import report
from longreel.models.registry import SYSTEMS
from longreel.report import html

pytest.importorskip("matplotlib")

SYSTEM = next(iter(SYSTEMS))

MACHINE = {
    "device": "a <CPU>", "cpu_isa": "avx2", "threads": 2, "torch": "2.13", "cuda": None, "git": "a" * 12, "date": "2026-01-01",
}  # fmt: skip
SHAPE = {
    "frames": 3600,
    "patches": 256,
    "width": 1408,
    "queries": 32,
    "output_size": 4,
    "shape": "patches [3600, 256, 1408]",
}


def op_lines(over: float, **facts: Any) -> list[dict[str, Any]]:
    """adaptive_pool forward, ours beside one peer."""
    common = {
        "op": "adaptive_pool", "dtype": "bfloat16", "pass": "forward", **SHAPE, "extra_bytes": 2**20, "taken_by_others": 0.0,
        "work": {"flops": 10**9, "bytes_read": 2**30, "bytes_written": 0}, "share_of_roof": 0.5,
        "share_of_sparsity_bound": 0.25, "machine": MACHINE, "allocated": "as it was given", **facts,
    }  # fmt: skip
    ratio = {"median": over, "low": over, "high": over, "runs": 10, "halves": 0.0}
    ours = {
        "variant": "cpu",
        "note": "longreel.adaptive_pool",
        "seconds": {"median": 0.1},
        "speedup_over": {"strong": ratio},
    }
    peer = {"variant": "strong", "note": "plain <b>", "seconds": {"median": 0.1 * over}, "speedup_over": {}}
    return [common | ours, common | peer]


def whole_run() -> dict[str, Any]:
    case = {
        "system": SYSTEM, "preset": "tiny", "input": "features", "ops": "longreel", "memory_cap_gib": None, "frames": 3600,
        "at_once": False,
    }  # fmt: skip
    return MACHINE | {
        "case": case, "outcome": "ok", "shell": "longreel run toy", "total_s": {"longreel": 4.0},
        "stages_s": {"longreel": {"compress": 1.0, "language": 3.0}}, "first_token_s": {"longreel": 0.5},
        "tokens_per_s": {"longreel": 20.0}, "peak_memory_bytes": {"longreel": 2**30},
    }  # fmt: skip


def write(folder: Path, name: str, *lines: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def invoke(*words: str) -> Any:
    app = Typer()
    app.callback()(lambda: None)
    report.register(app)
    return CliRunner().invoke(app, ["report", *words], env={"COLUMNS": "300"})


def test_everything_stands_on_one_page_that_needs_nothing_else(tmp_path: Path) -> None:
    card = write(
        tmp_path / "card", "adaptive_pool.jsonl", *op_lines(2.5), *op_lines(0.5, dtype="float32", taken_by_others=0.5)
    )
    write(card, "end_to_end.jsonl", whole_run())
    write(card, "headlines.jsonl", {"headline": "a-setting", "by": "measured", "said": "2 s less"})
    done = invoke(str(card), "-o", str(tmp_path / "page.html"))
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.html").read_text()
    for said in (
        "2.50x (2.50–2.50)", "0.50x (0.50–0.50) *", "1.00 GFLOP", "50 %", "25 %", "a &lt;CPU&gt;", "plain &lt;b&gt;",
        "longreel bench --op adaptive_pool --dtype bf16", f"{SYSTEM}, preset tiny", "language model 75%", "longreel run toy",
        "results: memory as it was given", "measured, a-setting: 2 s less", "Not measured here: block_sparse_attention",
    ):  # fmt: skip
        assert said in page, said
    assert page.count('<tr class="noisy">') == 1
    assert page.count("<img ") >= 3
    # Nothing is fetched: every source is in the page, every link leads to a place in it.
    sources, links = re.findall(r'src="([^"]*)"', page), re.findall(r'href="([^"]*)"', page)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert all(link.startswith("#") and f'id="{link[1:]}"' in page for link in links)
    assert "<script" not in page
    assert "@import" not in page


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "is not there"), ("{}\n", "no results of `longreel bench --json`"), ("7\n", "line 1 is no table of JSON")],
)
@pytest.mark.fast
def test_what_is_no_result_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "x.jsonl"
    if text is not None:
        file.write_text(text)
    done = invoke(str(file), "-o", str(tmp_path / "page.html"))
    assert done.exit_code != 0
    assert message in done.output + done.stderr
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"machine": 3}, "'machine' of {}: line 1 is 3, not a table of names"),
        ({"seconds": {"median": 0}}, "'median' of 'seconds' of {}: line 1 is 0, not a number above 0"),
        ({"dtype": "float8"}, "'dtype' of {}: line 1 is 'float8', not one of"),
        ({"op": "nothing"}, "{}: line 1: op 'nothing': there is"),
        ({"speedup_over": {"strong": {"median": 3.0, "low": 1.0, "high": 2.0}}}, "lies outside of its quartiles"),
        ({"work": {"flops": 10**400, "bytes_read": 1, "bytes_written": 1}}, "'flops' of 'work' of {}: line 1 is 1000"),
    ],
)
@pytest.mark.fast
def test_a_line_that_is_not_what_its_sort_holds_is_refused(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    file = write(tmp_path / "card", "x.jsonl", *op_lines(2.5, **wrong), whole_run()) / "x.jsonl"
    lines = [json.loads(line) | wrong for line in file.read_text().splitlines()]
    write(tmp_path / "card", "x.jsonl", *lines)
    done = invoke(str(file), "-o", str(tmp_path / "page.html"))
    assert (done.exit_code, "Traceback" in done.output) == (2, False)
    assert message.format(file) in done.stderr, done.stderr


@pytest.mark.fast
def test_the_page_has_a_name_of_its_own(tmp_path: Path) -> None:
    done = invoke(str(tmp_path), "-o", str(tmp_path / "page.pdf"))
    assert "its name must end in .html or .htm" in done.output + done.stderr


def test_a_sentence_in_a_table_is_broken_into_lines() -> None:
    made = html.table(["setting", "the paper"], [["one", "2,048 frames on one GPU of 80 GB, " * 2], ["two", "none"]], 1)
    assert made.count('<td class="said">2,048 frames') == 1
    # A column of sentences is read from the left.
    assert made.count('<td class="said">none') == made.count('<th class="said">the paper') == 1
