"""Foreign bytes and numbers: no crash, no hang, no traceback, nothing accepted that contradicts itself (LONGREEL_MUTATIONS: how
many inputs, of three seeds)."""

import os
from pathlib import Path

import pytest
from runner import run
from targets import TARGETS

COUNT = os.environ.get("LONGREEL_MUTATIONS")
SEEDS = (1, 2, 3) if COUNT else (1,)
# In the time of `make test`; of a model that is made for every input, fewer.
SHARES = {
    "features": 0.2,
    "caches": 0.15,
    "memories": 0.1,
    "checkpoints": 0.05,
    "layouts": 0.25,
    "tables": 0.25,
    "calls": 0.25,
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("target", TARGETS)
def test_one_line_or_right(target: str, seed: int, tmp_path: Path) -> None:
    count = int(SHARES[target] * int(COUNT or 1000))
    # A machine that is shared is slow.
    result = run(target, tmp_path, seed, count, patience=60)
    assert result.faults == []
    assert result.refused > result.taken * (target not in ("layouts", "tables", "calls")) / 2
    assert result.taken + result.refused == count
