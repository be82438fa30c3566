"""A transformers model with longreel's attention against the same model without: masks, logits and gradients."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from longreel.integrations.lazy import NAME
from longreel.integrations.range_mask import RangeMask
from longreel.integrations.transformers import attention, range_mask
from longreel.reference.block_sparse_attention import visible

CLOSE = 1e-4
# Names under which both sides are overheard.
THEIRS, OURS = "longreel_parity_dense", "longreel_parity_ranges"


@dataclass(frozen=True)
class Compared:
    """What was compared, how far apart it is, and how far it may be."""

    what: str
    apart: float
    allowed: float

    @property
    def right(self) -> bool:
        return self.apart <= self.allowed


@dataclass(frozen=True)
class Comparison:
    """Lines of one model."""

    model: str
    lines: tuple[Compared, ...]

    @property
    def right(self) -> bool:
        return all(line.right for line in self.lines)

    def table(self) -> str:
        """Markdown."""
        rows = [
            f"| {line.what} | {line.apart:.1e} | {line.allowed:.1e} | {'equal' if line.right else 'DIFFERENT'} |"
            for line in self.lines
        ]
        return "\n".join([f"| {self.model} | apart | allowed | |", "| --- | --- | --- | --- |", *rows])


def compare(model: Any, inputs: Mapping[str, Any], *, close: float = CLOSE) -> Comparison:
    """`model`, whose text model takes `inputs`, under ``"longreel"`` and under ``"eager"``: the mask that every layer is given,
    pair by pair; logits of real rows; gradients of all weights where `inputs` hold labels. The model is left as it was.

    For small sizes: dense masks are made. close: largest difference; that of a gradient is in units of the weight's own
    largest, or of a hundredth of the largest of all where that is more. A gradient that one side lacks is infinitely far.

    Raises:
        ValueError: the model refuses longreel's attention, or there is nothing to compare, in one line.
    """
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    if "labels" in inputs:
        # What padding predicts is nobody's: its own labels, and the first real token's.
        before = torch.nn.functional.pad(real[:, :-1], (1, 0), value=True)
        inputs = {**inputs, "labels": inputs["labels"].masked_fill(~(real & before), -100)}
    lines = []
    if not real.any():
        raise ValueError("attention_mask has no real token: there is nothing to compare")
    theirs, ours = _masks(model, inputs, THEIRS), _masks(model, inputs, OURS)
    if not theirs or theirs.keys() != ours.keys():
        raise ValueError(
            f"{type(model).__name__}: {len(theirs)} layers ask for an attention by name under eager and {len(ours)} under"
            f" {NAME!r}; allowed: the same ones, and at least one"
        )
    for layer, dense in theirs.items():
        own = ours[layer]
        rows = real[:, -dense.shape[1] :, None]
        lines.append(Compared(f"mask of {layer}, pairs", float(((dense != own) & rows).sum()), 0.0))
    results = {name: _results(model, inputs, name) for name in ("eager", NAME)}
    (logits, gradients), (own_logits, own_gradients) = results["eager"], results[NAME]
    last = real[:, -logits.shape[1] :]
    lines.append(Compared("logits", _apart(own_logits[last], logits[last]), close))
    largest = max((_size(g) for g in gradients.values()), default=0.0)
    for name in dict.fromkeys([*gradients, *own_gradients]):
        both = gradients.get(name), own_gradients.get(name)
        lines.append(Compared(f"gradient of {name}", _gradients_apart(*both, largest / 100), close))
    return Comparison(type(model).__name__, tuple(lines))


def _size(t: Tensor) -> float:
    return t.abs().max().item() if t.numel() else 0.0


def _apart(a: Tensor, b: Tensor) -> float:
    return _size(a - b) if a.shape == b.shape else torch.inf


def _gradients_apart(theirs: Tensor | None, ours: Tensor | None, least: float) -> float:
    """In units of the largest of `theirs`, of `least` where that is more."""
    if theirs is None or ours is None:
        return torch.inf
    apart = _apart(theirs, ours)
    return apart and apart / (max(_size(theirs), least) or torch.finfo(theirs.dtype).tiny)


def _masks(model: Any, inputs: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """By layer, the pairs that it attends to, bool [B, Sq, Sk]."""
    found: dict[str, Tensor] = {}
    names = {id(module): key for key, module in model.named_modules()}

    def overhear(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, *args: Any, **options: Any) -> Any:
        if isinstance(mask, RangeMask):
            plan = mask.plan(None, q.shape[0], q.device, None, options.get("position_ids"))
            shown = visible(k.shape[2], plan.bounds, plan.global_index, plan.start)
            pairs = shown[..., : k.shape[2]].clone()
            for b, keys in enumerate(plan.global_index.tolist()):
                for place, key in enumerate(keys):
                    if key >= 0:
                        pairs[b, :, key] |= shown[b, :, k.shape[2] + place]
            found[names[id(module)]] = pairs.expand(q.shape[0], -1, -1)
            return attention(module, q, k, v, mask, *args, **options)
        found[names[id(module)]] = (mask[:, 0] == 0).expand(q.shape[0], -1, -1)
        return sdpa_attention_forward(module, q, k, v, mask, *args, **options)

    AttentionInterface.register(name, overhear)
    AttentionMaskInterface.register(name, range_mask if name == OURS else eager_mask)
    with under(model, name), torch.no_grad():
        model(**inputs)
    return found


def _results(model: Any, inputs: Mapping[str, Any], name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradients of weights where there are labels."""
    weights = {key: w for key, w in model.named_parameters() if w.requires_grad}
    with under(model, name), torch.set_grad_enabled("labels" in inputs):
        out = model(**inputs)
        if "labels" not in inputs:
            return out.logits, {}
        grads = torch.autograd.grad(out.loss, list(weights.values()), allow_unused=True)
    return out.logits.detach(), {key: g for key, g in zip(weights, grads, strict=True) if g is not None}


@contextmanager
def under(model: Any, name: str) -> Iterator[None]:
    """The text model of `model` under the attention `name`; as it was behind the block."""
    text = model.config.get_text_config()
    before = text._attn_implementation
    asked: Callable[[str], Any] = lambda n: n if text is model.config else {_key(model.config, text): n}  # noqa: E731
    model.set_attn_implementation(asked(name))
    try:
        yield
    finally:
        model.set_attn_implementation(asked(before))


def _key(config: Any, part: Any) -> str:
    return next(key for key in config.sub_configs if getattr(config, key, None) is part)
