"""Foreign bytes and numbers: no crash, no hang, no traceback, nothing accepted that contradicts itself (LONGREEL_MUTATIONS: how
many inputs, of three seeds)."""

import os
from pathlib import Path

import pytest
from planted import FAULTS
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
    "results": 0.05,
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("target", TARGETS)
def test_one_line_or_right(target: str, seed: int, tmp_path: Path) -> None:
    count = int(SHARES[target] * int(COUNT or 1000))
    result = run(target, tmp_path, seed, count)
    assert result.faults == []
    assert result.refused > result.taken * (target not in ("layouts", "tables", "calls")) / 2
    assert result.taken + result.refused == count


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    """Of every kind one is planted, and told from the others."""
    result = run("planted", tmp_path, 1, len(FAULTS), hangs_after=2.0, waits_after=8.0)
    assert (result.taken, result.refused, len(result.faults)) == (1, 1, len(FAULTS) - 2)
    for number, (name, said) in enumerate(FAULTS.items()):
        assert said is None or any(f"planted 1 {number}: {said}" in fault for fault in result.faults), (
            name,
            result.faults,
        )
