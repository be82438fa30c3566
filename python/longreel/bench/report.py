"""What a comparison found: outcomes, ratios, and one flat record a variant."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longreel.bench.check import Verdict
from longreel.bench.roof import Roof
from longreel.files.output import append_line
from longreel.measure.machine import Record
from longreel.measure.memory import Peak
from longreel.measure.stats import Spread, speedup, spread
from longreel.ops.common.cost import Cost

# By how much another run may differ (`Spread.noise`) before this one counts as noisy.
STEADY = 0.10


@dataclass(frozen=True)
class Outcome:
    """One variant. `why` says why it has no time, None where it has; `refused`: not even run, for want of time or room.
    `samples` are seconds a call, one a round, each the mean of `calls` calls."""

    variant: str
    note: str
    why: str | None
    refused: bool
    verdict: Verdict | None
    peak: Peak | None
    calls: int
    samples: tuple[float, ...]


@dataclass(frozen=True)
class Report:
    """The outcomes of one `compare`, with the work they did and the roof they did it under.

    `others` is the part of the machine that other processes took during the rounds, None where that is not known.
    """

    outcomes: tuple[Outcome, ...]
    baseline: str
    work: Cost
    roof: Roof
    facts: Record
    machine: Record
    others: float | None = None

    def outcome(self, name: str) -> Outcome:
        for outcome in self.outcomes:
            if outcome.variant == name:
                return outcome
        raise KeyError(f"no variant {name!r}; there are {', '.join(o.variant for o in self.outcomes)}")

    def time(self, name: str) -> Spread | None:
        """Seconds a call, None where the variant was not timed."""
        samples = self.outcome(name).samples
        return spread(samples) if samples else None

    def speedup(self, name: str, over: str) -> Spread | None:
        """How many times faster `name` is than `over`; None where either was not timed."""
        slow, fast = self.outcome(over).samples, self.outcome(name).samples
        return speedup(slow, fast) if slow and fast else None

    def share(self, name: str) -> float | None:
        """The roof's time for this work over the variant's: 1 is the roof."""
        time = self.time(name)
        return None if time is None else self.roof.seconds(self.work) / time.median

    def sparsity_share(self, name: str) -> float | None:
        """The time of the visible work at the dense rate over the variant's; None where nothing is left out."""
        time, bound = self.time(name), self.roof.sparsity_seconds(self.work)
        return None if time is None or bound is None else bound / time.median

    def noise(self, name: str) -> float | None:
        """By how much another run may differ in the variant's ratio over the baseline (of the baseline: in its time): what its
        halves disagree by, or more where single rounds scatter. None where nothing was timed, or a single round."""
        of = self.time(name) if name == self.baseline else self.speedup(name, self.baseline)
        return of.noise if of and of.runs > 1 else None

    def noisy(self, name: str) -> bool:
        return (self.noise(name) or 0.0) > STEADY

    def records(self) -> list[dict[str, Any]]:
        """One JSON-ready record a variant; times in seconds, sizes in bytes, rates a second."""
        return [self._record(outcome) for outcome in self.outcomes]

    def write(self, path: Path) -> None:
        """Append the records to `path` as JSON lines."""
        path.parent.mkdir(parents=True, exist_ok=True)
        append_line(path, "\n".join(json.dumps(record) for record in self.records()))

    def _record(self, outcome: Outcome) -> dict[str, Any]:
        name, time = outcome.variant, self.time(outcome.variant)
        over = {o.variant: self.speedup(name, o.variant) for o in self.outcomes if o.variant != name}
        return {
            **self.facts,
            "variant": name,
            "note": outcome.note,
            "why": outcome.why,
            "seconds": asdict(time) if time else None,
            "samples": list(outcome.samples),
            "calls_per_sample": outcome.calls,
            "speedup_over": {other: asdict(ratio) for other, ratio in over.items() if ratio},
            "error_of_budget": outcome.verdict.error
            if outcome.verdict and math.isfinite(outcome.verdict.error)
            else None,
            "worst_error": outcome.verdict.worst if outcome.verdict else None,
            "extra_bytes": outcome.peak.extra if outcome.peak else None,
            "extra_measured_by": outcome.peak.how if outcome.peak else None,
            "work": {
                "flops": self.work.flops,
                "bytes_read": self.work.bytes_read,
                "bytes_written": self.work.bytes_written,
            },
            "flops_per_s": self.work.flops / time.median if time else None,
            "bytes_per_s": self.work.bytes / time.median if time else None,
            "roof": {**asdict(self.roof), "bound": self.roof.bound(self.work)},
            "share_of_roof": self.share(name),
            "share_of_sparsity_bound": self.sparsity_share(name),
            "noise": self.noise(name),
            "noisy": self.noisy(name),
            "machine": self.machine,
            "taken_by_others": self.others,
        }
