"""Every .cu file through nvcc for three architectures, within its budget of registers, spills and shared memory."""

import os
import shutil

import pytest
from budget_check import BUDGETS, budget, figures, over_budget

nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc (the CUDA toolkit's compiler) is not on PATH")


@nvcc
def test_cuda_kernels_stay_within_budget() -> None:
    assert over_budget(figures("cuda", os.environ), "cuda") == []


def test_every_cuda_file_has_a_budget() -> None:
    folders = {path.parent.name for path in (BUDGETS.parents[1] / "csrc").glob("*/cuda*.cu")}
    assert folders == {name.split("/")[0] for name in budget("cuda")}
