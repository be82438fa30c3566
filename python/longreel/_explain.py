"""explain(): which backends could serve a call, which one will, why not the others, and what the call costs at least."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from longreel.backends import refusal
from longreel.ops.common.cost import Cost
from longreel.ops.registry import OPS


@dataclass(frozen=True)
class Candidate:
    """One row of the backend table against this call: `refusal` is None where it could run."""

    backend: str
    refusal: str | None
    why: str


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; printing it gives the text. form: which of several forms is computed, and why."""

    op: str
    chosen: str | None
    candidates: tuple[Candidate, ...]
    cost: Cost
    form: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.op}: {self.chosen or 'no backend can run this call'}"]
        for candidate in self.candidates:
            mark = "->" if candidate.backend == self.chosen else "  "
            lines.append(f" {mark} {candidate.backend:<10} {candidate.refusal or candidate.why}")
        cost = self.cost
        lines.append(
            f"    {cost.flops / 1e9:.4g} GFLOP; reads {cost.bytes_read / 2**20:.4g} MiB, writes"
            f" {cost.bytes_written / 2**20:.4g} MiB; {cost.intensity:.3g} FLOP/byte"
        )
        lines.append(
            f"    bound: max({cost.bytes / 1e9:.4g} GB / memory bandwidth, {cost.flops / 1e12:.4g} TFLOP / matrix rate)"
        )
        if self.form is not None:
            lines.append(f"    {self.form}")
        return "\n".join(lines)


def explain(op: str | Callable[..., Any], *args: Any, backend: str | None = None, **kwargs: Any) -> Explanation:
    """Candidates, refusals, FLOPs, bytes and the bound of one call of `op` (its name or the function), which is not run.

    >>> print(longreel.explain(longreel.adaptive_pool, patches, 4))
    """
    name = op if isinstance(op, str) else getattr(op, "__name__", repr(op))
    if name not in OPS:
        raise ValueError(f"{name!r} is not an op of longreel; ops: {', '.join(OPS)}")
    spec = OPS[name]
    cost, request = spec.cost(*args, **kwargs), spec.request(spec.lowered(*args, **kwargs))
    candidates = tuple(
        Candidate(row.backend, refusal(row, request, named=row.backend == backend), row.why) for row in spec.rows
    )
    chosen = next((c.backend for c in candidates if c.refusal is None and backend in (None, c.backend)), None)
    return Explanation(name, chosen, candidates, cost, spec.form_of(*args, **kwargs))
