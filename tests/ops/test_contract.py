"""The op contract: what every op of the registry holds on every backend this machine has. No op is named here.

The cases are in longreel/testing/cases/<op>.py. The truth is the reference in float64 on the rounded inputs, the yardstick the
reference in the dtype itself (plain PyTorch).
"""

from functools import cache
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from longreel import BackendError, _native
from longreel.layout import PlannedLayout
from longreel.ops.registry import OPS
from longreel.testing import assert_deterministic, check, far, hour, poison
from longreel.testing.cases import corners
from longreel.testing.cases.case import BadCase, Case, Inputs, normal
from longreel.testing.determinism import same_bits
from longreel.testing.runner import (
    DTYPES,
    Recorder,
    Run,
    Variant,
    Yardstick,
    layouts,
    names,
    of_variant,
    outputs_of,
    prepare,
    run,
    variants,
    yardstick,
)

CASES: dict[str, list[Case]] = {op: corners(op).cases() for op in OPS}
SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
# How far two results may differ that should be one.
TIGHT = {torch.float32: 1e-5, torch.bfloat16: 0.0}
ALL_OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def marked(variant: Variant, *more: Any) -> list[Any]:
    return [*more, pytest.mark.gpu] if variant.device == "cuda" else [*more]


KINDS = ("kernel", "composition", "reference")
OURS = ("kernel", "reference")


def over_variants(
    kinds: tuple[str, ...] = OURS, *, isas: bool = False, patches: bool = False, gradients: bool = False
) -> Any:
    """Parametrise over variants of these kinds; with `patches` of ops on patches, on the CPU; with `gradients` of ops that have
    one."""
    found = [
        variant
        for op in OPS
        if OPS[op].differentiable or not gradients
        for variant in variants(op, isas, kinds)
        if not (patches and (variant.device != "cpu" or "patches" not in names(op)[0]))
    ]
    return pytest.mark.parametrize("variant", [pytest.param(v, id=str(v), marks=marked(v)) for v in found])


def over(
    kinds: tuple[str, ...] = KINDS,
    *,
    isas: bool = False,
    fast_cases: bool = False,
    dtypes: Any = DTYPES,
    gradients: bool = False,
) -> Any:
    """Parametrise over variant, dtype and case that it serves. `make check` runs fast cases in float32 and bfloat16, kernels
    with the best instruction set."""
    params, quick = [], (None, *_native.cpu_isas()[-1:])
    for variant in (v for op in OPS if OPS[op].differentiable or not gradients for v in variants(op, isas, kinds)):
        for dtype in (dtype for dtype in dtypes if dtype in variant.row.dtypes):
            for case in CASES[variant.op]:
                if (case.fast or not fast_cases) and case.name not in refused(variant):
                    is_fast = case.fast and dtype is not torch.float16 and variant.isa in quick
                    fast = [pytest.mark.fast] if is_fast else []
                    name = f"{variant}-{SHORT[dtype]}-{case.name}"
                    params.append(pytest.param(variant, dtype, case, id=name, marks=marked(variant, *fast)))
    return pytest.mark.parametrize(("variant", "dtype", "case"), params)


def refused(variant: Variant) -> dict[str, str]:
    """The cases that the backend does not serve, with a word of the reason."""
    return getattr(corners(variant.op), "REFUSED", {}).get(variant.backend, {})


def narrow(variant: Variant) -> torch.dtype:
    """The first dtype that the backend takes."""
    return variant.row.dtypes[0]


def differentiable(op: str, inputs: Inputs) -> tuple[str, ...]:
    """Of the inputs, those that have a gradient."""
    return tuple(name for name in OPS[op].differentiable if name in inputs)


def fast_cases(op: str) -> list[Case]:
    return [case for case in CASES[op] if case.fast]


@cache
def of_case(op: str, dtype: torch.dtype, case: Case, through: tuple[str, ...] | None = None) -> Yardstick:
    inputs = case.inputs()
    return yardstick(op, prepare(inputs, dtype), dtype, differentiable(op, inputs), through)


def kernel_run(variant: Variant, inputs: Inputs, grad: tuple[str, ...] | None = None, through: Any = None) -> Run:
    """One call of the variant on inputs that lie on its device, and its backward; None: every gradient there is."""
    wanted = differentiable(variant.op, inputs) if grad is None else grad
    return run(variant.op, of_variant(variant), inputs, wanted, through, variant.isa)


# Values and gradients


@over(isas=True)
def test_equals_the_reference(variant: Variant, dtype: torch.dtype, case: Case) -> None:
    """Outputs and gradients under the error budget, on poisoned memory; inputs unchanged, outputs apart, shapes of the schema."""
    inputs = prepare(case.inputs(), dtype, variant.device)
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    before = {name: value.clone() for name, value in tensors.items()}
    with poison():
        got = kernel_run(variant, inputs)
    of_case(variant.op, dtype, case).check(got.everything)
    for name, value in tensors.items():
        assert same_bits(value, before[name]), f"{name} was changed in place"
    for name, grad in got.grads.items():
        assert (grad.dtype, grad.shape) == (inputs[name].dtype, inputs[name].shape), f"grad_{name}"
    stores = [t.untyped_storage().data_ptr() for t in (*tensors.values(), *got.everything.values()) if t.numel()]
    assert len(set(stores)) == len(stores), "an output shares memory with another, or with an input"


@over(dtypes=DTYPES[:2])
def test_public_function(variant: Variant, dtype: torch.dtype, case: Case) -> None:
    """The public function returns what its reference backend returns: structure, shapes, dtypes, values."""
    inputs = prepare(case.inputs(), dtype, variant.device)
    # Before the call, which may change them.
    same, wide = prepare(inputs, dtype), prepare(inputs, torch.float64)
    got = called(variant.op, inputs, variant.backend)
    expected, truth = called(variant.op, same, "reference"), called(variant.op, wide, "reference")
    assert type(got) is type(expected)
    for name, value, same, wide in zip(fields(got), flat(got), flat(expected), flat(truth), strict=True):
        assert (value.shape, value.dtype, value.device) == (same.shape, same.dtype, same.device), name
        check(name, value, wide, same, dtype)


@over(fast_cases=True, dtypes=DTYPES[:2], gradients=True)
def test_only_wanted_gradients(variant: Variant, dtype: torch.dtype, case: Case) -> None:
    """Every set of inputs that want a gradient, through every set of outputs that pass one: right, and nothing else made."""
    inputs = prepare(case.inputs(), dtype, variant.device)
    every = differentiable(variant.op, inputs)
    leaves = prepare(inputs, dtype, variant.device, every)
    outputs = outputs_of(variant, leaves)
    passing = tuple(name for name, output in zip(names(variant.op)[1], outputs, strict=True) if output.requires_grad)
    for through in subsets(passing):
        expected = of_case(variant.op, dtype, case, through)
        for wanted in subsets(every):
            with poison(), Recorder() as recorder:
                got = kernel_run(variant, inputs, wanted, through)
            assert set(got.grads) == set(wanted)
            expected.check({f"grad_{name}": grad for name, grad in got.grads.items()})
            for op, _, made in recorder.calls:
                if "_backward" in op.name():
                    sizes = [t.numel() for t in (made if isinstance(made, tuple) else (made,))]
                    expected_number = len(made_for(variant.op, wanted))
                    assert sum(size > 0 for size in sizes) == expected_number, f"{op} made {sizes} for {wanted}"


def made_for(op: str, wanted: tuple[str, ...]) -> set[str]:
    """The gradients that come with those wanted."""
    return {*wanted, *(name for group in OPS[op].gradients_together if {*group} & {*wanted} for name in group)}


def subsets(items: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [chosen for size in range(1, len(items) + 1) for chosen in combinations(items, size)]


def fields(result: Any) -> list[str]:
    if isinstance(result, Tensor):
        return ["output"]
    listed = getattr(result, "_fields", None) or [f"output {i}" for i in range(len(result))]
    return [name for name, value in zip(listed, result, strict=True) if value is not None]


def called(op: str, inputs: Inputs, backend: str) -> Any:
    """What the public function returns; where it changes arguments in place, those, as they are then."""
    result = OPS[op].public(**inputs, backend=backend)
    return [inputs[name].clone() for name in OPS[op].mutates] if OPS[op].mutates else result


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [value for value in result if value is not None]


@over_variants(KINDS)
def test_graph_is_clean(variant: Variant) -> None:
    """What has no gradient says so; a frozen call leaves no graph; a second derivative is refused, not wrong."""
    case = fast_cases(variant.op)[0]
    inputs = prepare(case.inputs(), narrow(variant), variant.device)
    assert not any(t.requires_grad for t in flat(called(variant.op, inputs, variant.backend)))
    every = differentiable(variant.op, inputs)
    leaves = prepare(inputs, narrow(variant), variant.device, every)
    outputs = outputs_of(variant, leaves)
    reference = variant.spec.reference(*variant.spec.lower(**prepare(leaves, narrow(variant), "cpu", every)))
    assert [t.requires_grad for t in outputs] == [t.requires_grad for t in reference]
    with torch.no_grad():
        assert not any(t.requires_grad for t in outputs_of(variant, leaves))
    if variant.backend != "reference" and every:
        wanted = [leaves[name] for name in every]
        loss = sum(t.double().square().sum() for t in outputs if t.requires_grad)
        grads = torch.autograd.grad(loss, wanted, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(sum(g.sum() for g in grads), wanted)


# Memory


@over(isas=True, fast_cases=True, dtypes=DTYPES[:2])
def test_any_strides(variant: Variant, dtype: torch.dtype, case: Case) -> None:
    """Every tensor argument under every layout; upstream gradients that are expanded and transposed."""
    inputs = prepare(case.inputs(), dtype, variant.device)
    for name, value in list(inputs.items()):
        if not isinstance(value, Tensor) or "cu_seqlens" in name:
            continue
        for layout, view in layouts(value).items():
            moved = {**inputs, name: view}
            expected = (
                of_case(variant.op, dtype, case) if layout != "repeated" else of_repeated(variant.op, dtype, case, name)
            )
            try:
                expected.check(kernel_run(variant, moved).everything)
            except AssertionError as error:
                raise AssertionError(f"{name} {layout}: {error}") from None
    for name, value in inputs.items():
        if "cu_seqlens" in name:
            stepped = value.new_empty(2 * value.numel())[::2].copy_(value)
            for given in (stepped, value.int()):
                of_case(variant.op, dtype, case).check(kernel_run(variant, {**inputs, name: given}).everything)


@cache
def of_repeated(op: str, dtype: torch.dtype, case: Case, name: str) -> Yardstick:
    rounded = prepare(case.inputs(), dtype)
    moved = {**rounded, name: layouts(rounded[name])["repeated"]}
    return yardstick(op, moved, dtype, differentiable(op, rounded))


@over_variants(KINDS[:2], gradients=True)
def test_any_upstream_strides(variant: Variant) -> None:
    """Upstream gradients that are expanded, or transposed."""
    for case in (case for case in fast_cases(variant.op) if case.name not in refused(variant)):
        inputs = prepare(case.inputs(), narrow(variant), variant.device)
        leaves = {name: inputs[name].requires_grad_() for name in differentiable(variant.op, inputs)}
        outputs = [t for t in outputs_of(variant, inputs) if t.requires_grad]
        plain = [torch.full_like(t, 0.5) for t in outputs]
        expected = torch.autograd.grad(outputs, list(leaves.values()), plain, retain_graph=True)
        for upstream in (
            [t.new_full((), 0.5).expand(t.shape) for t in outputs],
            [t.transpose(0, -1).contiguous().transpose(0, -1) for t in plain],
        ):
            got = torch.autograd.grad(outputs, list(leaves.values()), upstream, retain_graph=True)
            for name, grad, same in zip(leaves, got, expected, strict=True):
                torch.testing.assert_close(
                    grad,
                    same,
                    rtol=TIGHT[narrow(variant)],
                    atol=TIGHT[narrow(variant)],
                    msg=lambda m, n=name: f"grad_{n}: {m}",
                )


@over_variants(("kernel",), isas=True)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=SHORT.get)
def test_strides_beyond_32_bits(variant: Variant, dtype: torch.dtype) -> None:
    """Each floating argument strided so that its last entry lies beyond 2^31 elements."""
    for case in fast_cases(variant.op):
        inputs = prepare(case.inputs(), dtype, variant.device)
        for name, value in inputs.items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            for dim in range(value.dim() - 1):
                if value.shape[dim] > 1:
                    got = kernel_run(variant, {**inputs, name: far(value, dim)})
                    of_case(variant.op, dtype, case).check(got.everything)


# Names have one meaning in every op: where a tensor of a name has its frames.
FRAME_AXIS = {"patches": 0, "grad_patches": 0, "content": 0, "output": 0, "context": 1, "weights": 1, "lse": 1}


@over_variants(("kernel",), patches=True)
def test_hour_of_patches(variant: Variant) -> None:
    """[6000, 256, 1408] patches pass 2^31 elements: the last frames come out right."""
    check_hour(variant, ())


@over_variants(("kernel",), patches=True)
def test_hour_of_gradients(variant: Variant) -> None:
    """So does their gradient, the one tensor here that is all memory (4.3 GB)."""
    check_hour(variant, ("patches",))


def check_hour(variant: Variant, wanted: tuple[str, ...]) -> None:
    frames, dtype = 2, torch.bfloat16
    case = next(case for case in CASES[variant.op] if case.name == "wide")
    small = prepare(
        {**case.inputs(frames), "patches": normal(torch.Generator().manual_seed(1), frames, 256, 1408)}, dtype
    )
    expected = yardstick(variant.op, small, dtype, ("patches",))
    got = kernel_run(variant, {**small, "patches": hour(small["patches"])}, wanted)
    expected.check(
        {
            name: value.narrow(FRAME_AXIS[name], value.shape[FRAME_AXIS[name]] - frames, frames)
            for name, value in got.everything.items()
        }
    )


# Determinism


@over(KINDS[:2], isas=True, fast_cases=True, dtypes=DTYPES[:2])
def test_deterministic(variant: Variant, dtype: torch.dtype, case: Case) -> None:
    """Bit for bit over runs and thread counts, forward and backward."""
    inputs = prepare(case.inputs(frames=41), dtype, variant.device)
    assert_deterministic(lambda: kernel_run(variant, inputs).everything)


# torch.library, torch.compile, autocast


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
    for case in fast_cases(variant.op):
        wanted = differentiable(variant.op, case.inputs()) if grad else ()
        function = None
        for frames in (7, 5, 9):  # the first makes no two tables of a layout equally long, which would be compiled in
            inputs = prepare(case.inputs(frames), torch.float32, variant.device, wanted)
            tensors, options = split(inputs)
            if function is None:
                function = compiled(variant, options, dynamic=True)
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


# Bad input

REFUSED = [
    (variant, case)
    for op in OPS
    for variant in variants(op, kinds=KINDS)
    for case in CASES[op]
    if case.name in refused(variant)
]


@pytest.mark.parametrize(
    ("variant", "case"), [pytest.param(v, c, id=f"{v}-{c.name}", marks=marked(v)) for v, c in REFUSED]
)
@pytest.mark.fast
def test_refused_with_the_reason(variant: Variant, case: Case) -> None:
    reason = refused(variant)[case.name]
    with pytest.raises(BackendError, match=f"backend='{variant.backend}' .*{reason}.*; could run here: .*reference"):
        variant.spec.public(**prepare(case.inputs(), narrow(variant), variant.device), backend=variant.backend)


BAD = [(variant, bad) for op in OPS for variant in variants(op, kinds=KINDS) for bad in corners(op).bad_cases()]


@pytest.mark.parametrize(("variant", "bad"), [pytest.param(v, b, id=f"{v}-{b.name}", marks=marked(v)) for v, b in BAD])
@pytest.mark.fast
def test_bad_input(variant: Variant, bad: BadCase) -> None:
    """One clear line before any launch: what was given, what is allowed."""
    with Recorder() as recorder, pytest.raises(bad.error, match=bad.says) as caught:
        variant.spec.public(**bad.inputs, backend=variant.backend)
    assert "\n" not in str(caught.value)
    assert not recorder.calls
