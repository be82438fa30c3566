"""Every argument of every op against values of the wrong kind: one line that names it, and nothing computed. No op is named."""

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from longreel.backends import BackendError
from longreel.ops.registry import OPS
from longreel.testing.cases import corners
from longreel.testing.cases.case import Case
from longreel.testing.determinism import same_bits
from longreel.testing.runner import Recorder, prepare

pytestmark = pytest.mark.fast

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    NESTED = torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)])

# Wrong for every argument, but for those whose annotation has the word.
WRONG: dict[str, tuple[Any, str | None]] = {
    "an object": (object(), None),
    "a numpy array": (np.zeros((2, 3), np.float32), None),
    "a list of numbers": ([1.0, 2.5, 3.0], None),
    "a string": ("nonsense", None),
    "a complex number": (1 + 2j, None),
    "a fraction": (2.5, "float"),
    "not a number": (float("nan"), None),
    "infinity": (float("inf"), None),
    "beyond every float": (10**400, None),
    "beyond 64 bits": (2**63, "float"),
    "a class": (Tensor, None),
    "a boolean": (True, "bool"),
    "a 0-d tensor": (torch.tensor(2.0), None),
    "a nested tensor": (NESTED, None),
    "a jagged tensor": (torch.nested.nested_tensor([torch.zeros(2, 3)], layout=torch.jagged), None),
    "a sparse tensor": (torch.eye(3).to_sparse(), None),
    "a complex tensor": (torch.zeros(2, 3, 4, dtype=torch.complex64), None),
    "a tensor of bytes": (torch.zeros(2, 3, 4, dtype=torch.uint8), None),
}


def first(op: str) -> Case:
    return next(case for case in corners(op).cases() if case.fast)


def calls() -> Iterator[Any]:
    for op, spec in OPS.items():
        for name, parameter in inspect.signature(spec.public).parameters.items():
            for kind, (value, excepted) in WRONG.items():
                if excepted is None or excepted not in str(parameter.annotation):
                    yield pytest.param(op, name, value, id=f"{op}-{name}-{kind}")


@pytest.mark.parametrize(("op", "name", "value"), [*calls()])
def test_wrong_value_is_named(op: str, name: str, value: Any) -> None:
    inputs = prepare(first(op).inputs(), torch.float32) | {name: value}
    allowed = (TypeError, ValueError, BackendError) if name == "backend" else (TypeError, ValueError)
    with Recorder() as recorder, pytest.raises(allowed) as caught:
        OPS[op].public(**inputs)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert len(message) < 240
    assert not recorder.calls


@pytest.mark.parametrize(("op", "dtype"), [(op, dtype) for op in OPS for dtype in (torch.bool, torch.int32)])
def test_dtype_is_refused_under_autocast_too(op: str, dtype: torch.dtype) -> None:
    """Autocast would make floating numbers of them."""
    inputs = prepare(first(op).inputs(), torch.float32)
    for name in [name for name, value in inputs.items() if isinstance(value, Tensor) and value.is_floating_point()]:
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match=f"{name} is {dtype}; allowed"):
            OPS[op].public(**inputs | {name: inputs[name].to(dtype)})


@pytest.mark.parametrize("op", OPS)
def test_numbers_of_numpy_are_numbers(op: str) -> None:
    """Sizes as numpy's integers, scales as its floats; pairs as lists."""

    def as_numpy(value: Any) -> Any:
        if isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return np.int64(value) if isinstance(value, int) else np.float32(value)
        return [as_numpy(size) for size in value] if isinstance(value, tuple) else value

    for case in corners(op).cases():
        plain = prepare(case.inputs(), torch.float32)
        given = {name: as_numpy(value) for name, value in plain.items()}
        if all(given[name] is value for name, value in plain.items()):
            continue
        if any(isinstance(value, float) and np.float32(value) != value for value in plain.values()):
            continue
        for got, expected in zip(tensors(OPS[op].public(**given)), tensors(OPS[op].public(**plain)), strict=True):
            assert same_bits(got, expected), case.name


def tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for t in result or () if t is not None]
