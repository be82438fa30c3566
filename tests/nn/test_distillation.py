"""distillation_loss against the plain formula, which holds all logits."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.nn import distillation, distillation_loss
from longreel.testing.budget import check

pytestmark = pytest.mark.fast

ROWS, WIDTH, WORDS = (3, 7), 12, 37


def plain(
    student: Tensor, teacher: Tensor, head: Tensor, teacher_head: Tensor, mask: Tensor | None, temperature: float
) -> Tensor:
    log_p, log_t = (
        F.log_softmax(F.linear(rows, weight).to(torch.promote_types(rows.dtype, torch.float32)) / temperature, -1)
        for rows, weight in ((student, head), (teacher, teacher_head))
    )
    each = F.kl_div(log_p, log_t, reduction="none", log_target=True).sum(-1)
    return each.mean() if mask is None else (each * mask).sum() / mask.sum().clamp(min=1)


def inputs(dtype: torch.dtype, sharp: float = 1.0) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return tuple(
        (sharp * torch.randn(*shape, dtype=torch.float64)).to(dtype)
        for shape in ((*ROWS, WIDTH), (*ROWS, WIDTH + 2), (WORDS, WIDTH), (WORDS, WIDTH + 2))
    )


@pytest.fixture(params=[(1 << 25, 1 << 21), (1 << 10, 1 << 9), (1, 1)], ids=["whole", "few", "single"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "_CHUNK", request.param[0])
    monkeypatch.setattr(distillation, "_BLOCK", request.param[1])


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_equals_the_plain_formula(masked: bool, temperature: float) -> None:
    student, teacher, head, teacher_head = inputs(torch.float64)
    mask = torch.rand(ROWS) < 0.6 if masked else None
    leaves = student.requires_grad_(), head.requires_grad_()
    expected = plain(student, teacher, head, teacher_head, mask, temperature)
    got = distillation_loss(student, teacher, head, teacher_head, mask=mask, temperature=temperature)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(3 * got, leaves), torch.autograd.grad(3 * expected, leaves), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sharp", [1.0, 3.0])
def test_error_budget(dtype: torch.dtype, sharp: float) -> None:
    given = inputs(dtype, sharp)
    results = []
    for function, tensors in (
        (distillation_loss, given),
        (plain, tuple(t.double() for t in given)),
        (plain, given),
    ):
        leaves = [t.clone().requires_grad_() for t in tensors[::2]]
        ordered = leaves[0], tensors[1], leaves[1], tensors[3]
        loss = distillation_loss(*ordered) if function is distillation_loss else plain(*ordered, None, 1.0)
        results.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    for name, got, truth, yardstick in zip(("loss", "student", "head"), *results, strict=True):
        check(name, got, truth, yardstick, dtype)


@pytest.mark.parametrize("trained", [(True, False), (False, True), (False, False)])
def test_gradients_only_where_wanted(trained: tuple[bool, bool]) -> None:
    student, teacher, head, _ = inputs(torch.float32)
    student.requires_grad_(trained[0])
    head.requires_grad_(trained[1])
    loss = distillation_loss(student, teacher[..., :WIDTH], head)
    assert loss.requires_grad == any(trained)
    if any(trained):
        loss.backward()
    assert [t.grad is not None for t in (student, head)] == list(trained)
    with torch.no_grad():
        assert torch.equal(distillation_loss(student, teacher[..., :WIDTH], head), loss)


def test_a_student_that_is_its_teacher_loses_nothing() -> None:
    student, _, head, _ = inputs(torch.float32)
    leaf = student.clone().requires_grad_()
    loss = distillation_loss(leaf, student, head)
    assert loss == 0
    assert torch.autograd.grad(loss, leaf)[0].abs().max() < 1e-7


def test_no_row_counts() -> None:
    student, teacher, head, teacher_head = inputs(torch.float32)
    leaf = student.requires_grad_()
    loss = distillation_loss(leaf, teacher, head, teacher_head, mask=torch.zeros(ROWS, dtype=torch.bool))
    assert loss == 0
    assert not torch.autograd.grad(loss, leaf)[0].any()
    assert distillation_loss(leaf[:0], teacher[:0], head, teacher_head) == 0


def test_a_second_backward_says_so() -> None:
    student, teacher, head, teacher_head = inputs(torch.float32)
    loss = distillation_loss(student.requires_grad_(), teacher, head, teacher_head)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"teacher": torch.zeros(2, 7, 14)}, ValueError, "same rows"),
        ({"student_head": torch.zeros(WORDS, 11)}, ValueError, r"student_head must be \[V, 12\], given \[37, 11\]"),
        ({"teacher_head": torch.zeros(5, 14)}, ValueError, "one vocabulary, given 37 and 5"),
        ({"student": torch.zeros(*ROWS, WIDTH).half()}, TypeError, "one floating dtype"),
        ({"mask": torch.ones(3) > 0}, ValueError, r"mask must be bool \[3, 7\]"),
        ({"temperature": 0.0}, ValueError, "must be above 0"),
        ({"temperature": "a"}, TypeError, "temperature must be a number, given str"),
        ({"teacher": [1.0]}, TypeError, "teacher must be a tensor, given list"),
        ({"mask": [True]}, TypeError, "mask must be a tensor, given list"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], says: str) -> None:
    names = ("student", "teacher", "student_head", "teacher_head")
    arguments = dict(zip(names, inputs(torch.float32), strict=True)) | change
    with pytest.raises(error, match=says):
        distillation_loss(**arguments)  # type: ignore[arg-type]
