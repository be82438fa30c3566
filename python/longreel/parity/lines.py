"""Lines of a comparison of two ways with the truth in float64: a table, JSON and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from longreel.testing.budget import FLOORS, SLACK, Errors, allowed, errors


@dataclass(frozen=True)
class Line:
    """A distance from the truth: longreel's, plain PyTorch's, and the largest that is allowed; `apart` is that between the two.

    measure: "max" and "rms" are relative errors as `longreel.testing.budget` has them; "KL" is in nats, "rows" counts.
    """

    what: str
    measure: str
    ours: float
    plain: float
    apart: float
    allowed: float

    @property
    def right(self) -> bool:
        return self.ours <= self.allowed


@dataclass(frozen=True)
class Drift:
    """What was compared of one model in one dtype. `notes`: what was put in, what was left and why."""

    model: str
    dtype: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        return all(line.right for line in self.lines)

    def table(self) -> str:
        """Markdown, one row a line; of max and rms the one nearer to its limit."""
        rows = [
            f"| {one.what} | {one.measure} | {one.ours:.1e} | {one.plain:.1e} | {one.apart:.1e} | {one.allowed:.1e} |"
            f" {'equal' if one.right else 'DIFFERENT'} |"
            for one in _worst(self.lines)
        ]
        head = f"| {self.model}, {self.dtype} | | longreel | PyTorch | between them | allowed | |"
        return "\n".join([*self.notes, "", head, "| --- | --- | ---: | ---: | ---: | ---: | --- |", *rows])

    def json(self) -> dict[str, Any]:
        """One flat object; `passed` is the verdict."""
        lines = [asdict(line) | {"passed": line.right} for line in self.lines]
        return {
            "command": "parity", "model": self.model, "dtype": self.dtype, "passed": self.right, "notes": [*self.notes],
            "lines": lines,
        }  # fmt: skip


def _worst(lines: Sequence[Line]) -> list[Line]:
    best: dict[str, Line] = {}
    for index, line in enumerate(lines):
        key = line.what if line.measure in ("max", "rms") else f"{line.what}\0{index}"
        held = best.get(key)
        if held is None or line.ours / line.allowed > held.ours / held.allowed:
            best[key] = line
    return [*best.values()]


Ways = tuple[Tensor, ...]
"""Of float64, plain PyTorch and longreel, in this order."""
Gradients = Mapping[str, Tensor]


# Of the largest gradient: what is less may be rounding alone.
_SMALL = 1e-3


def tensor_lines(what: str, ways: Ways, dtype: torch.dtype, steps: int) -> list[Line]:
    """How far one tensor has drifted behind `steps` ops, whose errors add up like a random walk."""
    truth, plain, ours = ways
    found, base, apart = errors(ours, truth), errors(plain, truth), errors(ours, plain)
    limit = _limit(base, dtype, steps)
    return [
        Line(what, "max", found.max_rel, base.max_rel, apart.max_rel, limit.max_rel),
        Line(what, "rms", found.rms_rel, base.rms_rel, apart.rms_rel, limit.rms_rel),
    ]


def logits_lines(ways: Ways, dtype: torch.dtype, steps: int) -> list[Line]:
    """Of logits [rows, vocabulary]: their drift, the largest KL divergence of a row, and rows whose first choice is another
    although the truth's two best are further apart than the errors that are allowed."""
    lines = tensor_lines("logits", ways, dtype, steps)
    truth, plain, ours = ways
    room = lines[0].allowed * truth.abs().max().item()
    base, found, apart = kl(truth, plain), kl(truth, ours), kl(plain, ours)
    # Errors of at most e in every logit make a divergence of at most e ** 2 / 2.
    lines.append(Line("logits, the worst row", "KL", found, base, apart, max(SLACK**2 * base, room**2 / 2)))
    best = truth.topk(2, dim=-1)
    clear = best.values[:, 0] - best.values[:, 1] > 2 * room
    first, theirs, own = best.indices[:, 0], plain.argmax(-1), ours.argmax(-1)
    share = (own == theirs).double().mean().item()
    lines.append(
        Line(
            f"top-1: {share:.1%} of {len(truth)} agree, {int((~clear).sum())} are ties; else", "rows",
            float(((own != first) & clear).sum()), float(((theirs != first) & clear).sum()), float((own != theirs).sum()), 0.0,
        )
    )  # fmt: skip
    return lines


def kl(p: Tensor, q: Tensor) -> float:
    """The largest KL divergence of a row of logits `q` from `p`, in nats; infinite where one is no number."""
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    found = (p.exp() * (p - q)).sum(-1).max().item()
    return max(found, 0.0) if found == found else torch.inf


def gradient_lines(ways: tuple[Gradients, ...], dtype: torch.dtype, steps: int) -> list[Line]:
    """The angle between all gradients as one vector, and the weight whose own is furthest away, in units of its size; of the
    largest where it has not a thousandth of that: what cancels in a softmax is rounding. A gradient that a way lacks is zero."""
    truth, plain, ours = ways
    walk = (2 * steps) ** 0.5 * FLOORS[dtype].rms_rel
    angles = [_angle(truth, plain), _angle(truth, ours), _angle(plain, ours)]
    lines = [Line("gradients", "1 - cos", angles[1], angles[0], angles[2], max(SLACK**2 * angles[0], walk**2 / 2))]
    unit = max((_norm(g) for g in truth.values()), default=0.0)
    distances = {name: _distance(truth, ours, name, unit) for name in {**truth, **ours}}
    name = max(distances, key=distances.__getitem__)
    base = max(_distance(truth, plain, other, unit) for other in {**truth, **plain})
    lines.append(
        Line(
            f"gradient of {name}",
            "rms",
            distances[name],
            base,
            _distance(plain, ours, name, unit),
            max(SLACK * base, walk),
        )
    )
    return lines


def _limit(base: Errors, dtype: torch.dtype, steps: int) -> Errors:
    least, floor, walk = allowed(base, dtype), FLOORS[dtype], steps**0.5
    return Errors(max(least.max_rel, walk * floor.max_rel), max(least.rms_rel, walk * floor.rms_rel))


def _angle(a: Gradients, b: Gradients) -> float:
    dot = sum(float((a[name].double() * b[name].double()).sum()) for name in a.keys() & b.keys())
    sizes = [sum(float(g.double().square().sum()) for g in side.values()) ** 0.5 for side in (a, b)]
    if not sizes[0] and not sizes[1]:
        return 0.0
    found = 1 - dot / (sizes[0] * sizes[1]) if sizes[0] and sizes[1] else 1.0
    return max(found, 0.0) if found == found else torch.inf


def _distance(a: Gradients, b: Gradients, name: str, unit: float) -> float:
    """Of `b` from `a`."""
    size, one, other = _norm(a.get(name)), a.get(name), b.get(name)
    distances = _norm(one) + _norm(other) if one is None or other is None else _norm(one.double() - other.double())
    if not distances:
        return 0.0
    size = size if size > _SMALL * unit else unit
    return distances / size if size and distances == distances else torch.inf


def _norm(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.double().norm())
