"""The papers' headline settings: options that the systems know, the paper's share of FLOPs, and the table of them."""

import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from headlines import HEADLINES, voco_flops  # noqa: E402

from longreel.models.setup import setup_of  # noqa: E402
from longreel.report import headline_table  # noqa: E402


@pytest.mark.parametrize("name", HEADLINES)
def test_a_setting_is_one_of_its_system(name: str) -> None:
    headline = HEADLINES[name]
    setup = setup_of(headline.system, "tiny", None, "cpu", headline.options)
    assert setup.given == headline.options
    words = headline.command("x.safetensors", "7b", "cuda")
    assert (("--memory-cap" in words), words[words.index("--count") + 1]) == (
        headline.cap is not None,
        str(headline.frames),
    )


def test_576_to_1_leaves_the_papers_share_of_the_flops() -> None:
    """94.8 % fewer, of 32 tokens of text behind one VoCo token."""
    ours, whole = voco_flops()
    assert round(1 - ours / whole, 3) == 0.948


def test_a_row_says_what_fits_and_what_was_measured() -> None:
    line = {
        "headline": "a", "by": "formula", "system": "s", "frames": 2048, "tokens": 36865, "positions": 1, "limit": 2,
        "flops": 10**15, "cache_bytes": 2**30, "peak_bytes": 2**34, "cap_gib": 24.0, "fits": True, "most": 7279,
        "paper": "2,048 frames", "differs": "weights",
    }  # fmt: skip
    lines = [line | {"frames": 1}, line, {"headline": "a", "by": "measured", "said": "2 s"}]
    (row,) = headline_table.rows(lines)
    assert len(row) == len(headline_table.HEAD)
    assert row[1] == "2,048"
    assert row[-2:] == ["yes, up to 7,279 frames in 24 GiB", "2,048 frames"]
    assert headline_table.notes(lines) == ["s: weights", "measured, a: 2 s"]
