"""How the kernels live with the rest of a CUDA program: streams, graphs, no synchronisation, torch.compile."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gpu_cases import Variant, each_kernel, kernel, tower
from torch import Tensor

from longreel.testing.cases import Inputs, Recorder, low_level
from longreel.testing.determinism import same_bits


@pytest.fixture
def no_sync() -> Iterator[None]:
    """Inside, whatever waits for the device raises; the fixture's user warms up first, where a first call compiles."""
    yield
    torch.cuda.set_sync_debug_mode("default")


def outputs(variant: Variant, inputs: Inputs) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return low_level(variant)(*variant.spec.lower(**inputs))


def same(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(same_bits(a, b) for a, b in zip(got, expected, strict=True))


@each_kernel
def test_no_synchronisation(variant: Variant, no_sync: None) -> None:
    inputs = tower(variant)
    kernel(variant, inputs)
    patches = inputs["patches"].requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    made = low_level(variant)(*variant.spec.lower(**inputs))
    torch.autograd.grad(made[0], patches, torch.ones_like(made[0]))


@each_kernel
def test_another_stream(variant: Variant) -> None:
    """The kernel waits for what its own stream does before it, and for nothing else."""
    inputs = tower(variant)
    expected = outputs(variant, inputs)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        # fills the stream's memory pool: a fresh allocation may wait for the device
        outputs(variant, {**inputs, "patches": inputs["patches"].clone()})
        stream.synchronize()
        torch.cuda._sleep(50_000_000)
        late = {**inputs, "patches": inputs["patches"].clone()}
        got = outputs(variant, late)
    assert not stream.query(), "the call waited for the device"
    stream.synchronize()
    assert same(got, expected)


@each_kernel
def test_two_streams_at_once(variant: Variant) -> None:
    """Calls that share the device end, and do not disturb one another."""
    inputs = tower(variant, frames=400)
    expected = outputs(variant, inputs)
    streams = [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    results = []
    for _ in range(5):
        for stream in streams:
            with torch.cuda.stream(stream):
                results.append(outputs(variant, inputs))
    torch.cuda.synchronize()
    assert all(same(got, expected) for got in results)


@each_kernel
def test_cuda_graph(variant: Variant) -> None:
    """Captured once, replayed on new values in the same memory."""
    inputs = tower(variant)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            outputs(variant, inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = outputs(variant, inputs)
    for seed in range(3):
        torch.manual_seed(seed)
        inputs["patches"].copy_(torch.randn_like(inputs["patches"]))
        graph.replay()
        assert same(captured, outputs(variant, inputs))


@each_kernel
def test_cuda_graph_of_the_backward(variant: Variant) -> None:
    with Recorder() as recorder:
        kernel(variant, tower(variant))
    op, args, _ = next(call for call in recorder.calls if "_backward" in call[0].name())
    args = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)

    def backward() -> tuple[Tensor, ...]:
        made = op(*args)
        return made if isinstance(made, tuple) else (made,)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            backward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        with torch.cuda.graph(graph):
            captured = backward()
        for factor in (1.0, -0.5, 2.0):
            for given in args:
                if isinstance(given, Tensor) and given.is_floating_point():
                    given.mul_(factor)
            graph.replay()
            assert same(captured, backward())


@each_kernel
def test_compiles_whole(variant: Variant) -> None:
    inputs = tower(variant)
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    options: dict[str, Any] = {name: value for name, value in inputs.items() if name not in tensors}

    def call(given: dict[str, Tensor]) -> Any:
        return variant.spec.public(**given, **options, backend=variant.backend)

    got, expected = torch.compile(call, fullgraph=True)(tensors), call(tensors)
    if isinstance(got, Tensor):
        got, expected = (got,), (expected,)
    assert same(tuple(got), tuple(expected))
