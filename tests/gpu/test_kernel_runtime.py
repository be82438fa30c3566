"""How the kernels live with the rest of a CUDA program: streams, devices, graphs, no synchronisation, torch.compile."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from gpu_cases import MAIN, Case, Variant, differentiable, drawn, each_dtype, each_lived, each_with_backward, kernel
from torch import Tensor

from longreel.layout import PlannedLayout
from longreel.testing.cases.case import Inputs
from longreel.testing.determinism import same_bits
from longreel.testing.runner import Recorder, low_level

Tensors = tuple[Tensor, ...]


@pytest.fixture
def no_sync() -> Iterator[None]:
    """Inside, whatever waits for the device raises; the fixture's user warms up first, where a first call compiles."""
    yield
    torch.cuda.set_sync_debug_mode("default")


def outputs(variant: Variant, inputs: Inputs) -> Tensors:
    """Of one call, and what it changed in place."""
    with torch.no_grad():
        args = variant.spec.lower(**inputs)
        return (*low_level(variant)(*args), *(getattr(args, name) for name in variant.spec.mutates))


def copied(variant: Variant, inputs: Inputs) -> Inputs:
    """The same values in fresh memory, copied on the current stream."""
    return {**inputs, MAIN[variant.op]: inputs[MAIN[variant.op]].clone()}


def same(got: Tensors, expected: Tensors) -> bool:
    return all(same_bits(a, b) for a, b in zip(got, expected, strict=True))


@each_lived
@each_dtype
def test_the_same_bits_every_time(variant: Variant, case: Case, dtype: torch.dtype) -> None:
    inputs = drawn(case, dtype)
    first = kernel(variant, inputs).everything
    for _ in range(30):
        again = kernel(variant, inputs).everything
        assert all(same_bits(again[name], value) for name, value in first.items())


@each_lived
def test_no_synchronisation(variant: Variant, case: Case, no_sync: None) -> None:
    inputs = drawn(case)
    kernel(variant, inputs)
    leaves = [inputs[name].requires_grad_() for name in differentiable(variant, inputs)]
    arguments = variant.spec.lower(**inputs)
    torch.cuda.set_sync_debug_mode("error")
    made = low_level(variant)(*arguments)
    if leaves:
        torch.autograd.grad(made[0], leaves, torch.ones_like(made[0]))


@each_lived
def test_another_stream(variant: Variant, case: Case) -> None:
    """The kernel waits for what its own stream does before it, and for nothing else."""
    inputs = drawn(case)
    expected = outputs(variant, inputs)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        # fills the stream's memory pool: a fresh allocation may wait for the device
        outputs(variant, copied(variant, inputs))
        stream.synchronize()
        torch.cuda._sleep(50_000_000)
        got = outputs(variant, copied(variant, inputs))
    assert not stream.query(), "the call waited for the device"
    stream.synchronize()
    assert same(got, expected)


@each_with_backward
def test_a_backward_on_another_stream(variant: Variant, case: Case) -> None:
    """Gradients follow the stream that the forward pass ran on."""
    inputs = drawn(case)
    expected = kernel(variant, inputs).grads
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        got = kernel(variant, copied(variant, inputs)).grads
    stream.synchronize()
    assert all(same_bits(got[name], value) for name, value in expected.items())


@each_lived
def test_several_streams_at_once(variant: Variant, case: Case) -> None:
    """Calls that share the device end, and do not disturb one another."""
    inputs = drawn(case, frames=10 * case.frames if case.name == "tower" else None)
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


@each_lived
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_tensors_device_is_used(variant: Variant, case: Case) -> None:
    """Whatever the current device is; and it stays the current one."""
    here, there = (kernel(variant, drawn(case, device=f"cuda:{index}")).everything for index in (0, 1))
    assert torch.cuda.current_device() == 0
    assert all(value.device == torch.device("cuda:1") for value in there.values())
    assert all(same_bits(value.to("cuda:0"), here[name]) for name, value in there.items())


def captured(call: Callable[[], Tensors]) -> tuple[torch.cuda.CUDAGraph, Tensors]:
    """`call`, warmed up on a stream of its own, as a graph; and the tensors that a replay fills."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = call()
    return graph, made


@each_lived
def test_cuda_graph(variant: Variant, case: Case) -> None:
    """Captured once, replayed on new values in the same memory."""
    inputs = drawn(case)
    graph, made = captured(lambda: outputs(variant, inputs))
    for seed in range(3):
        torch.manual_seed(seed)
        inputs[MAIN[variant.op]].copy_(torch.randn_like(inputs[MAIN[variant.op]]))
        graph.replay()
        assert same(made, outputs(variant, inputs))


@each_with_backward
def test_cuda_graph_of_the_backward(variant: Variant, case: Case) -> None:
    with Recorder() as recorder:
        kernel(variant, drawn(case))
    op, args, _ = next(call for call in recorder.calls if "_backward" in call[0].name())
    args = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)

    @torch.no_grad()
    def backward() -> Tensors:
        made = op(*args)
        return made if isinstance(made, tuple) else (made,)

    graph, made = captured(backward)
    for factor in (1.0, -0.5, 2.0):
        for given in args:
            if isinstance(given, Tensor) and given.is_floating_point():
                given.mul_(factor)
        graph.replay()
        assert same(made, backward())


@each_lived
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_compiles_whole(variant: Variant, case: Case, grad: bool) -> None:
    """By inductor in one graph, to the same bits, gradients too."""
    if grad and variant.spec.backward is None:
        pytest.skip("no kernel of it has a gradient")
    inputs = drawn(case)
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor | PlannedLayout)}
    options: dict[str, Any] = {name: value for name, value in inputs.items() if name not in tensors}
    leaves = [inputs[name].requires_grad_() for name in differentiable(variant, inputs)] if grad else []

    def call(given: dict[str, Any]) -> Any:
        made = variant.spec.public(**given, **options, backend=variant.backend)
        if made is None:
            return tuple(given[name] for name in variant.spec.mutates)
        return (made,) if isinstance(made, Tensor) else tuple(t for t in made if t is not None)

    def results(function: Callable[[dict[str, Any]], Any]) -> Tensors:
        made = function(tensors)
        return (*made, *torch.autograd.grad(made[0], leaves, torch.ones_like(made[0]))) if leaves else made

    torch._dynamo.reset()
    assert same(results(torch.compile(call, fullgraph=True)), results(call))
