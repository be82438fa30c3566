"""Cells, units and tables."""

from dataclasses import replace

import pytest
from rich.console import Console

from longreel.bench import Cost, Outcome, Report, Roof, Verdict
from longreel.bench.tables import (
    header,
    markdown_table,
    notes,
    rate,
    rich_table,
    row,
    seconds,
    size,
    text_table,
    verdicts,
    warning,
)
from longreel.measure.memory import Peak

pytestmark = pytest.mark.fast


@pytest.fixture
def report() -> Report:
    """ours at 0.2 s, strong at 0.4 s, and one that is wrong; 100 GB/s of memory and 1 TFLOP/s of matrix."""
    peak = Peak(3 * 2**20, "by hand")
    outcomes = (
        Outcome("ours", "", None, False, Verdict(0.5, "x"), peak, 1, (0.2, 0.2, 0.3)),
        Outcome("strong", "", None, False, Verdict(0.9, "x"), Peak(None, "by hand"), 1, (0.4, 0.4, 0.6)),
        Outcome("wrong", "", "no ratio: context has rms error 1", False, Verdict(70.0, "x"), None, 1, ()),
    )
    machine = {
        "device": "a machine", "cpu_isa": "avx2", "threads": 2, "torch": "2.13", "git": None, "longreel": "0.1",
        "date": "today", "load": None,
    }  # fmt: skip
    facts = {"op": "compress_frames", "dtype": "bfloat16", "pass": "forward", "shape": "patches [3600, 256, 1408]"}
    return Report(outcomes, "strong", Cost(10**9, 10**10, 0), Roof(1e11, 1e12, "a read", "a product"), facts, machine)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.4713, "1.47 s"), (0.2309, "231 ms"), (0.00999, "9.99 ms"), (1.5e-5, "15.0 us"), (3e-9, "3 ns"), (120, "120 s")],
)
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 B"), (2048, "2.00 KiB"), (11.25 * 2**20, "11.2 MiB"), (None, "–")])
def test_size(value: float | None, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(("value", "text"), [(4.31e10, "43.1 GB/s"), (2.1e12, "2.10 TB/s"), (12, "12 B/s")])
def test_rate(value: float, text: str) -> None:
    assert rate(value, "B/s") == text


def test_row_of_a_timed_variant(report: Report) -> None:
    cells = dict(zip(header(report), row(report, report.outcomes[0]), strict=True))
    assert cells == {
        "variant": "ours", "median": "200 ms", "quartiles": "200–250 ms", "x strong": "2.00x",
        "extra mem": "3.00 MiB", "roof": "50 %", "error": "0.50",
    }  # fmt: skip


def test_a_row_whose_halves_disagree_says_so(report: Report) -> None:
    steady, moved = (0.2, 0.2, 0.2, 0.2), (0.4, 0.4, 0.46, 0.46)
    ours, strong, wrong = report.outcomes
    noisy = replace(report, outcomes=(replace(ours, samples=steady), replace(strong, samples=moved), wrong))
    cells = dict(zip(header(noisy), row(noisy, noisy.outcomes[0]), strict=True))
    assert cells["x strong"] == "2.15x~"
    assert "2.15x (2.00–2.30, noisy) over strong" in verdicts(noisy, ["ours"])[0]
    assert any("may differ by ours 68 %, strong 68 %" in line for line in notes(noisy))
    assert [line["noisy"] for line in noisy.records()] == [True, True, False]
    assert not any(line["noisy"] for line in report.records()[2:])


def test_sparse_work_has_its_own_bound(report: Report) -> None:
    sparse = replace(report, roof=replace(report.roof, dense=1e10))
    cells = dict(zip(header(sparse), row(sparse, sparse.outcomes[0]), strict=True))
    assert (cells["roof"], cells["sparse"]) == ("50 %", "50 %")
    assert sparse.records()[1]["share_of_sparsity_bound"] == pytest.approx(0.25)
    assert report.records()[1]["share_of_sparsity_bound"] is None
    assert len(row(sparse, sparse.outcomes[2])) == len(header(sparse))
    assert any("visible pairs alone at dense attention's 10.0 GFLOP/s" in line for line in notes(sparse))


def test_row_of_a_wrong_variant_has_no_figure_but_its_error(report: Report) -> None:
    assert row(report, report.outcomes[2]) == ["wrong", *["–"] * 5, "70.00"]


def test_verdict_compares_ours_with_every_timed_peer(report: Report) -> None:
    assert verdicts(report, ["ours"]) == ["ours: 2.00x (2.00–2.00) over strong"]


def test_rich_table_fits_eighty_columns(report: Report) -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(rich_table(report, ["ours"]))
    text = console.export_text()
    assert "…" not in text
    words = " ".join(text.split())
    assert "wrong: no ratio: context has rms error 1" in words
    assert "bound by memory: 100 ms at best" in words


def test_a_narrow_console_cuts_no_figure(report: Report) -> None:
    console = Console(width=30, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(rich_table(report, ["ours"]), crop=False)
    text = console.export_text()
    assert "…" not in text
    assert all(cell in text for outcome in report.outcomes for cell in row(report, outcome))


def test_markdown_marks_ours_and_says_why(report: Report) -> None:
    lines = markdown_table(report, ["ours"]).splitlines()
    assert lines[0].startswith("### compress_frames bfloat16 forward")
    assert lines[2].count("|") == lines[3].count("|") == lines[4].count("|")
    assert lines[4].startswith("| **ours** | **200 ms** |")
    assert "- wrong: no ratio: context has rms error 1" in lines


def test_a_share_above_the_roof_is_explained(report: Report) -> None:
    slow = replace(report, roof=replace(report.roof, bandwidth=1e10))
    assert any("stayed in a cache" in line for line in notes(slow))
    assert not any("stayed in a cache" in line for line in notes(report))


def test_a_busy_machine_is_said_loudly(report: Report) -> None:
    assert warning(report) is None
    assert warning(replace(report, others=0.01)) is None
    busy = replace(report, others=0.4)
    assert "took 40 % of it" in (warning(busy) or "")
    assert "NOT A QUIET MACHINE" in markdown_table(busy, ["ours"])


def test_text_table_lets_a_reason_run_on() -> None:
    head = ["op", "dtype", "pass", "ours", "median"]
    lines = text_table(head, [["a", "bf16", "f", "cpu", "1 ms"], ["b", "bf16", "f", "a long reason"]]).splitlines()
    assert lines[2] == "a   bf16   f     cpu     1 ms"
    assert lines[3] == "b   bf16   f     a long reason"
