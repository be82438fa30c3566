"""Variants of one computation, measured in turn: the harness that every ratio comes from."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from longreel.bench.check import Verdict
from longreel.bench.report import Outcome, Report
from longreel.bench.roof import RoofMeter
from longreel.measure.allocator import memory_reused
from longreel.measure.clock import Timed, clock_for
from longreel.measure.machine import Neighbours, Record, describe
from longreel.measure.memory import Peak, free_memory, peak_memory, return_free_memory
from longreel.measure.stats import calls_per_sample, turn_order
from longreel.ops.common.cost import Cost

MIN_ROUNDS = 3
SPENT = "not run: the time budget was spent"


@dataclass(frozen=True)
class Contender:
    """One way to compute the result.

    Args:
        name: what tables call it.
        make: set-up outside the clock (packing, torch.compile); returns the timed call, which allocates its outputs.
        note: what it is, in a few words.
        needs: bytes that a call takes beyond its inputs, estimated; it is refused where less is free. 0: not checked.
        budgets: how many error budgets its result may use up.
        absent: why it is not run here; None where it can be.
    """

    name: str
    make: Callable[[], Timed]
    note: str = ""
    needs: int = 0
    budgets: float = 1.0
    absent: str | None = None


@dataclass
class _Entry:
    variant: Contender
    call: Timed | None = None
    why: str | None = None
    refused: bool = False
    verdict: Verdict | None = None
    peak: Peak | None = None
    calls: int = 1
    samples: tuple[float, ...] = ()

    def outcome(self) -> Outcome:
        return Outcome(
            self.variant.name,
            self.variant.note,
            self.why,
            self.refused,
            self.verdict,
            self.peak,
            self.calls,
            self.samples,
        )


def compare(
    variants: Sequence[Contender],
    *,
    work: Cost,
    check: Callable[[Any], Verdict],
    device: torch.device,
    dtype: torch.dtype,
    baseline: str,
    facts: Record | None = None,
    repeats: int = 10,
    min_time: float = 0.01,
    warmup: int = 1,
    budget: float | None = None,
    roof: RoofMeter | None = None,
    dense: tuple[Timed, float] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Check every variant, then time those that hold in turn: A B C, B C A, ..., order changing from round to round.

    A variant that raises, needs more memory than is free, or leaves the error budget is not timed; its row says why.
    Ratios are taken pair by pair within a round. The roof is probed once a round, under the same conditions. A first round
    is not counted: in it the process takes the memory that it keeps for the others (`measure.allocator`).

    Args:
        variants: in order of interest: where `budget` runs out, the later ones are the ones that are not run.
        work: FLOPs and bytes that the computation cannot do without.
        check: the verdict on a variant's result; it must not change the result.
        device, dtype: where and in what the variants compute.
        baseline: the variant whose time every other's is divided into.
        facts: what was computed (op, shape, ...), copied into every record.
        repeats: rounds, at least 1.
        min_time: seconds a sample lasts at least; a short call is repeated within its sample.
        warmup: untimed calls after the one that is checked.
        budget: seconds for everything; rounds end early after it, but not before three.
        roof: the probes; default a `RoofMeter` of 1 GiB.
        dense: of sparse work, a call that leaves nothing out, and its FLOPs; probed as the roof is.
        progress: receives a line before every step that takes long.

    Raises:
        ValueError: no variants, a name twice, an unknown baseline, or less than one round.
    """
    names = [variant.name for variant in variants]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"compare() needs variants of different names, given {names}")
    if baseline not in names:
        raise ValueError(f"baseline={baseline!r} is not one of {names}")
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: at least one round is needed")
    deadline = None if budget is None else time.monotonic() + budget
    machine = describe(device)
    clock = clock_for(device)
    entries = [_Entry(variant) for variant in variants]
    with memory_reused(device) as allocated, _no_collection():
        for entry in entries:
            progress(f"checking {entry.variant.name}")
            _prepare(entry, check, device, clock, min_time, warmup, deadline)
        progress("measuring the roof")
        meter = roof or RoofMeter(device, dtype)
        if dense is not None:
            meter.dense(*dense)
        meter.sample(clock)
        running = [entry for entry in entries if entry.why is None]
        progress("first round, not counted")
        for entry in running:
            assert entry.call is not None
            clock.sample(entry.call, 1)
        neighbours = Neighbours()
        for turn in range(repeats if running else 0):
            if deadline is not None and turn >= MIN_ROUNDS and time.monotonic() > deadline:
                break
            progress(f"round {turn + 1} of {repeats}")
            for i in turn_order(turn, len(running)):
                entry = running[i]
                assert entry.call is not None
                entry.samples += (clock.sample(entry.call, entry.calls),)
            meter.sample(clock)
    found = tuple(e.outcome() for e in entries)
    about = {**(facts or {}), "allocated": allocated}
    return Report(found, baseline, work, meter.roof(), about, machine, neighbours.share())


def _prepare(
    entry: _Entry,
    check: Callable[[Any], Verdict],
    device: torch.device,
    clock: Any,
    min_time: float,
    warmup: int,
    deadline: float | None,
) -> None:
    """Set-up, first call, verdict, warm-up and peak memory; a reason in `entry.why` where that ends early."""
    if deadline is not None and time.monotonic() > deadline:
        entry.why, entry.refused = SPENT, True
        return
    if entry.variant.absent is not None:
        entry.why, entry.refused = f"not run: {entry.variant.absent}", True
        return
    # What an earlier variant took, and the process kept.
    return_free_memory()
    free = free_memory(device)
    if free is not None and entry.variant.needs > free:
        entry.why = f"not run: needs about {entry.variant.needs / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        entry.refused = True
        return
    try:
        call = entry.variant.make()
        entry.verdict = check(call())
        if not entry.verdict.error <= entry.variant.budgets:
            entry.why = f"no ratio: {entry.verdict.worst}"
            return
        for _ in range(warmup):
            call()
        entry.peak = peak_memory(call, device)
        entry.calls = calls_per_sample(min(clock.sample(call, 1) for _ in range(2)), min_time)
        entry.call = call
    except Exception as error:
        entry.why = (
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector at rest."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
