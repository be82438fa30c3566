"""Ours against float64, with the reference path as the yardstick."""

import torch

from longreel.bench.check import ErrorSum, Verdict, worst_of
from longreel.models.record import EXACT, OURS, REFERENCE, RunRecord
from longreel.testing.budget import FLOORS, Errors, allowed


def agreement(record: RunRecord, dtype: torch.dtype) -> Verdict:
    """Ours against float64, tokens and logits, with the reference path as the yardstick of the error budget.

    The budget's floor is that of one op; errors of `record.steps` ops one after the other add up like a random walk.
    """
    walk, floor = record.steps**0.5, FLOORS[dtype]

    def limit(name: str) -> Errors:
        least = allowed(_errors(record, name, REFERENCE), dtype)
        return Errors(max(least.max_rel, walk * floor.max_rel), max(least.rms_rel, walk * floor.rms_rel))

    return worst_of((name, _errors(record, name, OURS), limit(name)) for name in ("tokens", "logits"))


def _errors(record: RunRecord, name: str, path: str) -> Errors:
    sums = ErrorSum()
    if name == "tokens":
        sums.add(record.visual[path], record.visual[EXACT])
    else:
        for logits, truth in zip(record.logits[path], record.logits[EXACT], strict=True):
            sums.add(logits, truth)
    return sums.errors
