"""docs/benchmarks.md, docs/figures.md and README say what benchmarks/results says, and what is not measured."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from longreel.ops.registry import OPS

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import figures
import tables

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.fast


def test_the_page_is_up_to_date() -> None:
    there = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert there == tables.page(ROOT / "benchmarks/results"), "make figures"


PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/figures.md")}
README = PAGES["README.md"]
MADE = re.compile(r"<!-- made by benchmarks/tables.py: (\w+) -->.*?<!-- end -->", re.DOTALL)
FIGURE = re.compile(r"\d ?(?:ns|us|ms|s|min|[KMGT]i?B|[KMGT]?B/s|[KMGT]?FLOP/s|%)(?!\w)|\d[x×](?!\w)")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("README.md", ["headline"]),
        ("docs/figures.md", ["compress_frames", "token_generation", "block_sparse_attention"]),
    ],
)
def test_figures_are_up_to_date(name: str, parts: list[str]) -> None:
    text = PAGES[name]
    assert [made[1] for made in MADE.finditer(text)] == parts
    assert figures.filled(text, ROOT / "benchmarks/results") == text, "make figures"


@pytest.mark.parametrize(("name", "least"), [("README.md", 5), ("docs/figures.md", 50)])
def test_a_figure_that_results_do_not_hold_is_not_up_to_date(name: str, least: int) -> None:
    text = PAGES[name]
    made_ones = [found for made in MADE.finditer(text) for found in FIGURE.finditer(text, made.start(), made.end())]
    assert len(made_ones) > least
    for at in (made_ones[0].start(), made_ones[-1].start()):
        other = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
        assert figures.filled(other, ROOT / "benchmarks/results") == text


def test_readme_fits_on_a_screen_or_two() -> None:
    assert len(README.splitlines()) < 90


def test_no_figure_but_the_made_ones() -> None:
    for text in PAGES.values():
        assert FIGURE.findall(MADE.sub("", text)) == []
    assert [bool(FIGURE.search(text)) for text in ("18 ms", "2.5x", "(2.42–2.90x)", "51 MiB", "4 x 4", "224 px", "0.5 %")] == [
        True, True, True, True, False, False, True,
    ]  # fmt: skip


MACHINE = {"device": "Card", "cuda": "13.0", "cpu_isa": "avx2", "threads": 8, "torch": "2.11", "git": "a" * 12 + "+"}


def line(variant: str, date: str, *, seconds: float | None, over: dict[str, float], **facts: Any) -> dict[str, Any]:
    """A result line of adaptive_pool, or of what `facts` say."""
    note = "longreel.adaptive_pool" if variant in ("cpu", "cuda") else "by hand"
    shape = {"frames": 7, "patches": 256, "width": 1408, "queries": 32, "output_size": 4}
    return {
        "op": "adaptive_pool", "dtype": "bfloat16", "pass": "forward", "shape": "patches [7, 256, 1408]", **shape,
        "variant": variant, "note": note, "seconds": seconds and {"median": seconds, "low": 0, "high": 9},
        "speedup_over": {name: {"median": ratio, "low": 1.0, "high": 9.0} for name, ratio in over.items()},
        "work": {"flops": 5, "bytes_read": 6, "bytes_written": 7}, "share_of_roof": 0.5,
        "extra_bytes": 1 << 20, "taken_by_others": 0.01,
        "machine": {**MACHINE, "date": date},
        **facts,
    }  # fmt: skip


def written(folder: Path, *lines: dict[str, Any], name: str = "adaptive_pool.jsonl") -> Path:
    (folder / "card").mkdir(exist_ok=True)
    (folder / "card" / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def rows(page: str) -> list[str]:
    return [row for row in page.splitlines() if row.startswith("| ")]


def test_the_newest_run_of_every_pair(tmp_path: Path) -> None:
    page = tables.page(
        written(
            tmp_path,
            line("cuda", "2026-02-02", seconds=0.002, over={"strong": 3.0}),
            line("strong", "2026-02-02", seconds=0.006, over={"cuda": 0.33}),
            line("cuda", "2026-01-01", seconds=0.004, over={"strong": 1.5, "naive": 2.0}, taken_by_others=0.2),
            line("strong", "2026-01-01", seconds=0.006, over={"cuda": 0.66}),
            line("naive", "2026-01-01", seconds=0.008, over={"cuda": 0.5}),
        )
    )
    assert [row.split(" | ")[3:7] for row in rows(page)[2:]] == [
        ["`strong`", "2.00 ms", "6.00 ms", "3.00x (1.00–9.00)"],
        ["`naive`", "4.00 ms", "8.00 ms", "2.00x (1.00–9.00) \\*"],
    ]
    assert "aaaaaaa+" in page
    assert "other processes took more than 5%" in page
    command = "longreel bench --op adaptive_pool --dtype bf16 --frames 7 --backward none --backend cuda"
    assert f"{command} --peer strong --peer naive" in page
    others = ", ".join(op for op in OPS if op != "adaptive_pool")
    assert f"Not measured here: {others}, end to end." in page
    assert "## GPU" not in page


def test_what_was_not_timed_has_no_row(tmp_path: Path) -> None:
    on_cpu = {**MACHINE, "cuda": None, "date": "2026-01-01"}
    page = tables.page(
        written(
            tmp_path,
            line("cpu", "2026-01-01", seconds=1.0, over={}, machine=on_cpu),
            line("strong", "2026-01-01", seconds=None, over={}, machine=on_cpu),
        )
    )
    assert rows(page) == []
    assert "Not measured here: adaptive_pool, block_sparse_attention, compress_frames, context_attention" in page
    assert "Not measured: no card has run the benchmarks yet" in page


def test_a_page_shows_the_usual_size_beside_its_fastest_peer_and_earlier_runs(tmp_path: Path) -> None:
    shape = {"frames": 3600, "shape": "patches [3600, 256, 1408]"}
    written(
        tmp_path,
        line("cuda", "2026-01-01", seconds=0.004, over={"strong": 1.5}, **shape),
        line("strong", "2026-01-01", seconds=0.006, over={}, **shape),
        line("cuda", "2026-02-02", seconds=0.002, over={"strong": 3.0, "naive": 4.0}, **shape),
        line("naive", "2026-02-02", seconds=0.008, over={}, **shape),
        line("strong", "2026-02-02", seconds=0.006, over={}, **shape),
        line("cuda", "2026-03-03", seconds=0.001, over={"strong": 9.0}),
        line("strong", "2026-03-03", seconds=0.009, over={}),
    )
    text = "a\n<!-- made by benchmarks/tables.py: adaptive_pool -->\nby hand: 1 ms\n<!-- end -->\nb\n"
    made = figures.filled(text, tmp_path)
    assert made == figures.filled(made, tmp_path)
    assert "by hand: 1 ms" not in made
    assert rows(made)[2:] == [
        "| forward | bf16 | 2.00 ms (`cuda`) | `strong` 3.00x (1.00–9.00) | 1.50x | `naive` 4.00x (1.00–9.00)"
        " | 1.00 MiB (`strong` 1.00 MiB, `naive` 1.00 MiB) |"
    ]
    assert (
        "longreel bench --op adaptive_pool --dtype bf16 --backward none --backend cuda --peer strong --peer naive"
        in made
    )
    assert "not measured yet" not in made
    with pytest.raises(ValueError, match="a page asks for the figures of 'adaptive_pol'"):
        figures.filled(text.replace("adaptive_pool", "adaptive_pol"), tmp_path)
