"""The op contract, graphs: torch.library, torch.compile, autocast."""

from typing import Any

import pytest
import torch
from contract import called, differentiable, fast_cases, flat, over_variants
from torch import Tensor

from longreel.layout import PlannedLayout
from longreel.testing.cases.case import Inputs
from longreel.testing.determinism import same_bits
from longreel.testing.runner import Recorder, Variant, prepare, variants

ALL_OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@over_variants(("kernel",))
def test_opcheck(variant: Variant) -> None:
    """Every low-level call that the public function makes, forward and backward."""
    for case in fast_cases(variant.op):
        for grad in dict.fromkeys([(), differentiable(variant.op, case.inputs())]):
            inputs = prepare(case.inputs(), torch.float32, variant.device, grad)
            with Recorder() as recorder:
                outputs = flat(called(variant.op, inputs, variant.backend))
                if grad:
                    sum(t.sum() for t in outputs).backward()
            assert len(recorder.calls) == (2 if grad else 1)
            for op, args, _ in recorder.calls:
                wants = bool(grad) and "_backward" not in op.name()
                again = tuple(
                    a.detach().requires_grad_(wants and a.is_floating_point()) if isinstance(a, Tensor) else a
                    for a in args
                )
                torch.library.opcheck(op, again, test_utils=ALL_OPCHECKS)


def compiled(variant: Variant, options: dict[str, Any], backend: str = "aot_eager", **settings: Any) -> Any:
    def call(tensors: dict[str, Any]) -> list[Tensor]:
        return flat(called(variant.op, tensors | options, variant.backend))

    torch._dynamo.reset()
    return torch.compile(call, fullgraph=True, backend=backend, **settings), call


def split(inputs: Inputs) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a graph takes (tensors, and layouts that are tensors), and what is constant in it."""
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor | PlannedLayout)}
    return tensors, {name: value for name, value in inputs.items() if name not in tensors}


def same_with_grads(variant: Variant, got: Any, expected: Any, tensors: dict[str, Any], context: str) -> None:
    """Outputs and gradients of two callables on the same tensors agree to rounding."""
    wanted = [tensors[name] for name in differentiable(variant.op, tensors) if tensors[name].requires_grad]
    results = []
    for function in (got, expected):
        outputs = function(tensors)
        grads = torch.autograd.grad(sum(t.square().sum() for t in outputs), wanted) if wanted else ()
        results.append([*outputs, *grads])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6, msg=lambda m: f"{context}: {m}")


@over_variants()
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_compiles_whole(variant: Variant, grad: bool) -> None:
    """fullgraph, static shapes."""
    for case in fast_cases(variant.op):
        wanted = differentiable(variant.op, case.inputs()) if grad else ()
        inputs = prepare(case.inputs(), torch.float32, variant.device, wanted)
        tensors, options = split(inputs)
        same_with_grads(variant, *compiled(variant, options), tensors, case.name)


@over_variants()
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_compiles_once_for_any_number_of_frames(variant: Variant, grad: bool) -> None:
    if variant.backend == "reference" and not grad:
        pytest.skip("the reference's graph is inlined: the one with gradients holds the one without")
    # To keep and to look up what PyTorch's own operations make of symbolic sizes takes longer than to ask them again.
    cached = variant.backend != "reference"
    for case in fast_cases(variant.op):
        wanted = differentiable(variant.op, case.inputs()) if grad else ()
        function = None
        for frames in (7, 5, 9):  # the first makes no two tables of a layout equally long, which would be compiled in
            inputs = prepare(case.inputs(frames), torch.float32, variant.device, wanted)
            tensors, options = split(inputs)
            if function is None:
                function = compiled(variant, options, dynamic=True)
                with torch._dynamo.config.patch(fake_tensor_cache_enabled=cached):
                    same_with_grads(variant, *function, tensors, case.name)
            else:
                with torch.compiler.set_stance("fail_on_recompile"):
                    same_with_grads(variant, *function, tensors, f"{case.name}, {frames} frames")


@over_variants()
def test_inductor(variant: Variant) -> None:
    """The first backend of the table through the default compiler, with gradients."""
    if variant != variants(variant.op)[0]:
        return
    case = fast_cases(variant.op)[0]
    wanted = differentiable(variant.op, case.inputs())
    tensors, options = split(prepare(case.inputs(), torch.float32, variant.device, wanted))
    same_with_grads(variant, *compiled(variant, options, "inductor"), tensors, case.name)


@over_variants()
def test_autocast(variant: Variant) -> None:
    """float32 inputs under autocast give what their bfloat16 copies give; gradients arrive in float32; float64 stays."""
    for case in fast_cases(variant.op):
        grad = differentiable(variant.op, case.inputs())
        wide = prepare(prepare(case.inputs(), torch.bfloat16), torch.float32, variant.device, grad)
        # What is changed in place keeps its dtype.
        kept = torch.float32 if variant.spec.mutates else torch.bfloat16
        narrow = prepare(prepare(case.inputs(), torch.bfloat16), kept, variant.device)
        with torch.autocast(variant.device, torch.bfloat16):
            got = flat(called(variant.op, wide, variant.backend))
        expected = flat(called(variant.op, narrow, variant.backend))
        assert all(same_bits(a, b) for a, b in zip(got, expected, strict=True))
        if grad:
            sum(t.float().sum() for t in got).backward()
        assert all(wide[name].grad.dtype is torch.float32 for name in grad)
        if variant.backend == "reference":
            with torch.autocast(variant.device, torch.bfloat16):
                exact = called(variant.op, prepare(case.inputs(), torch.float64, variant.device), "reference")
            assert all(t.dtype is torch.float64 for t in flat(exact))
