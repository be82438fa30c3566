"""Figures of compiled kernels against tests/budgets/*.json."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

BUDGETS = Path(__file__).parents[1] / "budgets"
CEILINGS = ("registers", "spill_bytes", "shared_bytes")


def figures(which: str, env: Mapping[str, str]) -> dict[str, dict[str, dict[str, int]]]:
    """What `update.py which` measures, in a process of its own."""
    child = subprocess.run(
        [sys.executable, str(BUDGETS / "update.py"), which], env=dict(env), capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr[-4000:]
    return json.loads(child.stdout)


def budget(which: str) -> dict[str, dict[str, dict[str, int]]]:
    sys.path.insert(0, str(BUDGETS))
    from budget_path import budget_path

    return json.loads(budget_path(which).read_text())


def over_budget(found: dict[str, dict[str, dict[str, int]]], which: str) -> list[str]:
    """One line for every figure over its budget, every kernel without one, and every budget without a kernel."""
    allowed = budget(which)
    problems = [f"{name}: {where}" for name, where in _unmatched(found, allowed)]
    for name, archs in found.items():
        for arch, figure in archs.items():
            limit = allowed.get(name, {}).get(arch, figure)
            problems += [
                f"{name} on {arch}: {key} {figure[key]}, the budget is {limit[key]}"
                for key in CEILINGS
                if figure[key] > limit[key]
            ]
    return problems


def _unmatched(found: dict, allowed: dict) -> list[tuple[str, str]]:
    write = "python tests/budgets/update.py ... --write"
    new = [(name, f"has no budget ({write})") for name in found if name not in allowed]
    gone = [(name, f"has a budget and no kernel ({write})") for name in allowed if name not in found]
    return new + gone
