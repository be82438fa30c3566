"""A model as it is against the same with longreel inside, and both against float64: layer by layer, logits, gradients."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.integrations.lazy import NAME
from longreel.integrations.patching import PatchLine, patch
from longreel.parity.lines import Drift, gradient_lines, logits_lines, tensor_lines


@dataclass
class _Recorded:
    """Of one way: what every layer gave, in the order of the calls, the output's rows, and gradients of weights."""

    layers: dict[str, list[Tensor]] = field(default_factory=dict)
    output: Tensor = field(default_factory=lambda: torch.empty(0))
    logits: bool = False
    gradients: dict[str, Tensor] = field(default_factory=dict)


def whole(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    ops: str | Sequence[str] = "auto",
    backend: str | None = None,
    attention: bool = True,
    gradients: bool = True,
) -> Drift:
    """`model` as it is, patched (`longreel.patch`) and with longreel's attention in its text model, and in float64, in one
    process on the same inputs. It is left as it was.

    Args:
        model: any that `longreel.patch` or ``attn_implementation="longreel"`` serves, in float32, bfloat16 or float16.
        inputs: keywords of its forward; rows that `attention_mask` hides are not compared.
        ops, backend: as in `longreel.patch`. attention: the text model's attention too, where it takes one by name.
        gradients: of a cross-entropy to drawn ids too, in eval mode, of all weights that require one. They take the memory
            of three sets of weights, one in float64.

    Raises:
        ValueError: longreel computes nothing of this model, or another dtype.
    """
    dtype = _dtype(model)
    given = _without_cache(model, inputs)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with ExitStack() as inside:
            said = _enter(inside, model) if attention else ("its own", False)
            report = inside.enter_context(patch(model, ops, backend))
            paths = [_overheard_at(line) for line in report.patched]
            ours = _record(model, given, paths, gradients)
        served = sum(one.calls - one.aside.total() for line in report.patched for one in line.replacements)
        if not served and not said[1]:
            raise ValueError(
                f"{type(model).__name__}: longreel computes nothing of it; its attention: {said[0]}; {report}"
            )
        plain = _record(model, given, paths, gradients)
        with _in_float64(model):
            truth = _record(model, {key: _cast(value, torch.float64) for key, value in given.items()}, paths, gradients)
    finally:
        for module, mode in modes.items():
            module.training = mode
    lines = []
    for index, name in enumerate(truth.layers):
        calls = (torch.cat([one.flatten() for one in side.layers[name]]) for side in (truth, plain, ours))
        lines += tensor_lines(name, (*calls,), dtype, index + 1)
    steps = len(truth.layers) + 1
    made = (truth.output, plain.output, ours.output)
    lines += logits_lines(made, dtype, steps) if truth.logits else tensor_lines("output", made, dtype, steps)
    if truth.gradients:
        lines += gradient_lines((truth.gradients, plain.gradients, ours.gradients), dtype, steps)
    notes = (f"attention of the text model: {said[0]}", str(report))
    return Drift(type(model).__name__, str(dtype).removeprefix("torch."), tuple(lines), notes)


def _dtype(model: nn.Module) -> torch.dtype:
    found = {p.dtype for p in model.parameters() if p.is_floating_point()}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        if dtype in found:
            return dtype
    raise ValueError(f"{type(model).__name__}: has no weights in float32, bfloat16 or float16, which are compared here")


def _without_cache(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    takes = inspect.signature(model.forward).parameters
    off = {"use_cache": False} if "use_cache" in takes else {}
    dtype = _dtype(model)
    return {**off, **{key: _cast(value, dtype) for key, value in inputs.items()}}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _enter(inside: ExitStack, model: nn.Module) -> tuple[str, bool]:
    """longreel's attention in the text model, until `inside` ends: what is said of it, and whether it is there."""
    if not hasattr(getattr(model, "config", None), "get_text_config"):
        return "its own, it takes none by name", False
    from longreel.parity.patched import under

    try:
        inside.enter_context(under(model, NAME))
    except ValueError as error:
        return f"its own ({error})", False
    return NAME, True


def _overheard_at(line: PatchLine) -> str:
    """A hook on an attention may want its weights, which no op gives: what is around it is overheard."""
    return line.path.rpartition(".")[0] if line.op == "qformer_attention" else line.path


@contextmanager
def _in_float64(model: nn.Module) -> Iterator[None]:
    """Every weight and buffer widened; as it was, to the bit, behind the block."""
    held = [(t, t.dtype) for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    for tensor, _ in held:
        tensor.data = tensor.data.double()
    try:
        yield
    finally:
        for tensor, dtype in held:
            tensor.data = tensor.data.to(dtype)


def _record(model: nn.Module, given: Mapping[str, Any], paths: Iterable[str], gradients: bool) -> _Recorded:
    recorded = _Recorded()
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad} if gradients else {}
    with ExitStack() as hooks, torch.set_grad_enabled(bool(weights)):
        for name, module in _followed(model, paths).items():
            hooks.callback(module.register_forward_hook(_overhearing(recorded, name)).remove)
        out = model(**given)
        recorded.logits = isinstance(getattr(out, "logits", None), Tensor)
        rows = _real(out.logits if recorded.logits else _first(out), given)
        recorded.output = rows.detach()
        if weights:
            grads = torch.autograd.grad(_loss(rows, recorded.logits), [*weights.values()], allow_unused=True)
            recorded.gradients = {name: g for name, g in zip(weights, grads, strict=True) if g is not None}
    recorded.layers = {name: [_real(one, given) for one in calls] for name, calls in recorded.layers.items()}
    return recorded


def _overhearing(recorded: _Recorded, name: str) -> Any:
    def overhear(module: nn.Module, args: Any, out: Any) -> None:
        recorded.layers.setdefault(name, []).append(_first(out).detach())

    return overhear


def _first(out: Any) -> Tensor:
    """Of what a module gave, its first tensor of numbers that are not whole."""
    if isinstance(out, Tensor):
        return out
    parts = out.values() if isinstance(out, Mapping) else out if isinstance(out, Iterable) else ()
    found = next((one for one in parts if isinstance(one, Tensor) and one.is_floating_point()), None)
    if found is None:
        raise ValueError(f"a {type(out).__name__} came out, in which is no tensor to compare")
    return found


def _followed(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Module]:
    """Repeated layers, those inside others left out, and the modules at `paths`."""
    found = {path: model.get_submodule(path) for path in paths if path}
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not name.startswith(inside or "\0"):
            inside += (f"{name}.",)
            found |= {f"{name}.{index}": layer for index, layer in enumerate(module)}
    return found


def _real(out: Tensor, given: Mapping[str, Any]) -> Tensor:
    """[rows, width] of a tensor's last dimension, without rows that the mask of tokens hides."""
    mask = given.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2 and out.dim() == 3 and out.shape[:2] == mask.shape:
        return out[mask.bool()]
    return out.flatten(0, -2) if out.dim() > 1 else out


def _loss(rows: Tensor, logits: bool) -> Tensor:
    """The same on every way: ids, or directions, drawn from one seed."""
    drawn = torch.Generator().manual_seed(0)
    if logits:
        ids = torch.randint(0, rows.shape[-1], rows.shape[:1], generator=drawn).to(rows.device)
        return F.cross_entropy(rows if rows.dtype == torch.float64 else rows.float(), ids)
    wanted = torch.randn(rows.shape, generator=drawn).to(rows)
    return (rows * wanted).mean()
