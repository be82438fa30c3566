"""patch() and unpatch(): ops in the place of methods of a live model, where its library has no hook.

Nothing of a model's library is imported: classes are known by their names, modules by what they hold.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from longreel.backends import TABLE
from longreel.integrations.patching.replacement import Patch, Replacement, rows


@dataclass(frozen=True)
class PatchLine:
    """One module: `left` says why it is as it was, None that `op` has taken its place."""

    path: str
    module: str
    op: str
    left: str | None
    replacements: tuple[Replacement, ...] = ()


@dataclass(frozen=True)
class PatchReport:
    """What `patch` did, module by module; printing it gives the text. As a context manager it takes back what it put in."""

    model: str
    lines: tuple[PatchLine, ...]

    @property
    def patched(self) -> tuple[PatchLine, ...]:
        return tuple(line for line in self.lines if line.left is None)

    @property
    def left(self) -> tuple[PatchLine, ...]:
        return tuple(line for line in self.lines if line.left is not None)

    @property
    def aside(self) -> dict[str, dict[str, int]]:
        """Of patched modules, calls that went to the class's own method: path -> why -> how often."""
        sums: dict[str, dict[str, int]] = {}
        for line in self.lines:
            counts = sum((one.aside for one in line.replacements), Counter[str]())
            if counts:
                sums[line.path] = dict(counts)
        return sums

    def __enter__(self) -> "PatchReport":
        return self

    def __exit__(self, *_: object) -> None:
        for line in reversed(self.lines):
            for replacement in reversed(line.replacements):
                replacement.remove()

    def __str__(self) -> str:
        if not self.lines:
            return f"{self.model}: nothing in it that longreel has an op for"
        head = f"{self.model}: {len(self.patched)} of {len(self.lines)} modules patched"
        away = self.aside
        rows = []
        for line in self.lines:
            rows.append(
                f"  {line.path or '(the model)'} ({line.module}): {line.op if line.left is None else f'left, {line.left}'}"
            )
            rows += [f"    {times} calls by its own method: {why}" for why, times in away.get(line.path, {}).items()]
        return "\n".join([head, *rows])


def patch(model: nn.Module, ops: str | Sequence[str] = "auto", backend: str | None = None) -> PatchReport:
    """longreel's ops in the place of the methods of a live model that they compute; see docs/patch.md for the models.

    It acts on this instance, not on its class. Weights, `state_dict` and hooks stay as they are, weights are read at each call.
    A call that an op does not serve (attention dropout in training, weights asked for, adapters on a projection that is read
    as a matrix, a device without a kernel) goes to the class's own method and is counted in `PatchReport.aside`.

    Args:
        model: of transformers, of one of the four systems' repositories, or a part of one.
        ops: "auto", or names of ops: "adaptive_pool", "block_sparse_attention", "compress_frames", "qformer_attention".
        backend: as in the ops; None chooses, and leaves alone what only the reference would compute.

    Returns:
        PatchReport: which modules are patched, which are left and why. ``with longreel.patch(model):`` takes back on leaving
        what this call put in; `unpatch` takes back everything.

    Raises:
        TypeError: model is no module.
        ValueError: ops or backend that there is none of.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; allowed: a torch.nn.Module")
    wanted = wanted_rows(ops, backend)
    lines = []
    try:
        for path, module in list(model.named_modules()):
            lines += [_line(row, path, module, backend) for row in wanted if row.means(path, module)]
    except BaseException:
        PatchReport("", tuple(lines)).__exit__()
        raise
    return PatchReport(type(model).__name__, tuple(lines))


def unpatch(model: nn.Module) -> None:
    """Every method of `model` that `patch` replaced as it was, `__dict__` and all."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; allowed: a torch.nn.Module")
    for module in model.modules():
        for value in list(module.__dict__.values()):
            while isinstance(value, Replacement):
                value.remove()
                value = value.before


def wanted_rows(ops: str | Sequence[str], backend: str | None) -> list[Patch]:
    """The rows that are asked for.

    Raises:
        ValueError: ops or backend that there is none of.
    """
    table = rows()
    known = sorted({row.op for row in table})
    if ops != "auto" and isinstance(ops, str):
        raise ValueError(f"ops={ops!r}; allowed: 'auto', or a list of {', '.join(map(repr, known))}")
    unknown = [op for op in ops if op not in known] if ops != "auto" else []
    if unknown:
        raise ValueError(f"ops has {', '.join(map(repr, unknown))}; allowed: {', '.join(map(repr, known))}")
    chosen = [row for row in table if ops == "auto" or row.op in ops]
    have = sorted({one.backend for row in chosen for one in TABLE[row.op]})
    if backend is not None and chosen and backend not in have:
        raise ValueError(f"backend={backend!r}; allowed: None, {', '.join(map(repr, have))}")
    return chosen


def _line(row: Patch, path: str, module: nn.Module, backend: str | None) -> PatchLine:
    made: list[Replacement] = []
    why = _objection(row, module, backend)
    if why is None:
        for key, owner in row.places(module):
            made.append(Replacement(row, key, owner, backend))
            method = made[-1].method
            made[-1].before, owner.__dict__[method] = owner.__dict__.get(method), made[-1]
    return PatchLine(path, type(module).__name__, row.op, why, tuple(made))


def _objection(row: Patch, module: nn.Module, backend: str | None) -> str | None:
    if backend is not None and all(one.backend != backend for one in TABLE[row.op]):
        return f"{row.op} has no backend {backend!r}"
    try:
        why = row.objection(module)
    except (AttributeError, ValueError) as error:
        # something that a module of this name has elsewhere, or a weight that is no matrix
        return str(error)
    if why is not None:
        return why
    places = [(key.rpartition(".")[2], owner) for key, owner in row.places(module)]
    for method, owner in places:
        held = owner.__dict__.get(method)
        if held is not None and not isinstance(held, Replacement):
            return f"it has a {method} of its own ({getattr(held, '__qualname__', type(held).__name__)})"
        if not hasattr(type(owner), method):
            return f"its class has no {method}"
    same = [owner.__dict__.get(method) for method, owner in places]
    if all(isinstance(one, Replacement) and one.patch is row and one.backend == backend for one in same):
        return "patched already"
    return None
