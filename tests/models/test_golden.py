"""Golden files of the groups that have landed: every backend of this machine, every dtype."""

from pathlib import Path
from typing import Any

import pytest
import torch

from longreel.ops.registry import OPS
from longreel.testing.cases import DTYPES, variants
from longreel.testing.golden.files import GoldenCase, find
from longreel.testing.golden.replay import REPLAYERS, replay

BACKENDS = sorted({v.backend for op in OPS for v in variants(op) if v.device == "cpu" and v.backward})


def dtypes() -> list[Any]:
    """The first, float32, also in `make check`."""
    return [
        pytest.param(dtype, id=str(dtype).removeprefix("torch."), marks=[] if i else [pytest.mark.fast])
        for i, dtype in enumerate(DTYPES)
    ]


def asks(case: GoldenCase, dtype: torch.dtype) -> bool:
    """Some cases (gradients) have float32 tolerances only, and ask nothing in another dtype."""
    tolerances = case.meta["suggested_tolerance"].values()
    return not tolerances or any(str(dtype).removeprefix("torch.") in by for by in tolerances)


@pytest.mark.parametrize("dtype", dtypes())
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", REPLAYERS)
def test_golden(golden_folder: Path, group: str, backend: str, dtype: torch.dtype) -> None:
    verdicts = [
        verdict
        for file in find([golden_folder], [group])
        for verdict in replay(file, backend, dtype)
        if asks(file.cases[verdict.case], dtype)
    ]
    assert verdicts
    failed = [f"{v.file} {v.case}: {v.worst if v.problem is None else v.problem}" for v in verdicts if not v.passed]
    assert not failed, "\n".join(failed)
