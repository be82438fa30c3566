"""The distillation loss of VoCo-LLaMA (arXiv 2406.12275): the KL divergence of the teacher's next token from the student's."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Bytes of one model's logits at a time: rows enough to be worth a read of the head's weight.
_CHUNK = 1 << 24
# Bytes of those in float32 at a time, which a cache holds.
_BLOCK = 1 << 21


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
        loss, slope = share.new_zeros(()), share * scale
        # [2, S, 1] each: the largest logit, and the logarithm of the sum over the vocabulary
        norm, teacher_norm = (share.new_empty(2, len(share), 1) for _ in range(2))
        for rows in _spans(len(share), head.shape[0] * head.itemsize, _CHUNK):
            # [rows, V] each
            logits, target = F.linear(student[rows], head), F.linear(teacher[rows], teacher_head)
            for block in _spans(len(logits), head.shape[0] * share.itemsize, _BLOCK):
                at = slice(rows.start + block.start, rows.start + block.stop)
                log_p = _normalised(logits[block], scale, norm[:, at])
                log_t = _normalised(target[block], scale, teacher_norm[:, at])
                p_t = log_t.exp()
                loss += share[at].dot(torch.linalg.vecdot(p_t, log_t.sub_(log_p)))
                if grad_student is not None or summed:
                    logits[block] = log_p.exp_().sub_(p_t).mul_(slope[at, None])
            if grad_student is not None:
                torch.mm(logits, head, out=grad_student[rows])
            if summed and grad_head is not None:
                grad_head.addmm_(logits.t(), student[rows])
            del logits, target  # before the next ones
        if grad_head is not None and not summed:
            for words in _spans(head.shape[0], len(share) * head.itemsize, _CHUNK):
                # [S, words] each
                logits, target = F.linear(student, head[words]), F.linear(teacher, teacher_head[words])
                for block in _spans(len(logits), logits.shape[1] * share.itemsize, _BLOCK):
                    p, p_t = (
                        x[block].to(share.dtype).mul_(scale).sub_(n[0, block]).sub_(n[1, block]).exp_()
                        for x, n in ((logits, norm), (target, teacher_norm))
                    )
                    logits[block] = p.sub_(p_t).mul_(slope[block, None])
                torch.mm(logits.t(), student, out=grad_head[words])
                del logits, target
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


def _normalised(logits: Tensor, scale: float, norm: Tensor) -> Tensor:
    """Logarithms of probabilities in float32 or wider; `norm` receives what was taken off, in the order that keeps small bits."""
    logits = logits.to(norm.dtype) * scale
    norm[0] = logits.amax(-1, keepdim=True)
    logits -= norm[0]
    norm[1] = logits.exp().sum(-1, keepdim=True).log_()
    return logits.sub_(norm[1])


def _spans(count: int, each: int, most: int) -> list[slice]:
    """0 .. count in spans of at most `most` bytes, `each` an item."""
    step = max(1, most // max(1, each))
    return [slice(begin, min(begin + step, count)) for begin in range(0, count, step)]


def _check(
    student: Tensor, teacher: Tensor, head: Tensor, teacher_head: Tensor, mask: Tensor | None, temperature: float
) -> None:
    given = {"student": student, "teacher": teacher, "student_head": head, "teacher_head": teacher_head}
    for name, tensor in (given if mask is None else given | {"mask": mask}).items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, given {type(tensor).__name__}")
        if tensor.device != student.device:
            raise ValueError(f"{name} is on {tensor.device} and student is on {student.device}")
    if student.dim() < 1 or student.shape[:-1] != teacher.shape[:-1]:
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
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise TypeError(f"temperature must be a number, given {type(temperature).__name__}")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0")
