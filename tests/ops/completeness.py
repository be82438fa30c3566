"""The parts of an op, looked for by its name: what is missing of them, a line each."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import longreel
from longreel import ops
from longreel.bench.cases import CASES
from longreel.ops.registry import OPS
from longreel.testing.cases import corners

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BUDGETS = ROOT / "tests/budgets"


def missing(op: str, readme: str = README, budgets: Path = BUDGETS) -> list[str]:
    """What `op` lacks of the parts that CONTRIBUTING lists; `readme`, `budgets`: where its row and its launches are."""
    backends = {row.backend for row in OPS[op].rows}
    names = [op, *([f"{op}_backward"] if OPS[op].backward is not None else [])]

    def kernels(key: str, backend: str) -> bool:
        return all(torch._C._dispatch_has_kernel_for_dispatch_key(f"longreel::{n}.{backend}", key) for n in names)

    def host_functions() -> bool:
        module = _module(f"longreel.triton_kernels.{op}")
        return module is not None and all(hasattr(module, name) for name in names)

    parts: dict[str, Callable[[], Any]] = {
        "public export in longreel/ops/__init__.py": lambda: op in ops.__all__ and hasattr(ops, op),
        "docstring of the public function": lambda: OPS[op].public.__doc__,
        f"reference in longreel/reference/{op}.py": lambda: _module(f"longreel.reference.{op}"),
        f"cases, one of them fast, in longreel/testing/cases/{op}.py": lambda: any(
            case.fast for case in _corners(op, "cases")
        ),
        f"bad input, `bad_cases()` in longreel/testing/cases/{op}.py": lambda: _corners(op, "bad_cases"),
        f"benchmark case in longreel/bench/ops/{op}.py": lambda: (
            _module(f"longreel.bench.ops.{op}") and "strong" in _first_case(op).peers
        ),
        "row of the ops in README.md": lambda: f"| `{op}(" in readme,
    }
    if "cuda" in {device for row in OPS[op].rows for device in row.devices if row.kind == "kernel"}:
        parts[f"GPU cases, `gpu_cases()` in longreel/testing/cases/{op}.py"] = lambda: _corners(op, "gpu_cases")
    if "triton" in backends:
        parts[f"Triton kernels in triton_kernels/{op}"] = host_functions
        parts[f"interpreter run, `interpreted()` in longreel/testing/cases/{op}.py"] = lambda: _corners(
            op, "interpreted"
        )
        parts[f"kernel budget: launches in tests/budgets/{op}.py"] = lambda: (budgets / f"{op}.py").exists()
    if "cpu" in backends and longreel._native.OPS_REFUSAL is None:
        parts[f"CPU kernel registration of {' and '.join(names)}"] = lambda: kernels("CPU", "cpu")
    return [part for part, there in parts.items() if not there()]


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def _corners(op: str, kind: str) -> list[Any]:
    """`kind()` of the op's corners; nothing where there is none."""
    module = _module(f"longreel.testing.cases.{op}") and corners(op)
    return list(getattr(module, kind, list)())


def _first_case(op: str) -> Any:
    return CASES[op](op, CASES[op].SIZES["small"])


def parts_of(text: str) -> Iterator[str]:
    """The paths that a page of words names in backticks, with <op> for the op's name."""
    yield from (word for word in text.split("`")[1::2] if "<op>" in word)
