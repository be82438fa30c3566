"""The whole of LLaMA-VID's token_generation, projections included: ours, folded PyTorch, and the published order.

    python benchmarks/token_generation.py [--frames 3600] [--dtype bf16] [--variant ours --variant folded ...]

Patches [F, 256, 1408], 32 query rows of width 768 for every frame, language model of width 4096, one content token
(arXiv 2311.17043, section 3.1, compress_type "mean"). The published order forms the keys and every query's value sum, for all
frames at once; `folded` has our folded projection and mean-first order in chunks of frames, with plain PyTorch's products.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from torch import Tensor

from longreel.bench.cases import DTYPES
from longreel.bench.check import ErrorSum, Verdict, judge
from longreel.bench.harness import Contender, compare
from longreel.bench.one_dnn import linear
from longreel.bench.peers import STEP, chunk
from longreel.bench.tables import rich_table
from longreel.nn import ContextAttention
from longreel.ops.common.cost import Cost

PATCHES, WIDTH, QUERIES, QUERY_WIDTH, LLM_WIDTH = 256, 1408, 32, 768, 4096
# A prime number of distinct frames, repeated.
DISTINCT = 61


def published(m: ContextAttention, text: Tensor, patches: Tensor) -> Tensor:
    """text [F, M, Dq], patches [F, N, C] -> [F, 2, H], in the order of the released code, unchunked."""
    query = m.vlm_att_projector(text)
    scores = query @ m.vlm_att_key_projector(patches).transpose(-1, -2) / patches.shape[-1] ** 0.5
    context = m.vlm_att_val_projector((scores.softmax(-1) @ patches).mean(1, keepdim=True))
    return torch.cat([context, m.mm_projector(patches.mean(1, keepdim=True))], 1)


def folded(m: ContextAttention, text: Tensor, patches: Tensor) -> Tensor:
    """The strongest plain form we know: projections folded, tokens on the long side, softmax rows averaged first, chunks."""
    frames, tokens, width = patches.shape
    step = chunk(patches, STEP)
    # [F, 2, C]: context, mean
    out = patches.new_empty(frames, 2, width)
    projection = m.folded_weight, m.folded_bias
    # [step, 2, N]
    weights = patches.new_full((step, 2, tokens), 1 / tokens)
    for start in range(0, frames, step):
        block = patches[start : start + step]
        query = F.linear(text[start : start + step], *projection)
        weights[: len(block), 0] = torch.bmm(block, query.transpose(1, 2)).float().softmax(1).mean(2)
        torch.bmm(weights[: len(block)], block, out=out[start : start + step])
    first, second, third = m.vlm_att_val_projector, m.mm_projector[0], m.mm_projector[2]
    hidden = F.gelu(linear(out[:, 1].contiguous(), second.weight) + second.bias)
    context = linear(out[:, 0].contiguous(), first.weight) + first.bias
    return torch.stack([context, linear(hidden, third.weight) + third.bias], 1)


FORMS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "ours": (lambda m, text, patches: m(text, patches), "nn.ContextAttention"),
    "folded": (folded, "folded projections in PyTorch, chunks of frames"),
    "published": (published, "the released order, unchunked"),
}


def work(frames: int, itemsize: int) -> Cost:
    """What the folded form cannot do without: W', the scores, one value sum, Wv, mm_projector."""
    rows = QUERIES * QUERY_WIDTH * WIDTH + (QUERIES + 2) * PATCHES * WIDTH + 2 * WIDTH * LLM_WIDTH + LLM_WIDTH**2
    weights = WIDTH * QUERY_WIDTH + 2 * WIDTH * LLM_WIDTH + LLM_WIDTH**2
    read = frames * (PATCHES * WIDTH + QUERIES * QUERY_WIDTH) + weights
    return Cost(2 * frames * rows, read * itemsize, frames * 2 * LLM_WIDTH * itemsize)


def needs(name: str, frames: int, itemsize: int) -> int:
    """Bytes beyond inputs and outputs: keys, and [F, M, C] thrice, where the published order keeps them."""
    return frames * (PATCHES + 3 * QUERIES) * WIDTH * itemsize if name == "published" else 0


def main(
    frames: Annotated[int, typer.Option(min=1, help="Frames F.")] = 3600,
    dtype: Annotated[str, typer.Option(help=", ".join(DTYPES))] = "bf16",
    variant: Annotated[list[str] | None, typer.Option(help=f"{', '.join(FORMS)}; default all.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    json: Annotated[Path | None, typer.Option(help="Append JSON lines to this file.")] = None,
) -> None:
    """Time the variants in turn; each is checked against the published order in float64 first."""
    if dtype not in DTYPES or not set(variant or ()) <= set(FORMS):
        raise typer.BadParameter(f"--dtype is one of {', '.join(DTYPES)}, --variant of {', '.join(FORMS)}")
    kind = DTYPES[dtype]
    torch.manual_seed(0)
    exact = ContextAttention(QUERY_WIDTH, WIDTH, LLM_WIDTH, compress="mean").to(kind)
    module, exact = (
        exact,
        ContextAttention(QUERY_WIDTH, WIDTH, LLM_WIDTH, compress="mean", backend="reference").double(),
    )
    exact.load_state_dict(module.state_dict())
    distinct = min(DISTINCT, frames)
    index = torch.arange(frames) % distinct
    # scores of both near-uniform and sharp rows
    text = (8 * torch.randn(distinct, QUERIES, QUERY_WIDTH)).to(kind)
    patches = torch.randn(distinct, PATCHES, WIDTH).to(kind)
    with torch.inference_mode():
        truth = published(exact, text.double(), patches.double())
        plain = ErrorSum()
        plain.add(published(module, text, patches), truth)
        text, patches = text[index], patches[index]

        def check(result: Tensor) -> Verdict:
            found = ErrorSum()
            for block in result.split(distinct):
                found.add(block, truth[: len(block)])
            return judge({"tokens": found}, {"tokens": plain}, kind)

        report = compare(
            [
                Contender(
                    name,
                    lambda form=FORMS[name][0]: lambda: form(module, text, patches),  # type: ignore[misc]
                    FORMS[name][1],
                    needs(name, frames, kind.itemsize),
                    1.0 if name == "ours" else 3.0,
                )
                for name in variant or FORMS
            ],
            work=work(frames, kind.itemsize),
            check=check,
            device=torch.device("cpu"),
            dtype=kind,
            baseline=(variant or list(FORMS))[-1],
            facts={
                "op": "token_generation",
                "dtype": str(kind).removeprefix("torch."),
                "pass": "forward",
                "shape": f"patches [{frames}, {PATCHES}, {WIDTH}], queries [{frames}, {QUERIES}, {QUERY_WIDTH}]",
            },
            repeats=repeats,
        )
    Console().print(rich_table(report, ["ours"]))
    if json is not None:
        report.write(json)


if __name__ == "__main__":
    typer.run(main)
