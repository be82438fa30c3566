"""What users do to a module's weights, by ways that leave version counters and addresses as they were, and by others.

Each takes a module and the names of some of its Linear layers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Change = Callable[[nn.Module, Sequence[str]], object]


def _weights(module: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    return [p for name in names for p in module.get_submodule(name).parameters()]


def _noise(like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(like.numel())
    return torch.randn(like.shape, generator=generator, dtype=like.dtype) * 0.3


def fused_step(module: nn.Module, names: Sequence[str]) -> None:
    weights = _weights(module, names)
    optimizer = torch.optim.AdamW(weights, 1e-1, fused=True)
    for _ in range(2):
        for weight in weights:
            weight.grad = _noise(weight)
        optimizer.step()
    optimizer.zero_grad()


def data_written(module: nn.Module, names: Sequence[str]) -> None:
    for weight in _weights(module, names):
        weight.data.add_(_noise(weight))


def data_replaced(module: nn.Module, names: Sequence[str]) -> None:
    for weight in _weights(module, names):
        weight.data = _noise(weight)


def in_inference_mode(module: nn.Module, names: Sequence[str]) -> None:
    with torch.inference_mode():
        for weight in _weights(module, names):
            weight.mul_(2)


def by_numpy(module: nn.Module, names: Sequence[str]) -> None:
    for weight in _weights(module, names):
        weight.detach().numpy()[:] *= 2


def loaded(module: nn.Module, names: Sequence[str]) -> None:
    module.load_state_dict({name: value + _noise(value) for name, value in module.state_dict().items()})


def assigned(module: nn.Module, names: Sequence[str]) -> None:
    module.load_state_dict({name: value + _noise(value) for name, value in module.state_dict().items()}, assign=True)


CHANGES: list[Change] = [fused_step, data_written, data_replaced, in_inference_mode, by_numpy, loaded, assigned]


class Lora(nn.Module):
    """An adapter around a Linear: its weight and bias are the base's, and not what it computes."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.down = nn.Linear(base.in_features, 3, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(3, base.out_features, bias=False, dtype=base.weight.dtype)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def adapter(module: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        room, _, last = name.rpartition(".")
        linear: Any = module.get_submodule(name)
        setattr(module.get_submodule(room), last, Lora(linear))


def merged_adapter(module: nn.Module, names: Sequence[str]) -> None:
    """Behind a forward pass with the adapter, as `merge_and_unload` leaves it."""
    for name in names:
        linear: Any = module.get_submodule(name)
        lora = Lora(linear)
        linear.weight.data += lora.up.weight.data @ lora.down.weight.data


def hooks(module: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        module.get_submodule(name).register_forward_hook(lambda module, given, out: out * out.cos())


def parametrized(module: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        parametrize.register_parametrization(module.get_submodule(name), "weight", Doubled())


FORMS: list[Change] = [adapter, merged_adapter, hooks, parametrized]
