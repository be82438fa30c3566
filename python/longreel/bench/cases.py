"""The benchmark case of every op of the registry."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from longreel.bench.case import BACKWARD, CPU, DTYPES, BenchCase, measure
from longreel.ops.registry import OPS

__all__ = ["BACKWARD", "CASES", "CPU", "DTYPES", "SIZES", "BenchCase", "measure", "op_names", "ops_of", "shape_of"]


class _Cases(Mapping[str, type[BenchCase]]):
    """By op: `longreel.bench.ops.<op>.CASE`, imported when it is asked for."""

    def __getitem__(self, op: str) -> type[BenchCase]:
        if op not in OPS:
            raise KeyError(op)
        case: type[BenchCase] = importlib.import_module(f"longreel.bench.ops.{op}").CASE
        return case

    def __iter__(self) -> Iterator[str]:
        return iter(OPS)

    def __len__(self) -> int:
        return len(OPS)


CASES: Mapping[str, type[BenchCase]] = _Cases()
SIZES = ("small", "quick", "hour")


def op_names() -> list[str]:
    """Ops that have a benchmark."""
    return list(CASES)


def ops_of(system: str) -> list[str]:
    """Ops that a released system calls."""
    return [op for op in CASES if system in CASES[op].SYSTEMS]


def shape_of(op: str, size: str, options: Mapping[str, Any], system: str | None = None) -> Any:
    """The shape of `op` called `size`, a system's own one where one is named, with those of `options` that it knows."""
    shape = (CASES[op].SIZES if system is None else CASES[op].SYSTEMS[system])[size]
    known = {field.name for field in fields(shape)}
    return replace(shape, **{name: value for name, value in options.items() if name in known})
