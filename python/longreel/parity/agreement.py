"""Ours against float64, with the reference path as the yardstick."""

import torch

from longreel.bench.check import ErrorSum, Verdict
from longreel.models.record import EXACT, OURS, REFERENCE, RunRecord
from longreel.testing.budget import FLOORS, Errors, allowed


def agreement(record: RunRecord, dtype: torch.dtype) -> Verdict:
    """Ours against float64, tokens and logits, with the reference path as the yardstick of the error budget.

    The budget's floor is that of one op; errors of `record.steps` ops one after the other add up like a random walk.
    """
    verdict, walk, floor = Verdict(0.0, None), record.steps**0.5, FLOORS[dtype]
    for name in ("tokens", "logits"):
        ours, yardstick = (_errors(record, name, path) for path in (OURS, REFERENCE))
        limit = allowed(yardstick, dtype)
        for kind, value, most in (
            ("max", ours.max_rel, max(limit.max_rel, walk * floor.max_rel)),
            ("rms", ours.rms_rel, max(limit.rms_rel, walk * floor.rms_rel)),
        ):
            if verdict.worst is None or value / most > verdict.error:
                verdict = Verdict(value / most, f"{name} has {kind} error {value:.1e}, allowed {most:.1e}")
    return verdict


def _errors(record: RunRecord, name: str, path: str) -> Errors:
    sums = ErrorSum()
    if name == "tokens":
        sums.add(record.visual[path], record.visual[EXACT])
    else:
        for logits, truth in zip(record.logits[path], record.logits[EXACT], strict=True):
            sums.add(logits, truth)
    return sums.errors
