"""The distillation loss of VoCo-LLaMA (arXiv 2406.12275): the KL divergence of the teacher's next token from the student's."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits of one chunk: 8 MiB in float32, three or four of these at once.
_CHUNK_LOGITS = 1 << 21


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    student_head: Tensor,
    teacher_head: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """``mean_i KL(p_teacher(i) || p_student(i))`` over the rows i that count, straight from the last hidden states.

    Equal to `torch.nn.functional.kl_div` of both ``log_softmax(head @ hidden / temperature)``, but the logits exist for a few
    rows (or a few words of the vocabulary) at a time only, forward and backward: nothing of ``[S, V]`` is ever held.

    Args:
        student: ``[*, E]`` hidden states before the head, float32, bfloat16 or float16 (float64 for tests).
        teacher: ``[*, Et]`` hidden states of the frozen teacher at the same rows.
        student_head: ``[V, E]`` weight of the student's head, dtype of `student`.
        teacher_head: ``[V, Et]`` weight of the teacher's; None: `student_head`, held constant.
        mask: bool ``[*]``, True for a row that counts; None: all.
        temperature: both logits are divided by it; the loss is not rescaled.

    Returns:
        The loss, a float32 scalar (float64 for float64 input); 0 where no row counts. Gradients reach `student` and
        `student_head` alone; they are computed along with the loss, and one backward pass takes them: a second one raises.

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit.
    """
    given_head = student_head if teacher_head is None else teacher_head
    _check(student, teacher, student_head, given_head, mask, temperature)
    rows = student.reshape(-1, student.shape[-1])
    wide = torch.promote_types(student.dtype, torch.float32)
    counts = rows.new_ones(rows.shape[0], dtype=wide) if mask is None else mask.reshape(-1).to(wide)
    loss: Tensor = _Distillation.apply(
        rows,
        student_head,
        teacher.detach().reshape(-1, teacher.shape[-1]),
        given_head.detach(),
        counts / counts.sum().clamp(min=1),
        1 / temperature,
        torch.is_grad_enabled(),
    )
    return loss


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        head: Tensor,
        teacher: Tensor,
        teacher_head: Tensor,
        share: Tensor,
        scale: float,
        grad: bool,
    ) -> Tensor:
        need_student, need_head = (grad and needed for needed in ctx.needs_input_grad[:2])
        grad_student = torch.empty_like(student) if need_student else None
        # Without rounding between chunks the head's gradient is summed as they come; narrower dtypes take the vocabulary in
        # blocks, all rows at once, and round once.
        summed = need_head and head.dtype == share.dtype
        grad_head = torch.zeros_like(head) if summed else torch.empty_like(head) if need_head else None
        loss = share.new_zeros(())
        # [2, S, 1] each: the largest logit, and the logarithm of the sum over the vocabulary
        norm, teacher_norm = (share.new_empty(2, len(share), 1) for _ in range(2))
        for rows in _spans(len(share), head.shape[0]):
            # [rows, V] each
            log_p, log_t = _logits(student[rows], head, scale), _logits(teacher[rows], teacher_head, scale)
            _normalise(log_p, norm[:, rows])
            _normalise(log_t, teacher_norm[:, rows])
            loss += share[rows].dot(F.kl_div(log_p, log_t, reduction="none", log_target=True).sum(-1))
            if grad_student is None and not summed:
                continue
            slope = _slope(log_p, log_t, share[rows] * scale).to(head.dtype)
            if grad_student is not None:
                torch.mm(slope, head, out=grad_student[rows])
            if summed and grad_head is not None:
                grad_head.addmm_(slope.t(), student[rows])
        if grad_head is not None and not summed:
            for words in _spans(head.shape[0], len(share)):
                # [S, words] each
                log_p = _logits(student, head[words], scale).sub_(norm[0]).sub_(norm[1])
                log_t = _logits(teacher, teacher_head[words], scale).sub_(teacher_norm[0]).sub_(teacher_norm[1])
                torch.mm(_slope(log_p, log_t, share * scale).to(head.dtype).t(), student, out=grad_head[words])
        ctx.grads = grad_student, grad_head
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        if ctx.grads is None:
            raise RuntimeError(
                "distillation_loss: its gradients went with the first backward pass; compute the loss again"
            )
        grads, ctx.grads = ctx.grads, None
        return (*(None if grad is None else grad.mul_(upstream[0]) for grad in grads), *(None,) * 5)


def _logits(rows: Tensor, head: Tensor, scale: float) -> Tensor:
    """[rows, words], in float32 or wider."""
    logits = F.linear(rows, head)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).mul_(scale)


def _normalise(logits: Tensor, norm: Tensor) -> None:
    """Logits become logarithms of probabilities; `norm` receives what was taken off, in the order that keeps small bits."""
    norm[0] = logits.amax(-1, keepdim=True)
    logits -= norm[0]
    norm[1] = logits.exp().sum(-1, keepdim=True).log()
    logits -= norm[1]


def _slope(log_p: Tensor, log_t: Tensor, factor: Tensor) -> Tensor:
    """d KL / d logits of the student, times `factor` of each row; overwrites both."""
    return log_p.exp_().sub_(log_t.exp_()).mul_(factor[:, None])


def _spans(count: int, width: int) -> list[slice]:
    """0 .. count in spans whose `width` logits each fit a chunk."""
    step = max(1, _CHUNK_LOGITS // max(1, width))
    return [slice(begin, min(begin + step, count)) for begin in range(0, count, step)]


def _check(
    student: Tensor, teacher: Tensor, head: Tensor, teacher_head: Tensor, mask: Tensor | None, temperature: float
) -> None:
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(f"student {list(student.shape)} and teacher {list(teacher.shape)} must have the same rows")
    for name, rows, weight in (("student", student, head), ("teacher", teacher, teacher_head)):
        if weight.dim() != 2 or weight.shape[1] != rows.shape[-1]:
            raise ValueError(f"{name}_head must be [V, {rows.shape[-1]}], given {list(weight.shape)}")
        if rows.dtype != weight.dtype or not rows.is_floating_point():
            raise TypeError(f"{name} and its head must have one floating dtype, given {rows.dtype} and {weight.dtype}")
    if head.shape[0] != teacher_head.shape[0]:
        raise ValueError(f"the heads must have one vocabulary, given {head.shape[0]} and {teacher_head.shape[0]} words")
    if mask is not None and (mask.shape != student.shape[:-1] or mask.dtype != torch.bool):
        raise ValueError(f"mask must be bool {list(student.shape[:-1])}, given {mask.dtype} {list(mask.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0")
