"""Every Triton kernel compiled ahead of time for three architectures, within its budget (registers, spills, shared)."""

import os

import pytest
from budget_check import budget, figures, over_budget


def test_triton_kernels_stay_within_budget() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    found = figures("triton", os.environ | {"TRITON_INTERPRET": "0"})
    assert over_budget(found, "triton") == []
    # bf16 and fp16 scores run on Hopper's warpgroup instructions, not on the narrower ones before them
    scores = {name: entry["sm_90"] for name, entry in found.items() if "queries" in name and "fp32" not in name}
    assert scores
    assert all(figure["wgmma"] > 0 for figure in scores.values()), scores


def test_shared_memory_fits_every_card_from_sm_80() -> None:
    # 100 KiB a multiprocessor on 24 GB cards, of which the system keeps 1 KiB a block
    assert max(entry["shared_bytes"] for archs in budget("triton").values() for entry in archs.values()) <= 99 * 1024
