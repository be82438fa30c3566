"""Every Triton kernel compiled ahead of time for three architectures, within its budget (registers, spills, shared)."""

import json
import os

import pytest
from budget_check import BUDGETS, budget, figures, over_budget

# Up to 24 bytes a thread, to have a fifth block on a multiprocessor (96 registers of adaptive_pool's threads, which read memory
# once) or for want of a register of 255: held by the budget of that version.
SPILLED_BY_THE_OLDEST = {
    "adaptive_pool/bilinear/bf16",
    "adaptive_pool/packed/bf16",
    "adaptive_pool_backward/bilinear/bf16",
    "context_attention_backward/fp32/32 queries/large card",
}


def of_the_oldest() -> bool:
    """Whether this Triton is the one that has a budget of its own."""
    return budget("triton") != json.loads((BUDGETS / "triton.json").read_text())


def test_triton_kernels_stay_within_budget() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    found = figures("triton", os.environ | {"TRITON_INTERPRET": "0"})
    assert over_budget(found, "triton") == []
    # bf16 and fp16 scores run on Hopper's warpgroup instructions, not on the narrower ones before them
    products = (
        "queries",
        "block_sparse_forward",
        "vst_attention/",
        "qformer_attention_scores",
        "qformer_attention_sums",
        "qformer_attention_backward",
        "block_sparse_backward_dq/bf16",
        "block_sparse_backward_dkv/bf16/128",
        "block_sparse_backward_dkv/bf16/96",
    )
    scores = {
        name: entry["sm_90"]
        for name, entry in found.items()
        if any(product in name for product in products) and "fp32" not in name
    }
    assert scores
    assert all(figure["wgmma"] > 0 for figure in scores.values()), scores
    large = {name: entry["sm_90"] for name, entry in found.items() if on_large(name, found)}
    spilled = {name for name, figure in large.items() if figure["spill_bytes"]}
    assert spilled == (SPILLED_BY_THE_OLDEST if of_the_oldest() else set())
    # Where a card has room for three stages a read is under way in every loop while the one before it is used.
    ahead = {name: figure["ahead"] for name, figure in large.items() if "ahead" in figure and "fp32" not in name}
    assert len(ahead) > 20
    assert [name for name, waits in ahead.items() if waits == 0] == []
    # Where products take their rows from registers, the gradient of queries has a tile of its own, so that none spills.
    dq = {
        (name, arch): figure["spill_bytes"]
        for name, archs in found.items()
        if "dq" in name
        for arch, figure in archs.items()
    }
    assert "sm_80" in {arch for _, arch in dq}
    assert not any(dq.values()), dq
    # Sums of 16-bit patches have the registers that they need, whatever the card.
    frames = {
        (name, arch): figure["spill_bytes"]
        for name, archs in found.items()
        if name.startswith(("compress_frames/", "context_attention/")) and "fp32" not in name
        for arch, figure in archs.items()
    }
    assert len({arch for _, arch in frames}) == 3
    assert not any(frames.values()), frames
    # Warps of different work: both ways of bringing tiles, barriers that count them, registers handed over.
    apart = {name: entry["sm_90"] for name, entry in found.items() if "Hopper" in name}
    assert len(apart) == 3
    for name, figure in apart.items():
        assert figure["spill_bytes"] == 0, name
        assert figure["engine_copies"] == 2, name
        assert min(figure[what] for what in ("copies", "arrivals", "register_moves")) > 0, name
        # More than the two stages of keys and values that one product needs.
        head = 64 if "/64/" in name else 128
        assert figure["shared_bytes"] > 3 * 2 * 64 * head * 2, name


def on_large(name: str, found: dict[str, object]) -> bool:
    """Whether a large card takes this tile: others have a larger one there."""
    return not name.endswith("every card") or name.replace("every card", "large card") not in found


def test_shared_memory_fits_every_card_from_sm_80() -> None:
    # 100 KiB a multiprocessor on 24 GB cards, of which the system keeps 1 KiB a block; their code is that of sm_80
    limits = {"every card": {"sm_80": 99, "sm_90": 227, "sm_100": 227}}
    limits["large card"] = limits["every card"] | {"sm_80": 163}
    for name, archs in budget("triton").items():
        kibibytes = limits.get(name.rpartition("/")[2], dict.fromkeys(archs, 99))
        for arch, entry in archs.items():
            assert entry["shared_bytes"] <= kibibytes[arch] * 1024, f"{name} on {arch}"
