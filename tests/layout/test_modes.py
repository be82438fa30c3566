"""Plans are kept by value: made under one mode, used under another, copied, shared by threads and forks, they are the same."""

import copy
import io
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import fields
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from longreel import PlannedLayout, VideoLayout, block_sparse_attention
from longreel.ops.flash.pieces import calls

pytestmark = pytest.mark.fast

_TEXT = count(3)


def new_layout() -> VideoLayout:
    """One that no test planned before."""
    return VideoLayout.voco(frames=3, vision=4, voco=2, prefix=1, text=next(_TEXT))


def inputs(layout: VideoLayout) -> Tensor:
    return torch.randn(1, layout.length, 2, 8, generator=torch.Generator().manual_seed(0))


def trained(layout: VideoLayout | PlannedLayout, like: VideoLayout) -> Tensor:
    q = inputs(like).requires_grad_()
    block_sparse_attention(q, q, q, layout).square().sum().backward()
    assert q.grad is not None
    return q.grad


def right(layout: VideoLayout) -> Tensor:
    """The gradient by a dense mask."""
    q = inputs(layout).double().requires_grad_()
    mask = torch.from_numpy(layout.dense_mask())
    x = q.transpose(1, 2)
    torch.nn.functional.scaled_dot_product_attention(x, x, x, mask).square().sum().backward()
    assert q.grad is not None
    return q.grad.float()


def attend(layout: VideoLayout | PlannedLayout, like: VideoLayout, **options: Any) -> Tensor:
    q = inputs(like)
    return block_sparse_attention(q, q, q, layout, **options)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "fake": FakeTensorMode,
    "meta-device": lambda: torch.device("meta"),
}

# A function transform runs what it is given.
TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "grad": lambda f, q: torch.func.grad(lambda x: f(x).sum())(q),
    "vjp": lambda f, q: torch.func.vjp(f, q)[0],
    "jvp": lambda f, q: torch.func.jvp(f, (q,), (q,)),
    "vmap": lambda f, q: torch.func.vmap(f)(q[None]),
    "make_fx": lambda f, q: make_fx(f)(q),
}


def ordinary(plan: PlannedLayout) -> bool:
    tensors = [t for f in fields(plan) if isinstance(t := getattr(plan, f.name), Tensor)]
    return len(tensors) == 9 and not any(
        t.is_inference() or isinstance(t, FakeTensor) or torch._C._functorch.is_functorch_wrapped_tensor(t)
        for t in tensors
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", [None, "reference"])
def test_first_used_in_a_mode_then_trained(mode: str, backend: str | None) -> None:
    layout = new_layout()
    q = inputs(layout)
    with MODES[mode]() as entered:
        if mode == "fake":
            q = entered.from_tensor(q)
        out = block_sparse_attention(q, q, q, layout, backend=backend)
    assert isinstance(out, FakeTensor) == (mode == "fake")
    assert torch.allclose(trained(layout, layout), right(layout), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_planned_in_a_mode_then_trained(mode: str) -> None:
    layout = new_layout()
    with MODES[mode]():
        plan = layout.to("cpu")
    assert ordinary(plan)
    assert plan.start.device.type == "cpu"
    assert torch.allclose(trained(plan, layout), right(layout), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_planned_in_a_transform_then_trained(transform: str) -> None:
    layout, plans = new_layout(), []

    def f(q: Tensor) -> Tensor:
        plans.append(layout.to("cpu"))
        return q * 2

    TRANSFORMS[transform](f, inputs(layout))
    assert ordinary(plans[0])
    assert torch.allclose(trained(plans[0], layout), right(layout), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("planned", [False, True])
def test_planned_before_a_mode(planned: bool) -> None:
    """A plan of ordinary tensors under fake ones: shapes come out, and the plan stays as it is."""
    layout = new_layout()
    plan: Any = layout.to("cpu") if planned else layout
    expected = attend(plan, layout)
    with FakeTensorMode() as mode:
        q = mode.from_tensor(torch.randn(2, layout.length, 2, 8))
        out = block_sparse_attention(q, q, q, plan)
    assert isinstance(out, FakeTensor)
    assert out.shape == (2, layout.length, 2, 8)
    # Fake tensors are used outside of their mode too.
    assert isinstance(block_sparse_attention(q, q, q, plan), FakeTensor)
    with torch.inference_mode():
        assert torch.equal(attend(plan, layout), expected)
    assert torch.equal(attend(plan, layout), expected)


def test_left_padding_from_inference_mode_trains() -> None:
    layout = new_layout()
    with torch.inference_mode():
        plan = layout.to("cpu").with_start(torch.zeros(1, dtype=torch.int32))
    assert torch.allclose(trained(plan, layout), right(layout), rtol=1e-4, atol=1e-4)


def test_calls_of_flash_are_ordinary() -> None:
    layout = new_layout()
    with torch.inference_mode():
        made = calls(layout, 1, layout.length, 7, torch.device("cpu"))
    assert not any(t.is_inference() for call in made for t in call if isinstance(t, Tensor))


@pytest.mark.slow
def test_planned_inside_a_compiled_graph() -> None:
    layout = new_layout()

    def f(q: Tensor) -> Tensor:
        return block_sparse_attention(q, q, q, layout.to("cpu"))

    torch.testing.assert_close(torch.compile(f, backend="eager")(inputs(layout)), attend(layout, layout))
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"pass what layout.to\(device\) gives into a compiled graph"):
        torch.compile(f, backend="eager", fullgraph=True)(inputs(layout))


def saved(plan: Any) -> Any:
    file = io.BytesIO()
    torch.save(plan, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "save": saved,
}


@pytest.mark.parametrize("how", COPIES)
def test_copies(how: str) -> None:
    layout = new_layout()
    plan = layout.to("cpu")
    other, planned = COPIES[how](layout), COPIES[how](plan)
    assert other == layout == planned.layout
    assert hash(other) == hash(layout)
    for each in (other, planned, planned.to("cpu"), planned.layout.rows(0, layout.length)):
        assert torch.equal(attend(each, layout), attend(plan, layout))


def test_threads_and_forks() -> None:
    layout = new_layout()
    expected = right(layout)

    def work(i: int) -> bool:
        if i % 2:
            with torch.inference_mode():
                attend(layout, layout)
        return torch.allclose(trained(layout, layout), expected, rtol=1e-4, atol=1e-4)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(16)))
    child = os.fork()
    if child == 0:
        os._exit(0 if bool(attend(layout, layout).isfinite().all()) else 1)
    assert os.waitpid(child, 0)[1] == 0
