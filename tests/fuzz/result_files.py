"""Files of results, as `longreel bench --compare` and `longreel report` take them from anybody."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mutations import file_bytes, json_text

Line = dict[str, Any]
MACHINE = {
    "device": "a CPU", "cpu_isa": "avx2", "threads": 2, "torch": "2.13", "cuda": None, "git": "a" * 12, "date": "2026-01-01",
}  # fmt: skip


def op_lines() -> list[Line]:
    common = {
        "op": "adaptive_pool", "shape": "patches [7, 16, 8]", "pass": "forward", "dtype": "float32", "frames": 7,
        "extra_bytes": 2**20, "taken_by_others": 0.0, "work": {"flops": 10**9, "bytes_read": 2**30, "bytes_written": 0},
        "share_of_roof": 0.5, "share_of_sparsity_bound": None, "machine": MACHINE, "allocated": "as it was given",
        "roof": {"bandwidth": 1e9, "matrix": 1e12},
    }  # fmt: skip
    ratio = {"median": 2.0, "low": 1.9, "high": 2.1, "runs": 10, "halves": 0.0}
    ours = {
        "variant": "cpu",
        "note": "longreel.adaptive_pool",
        "seconds": {"median": 0.1},
        "speedup_over": {"strong": ratio},
    }
    return [
        common | ours,
        common | {"variant": "strong", "note": "by hand", "seconds": {"median": 0.2}, "speedup_over": {}},
    ]


def other_lines(system: str) -> list[Line]:
    """A whole run, a headline, a sweep."""
    case = {
        "system": system, "preset": "tiny", "input": "features", "ops": "longreel", "memory_cap_gib": None, "frames": 36,
        "at_once": False,
    }  # fmt: skip
    spent = {
        "total_s": {"longreel": 4.0}, "cpu_s": {"longreel": 5.0}, "stages_s": {"longreel": {"language": 3.0}},
        "stages_cpu_s": {"longreel": {"language": 3.0}}, "first_token_s": {"longreel": 0.5},
        "tokens_per_s": {"longreel": 20.0}, "peak_memory_bytes": {"longreel": 2**30},
    }  # fmt: skip
    about = {"command": "profile", "system": system, "preset": "tiny", "tokens": 9, "tokens_bytes": 99}
    headline = {
        "headline": "one", "by": "formula", "system": system, "differs": "in this", "paper": "says", "fits": True,
        "cap_gib": 24, "most": 7, "frames": 9, "tokens": 9, "positions": 9, "limit": 99, "flops": 1, "cache_bytes": 1,
        "peak_bytes": 1,
    }  # fmt: skip
    return [
        MACHINE | spent | {"case": case, "outcome": "ok", "shell": "longreel run"}, headline,
        *(MACHINE | spent | about | {"frames": count} for count in (8, 16)), {"command": "profile growth"},
    ]  # fmt: skip


def results(folder: Path) -> Callable[[random.Random], None]:
    from longreel.models.registry import SYSTEMS
    from longreel.report.compared import compared, comparison_text
    from longreel.report.result_page import gathered, result_page

    whole, part = folder / "whole.jsonl", folder / "part.jsonl"
    lines = op_lines() + other_lines(next(iter(SYSTEMS)))
    part.write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))

    def take(draw: random.Random) -> None:
        few = draw.random() < 0.5
        given = lines[:2] if few else lines
        at = draw.randrange(len(given))
        rows = [json.dumps(line) for line in given]
        rows[at] = json_text(given[at], draw)
        data = "".join(f"{row}\n" for row in rows).encode("utf-8", "surrogatepass")
        whole.write_bytes(file_bytes(data, draw) if draw.random() < 0.1 else data)
        if few:
            comparison_text(compared(part, whole))
        result_page(gathered([whole]))

    whole.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = result_page(gathered([whole]))
    assert all(said in page for said in ("2.00x", "says", "8 to 16 frames", "longreel run")), page
    return take
