"""Every .cu file through nvcc for three architectures, within its budget of registers, spills and shared memory."""

import os
import shutil

import pytest
from budget_check import BUDGETS, budget, figures, over_budget

nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc (the CUDA toolkit's compiler) is not on PATH")


@nvcc
def test_cuda_kernels_stay_within_budget() -> None:
    found = figures("cuda", os.environ)
    assert over_budget(found, "cuda") == []
    clusters = {name: entry["sm_90a"] for name, entry in found.items() if "frames_cluster<" in name}
    assert len(clusters) == 4
    for name, figure in clusters.items():
        # One copy of the first tiles and one of those that follow; the barrier's two halves in three places.
        assert figure["bulk_copies"] >= 2, name
        assert figure["cluster_barriers"] >= 4, name
        assert figure["spill_bytes"] == 0, name


def test_every_cuda_file_has_a_budget() -> None:
    folders = {path.parent.name for path in (BUDGETS.parents[1] / "csrc").glob("*/cuda*.cu")}
    assert folders == {name.split("/")[0] for name in budget("cuda")}
