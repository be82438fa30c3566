"""docs/benchmarks.md says what benchmarks/results says: the newest run of a case, failures by name, and what is not measured."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from longreel.ops.registry import OPS

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import tables

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.fast


def test_the_page_is_up_to_date() -> None:
    there = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert there == tables.page(ROOT / "benchmarks/results"), "make docs"


MACHINE = {"device": "Card", "cuda": "13.0", "cpu_isa": "avx2", "threads": 8, "torch": "2.11", "git": "a" * 12 + "+"}


def line(variant: str, date: str, *, seconds: float | None, over: dict[str, float], **facts: Any) -> dict[str, Any]:
    """A result line of adaptive_pool, or of what `facts` say."""
    note = "longreel.adaptive_pool" if variant in ("cpu", "cuda") else "by hand"
    shape = {"frames": 7, "patches": 256, "width": 1408, "queries": 32, "output_size": 4}
    return {
        "op": "adaptive_pool", "dtype": "bfloat16", "pass": "forward", "shape": "patches [7, 256, 1408]", **shape,
        "variant": variant, "note": note, "seconds": seconds and {"median": seconds, "low": 0, "high": 9},
        "speedup_over": {name: {"median": ratio, "low": 1.0, "high": 9.0} for name, ratio in over.items()},
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
    assert "Not measured here: compress_frames, context_attention, adaptive_pool, block_sparse_attention" in page
    assert "Not measured: no card has run the benchmarks yet" in page
