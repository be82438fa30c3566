"""The distillation loss beside the plain formula, forward and backward: time and peak memory.

python benchmarks/distillation.py [--rows 2048] [--words 32001] [--width 4096] [--dtype bf16] [--train-head]
"""

from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from torch import Tensor

from longreel.bench.cases import DTYPES
from longreel.bench.check import ErrorSum, Verdict, judge
from longreel.bench.harness import Contender, compare
from longreel.bench.tables import rich_table
from longreel.nn import distillation_loss
from longreel.ops.common.cost import Cost


def plain(student: Tensor, teacher: Tensor, head: Tensor, teacher_head: Tensor) -> Tensor:
    """As the equation is written, all logits at once."""
    wide = torch.promote_types(student.dtype, torch.float32)
    with torch.no_grad():
        log_t = F.log_softmax(F.linear(teacher, teacher_head).to(wide), -1)
    log_p = F.log_softmax(F.linear(student, head).to(wide), -1)
    return F.kl_div(log_p, log_t, reduction="batchmean", log_target=True)


FORMS = {"ours": distillation_loss, "plain": plain}


def main(
    rows: Annotated[int, typer.Option(min=1, help="Rows S.")] = 2048,
    words: Annotated[int, typer.Option(min=1, help="Vocabulary V.")] = 32001,
    width: Annotated[int, typer.Option(min=1, help="Width E of the hidden states.")] = 4096,
    dtype: Annotated[str, typer.Option(help=", ".join(DTYPES))] = "bf16",
    train_head: Annotated[bool, typer.Option(help="A gradient for the head too.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
) -> None:
    """Time both in turn; each is checked in float64 on its first rows' gradients and its loss."""
    if dtype not in DTYPES:
        raise typer.BadParameter(f"--dtype is one of {', '.join(DTYPES)}")
    kind = DTYPES[dtype]
    torch.manual_seed(0)
    student, teacher = (torch.randn(rows, width).to(kind) for _ in range(2))
    head, teacher_head = ((3 * width**-0.5 * torch.randn(words, width)).to(kind) for _ in range(2))

    def once(name: str, *tensors: Tensor) -> dict[str, Tensor]:
        student, teacher, head, teacher_head = tensors
        leaves = {"student": student.detach().requires_grad_()}
        if train_head:
            leaves["head"] = head.detach().requires_grad_()
        loss = FORMS[name](leaves["student"], teacher, leaves.get("head", head), teacher_head)
        return {
            "loss": loss.detach()[None],
            **dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)),
        }

    truth = once("ours", *(t.double() for t in (student, teacher, head, teacher_head)))
    yardstick = {name: ErrorSum() for name in truth}
    for name, value in once("plain", student, teacher, head, teacher_head).items():
        yardstick[name].add(value, truth[name])

    def check(result: dict[str, Tensor]) -> Verdict:
        sums = {name: ErrorSum() for name in truth}
        for name, value in result.items():
            sums[name].add(value, truth[name])
        return judge(sums, yardstick, kind)

    products = 4 if train_head else 3
    report = compare(
        [
            Contender(
                name,
                lambda name=name: lambda: once(name, student, teacher, head, teacher_head),  # type: ignore[misc]
                budgets=1.0 if name == "ours" else 3.0,
            )
            for name in FORMS
        ],
        work=Cost(
            products * 2 * rows * words * width,
            (2 * words + 2 * rows) * width * kind.itemsize,
            rows * width * kind.itemsize,
        ),
        check=check,
        device=torch.device("cpu"),
        dtype=kind,
        baseline="plain",
        facts={
            "op": "distillation_loss",
            "dtype": str(kind).removeprefix("torch."),
            "pass": "forward + backward (head too)" if train_head else "forward + backward (student)",
            "shape": f"logits [{rows}, {words}], width {width}",
        },
        repeats=repeats,
    )
    Console().print(rich_table(report, ["ours"]))


if __name__ == "__main__":
    typer.run(main)
