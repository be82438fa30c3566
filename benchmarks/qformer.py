"""Q-Formers beside the strongest forms in PyTorch and transformers.

    python benchmarks/qformer.py [--part attention] [--part gradients] ... [--dtype bf16] [--dtype fp32] [--repeats 5]

Every result is checked against float64 before it is timed. Parts:

    attention  32 queries over 115,200 keys of width 768, as Video-LLaMA's video Q-Former meets an hour
    gradients  the same forward and backward: all gradients but that of the keys, and all
    frames     BLIP-2's Q-Former on 64 frames of 257 x 1408
    patched    InstructBLIP-Video's Q-Former on 16 frames with a question, as it is and patched
    llama-vid  the Q-Former stage of LLaMA-VID's preset `tiny`, 64 frames
    one-gemm   keys and values of six layers in one product or in twelve
"""

import copy
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    InstructBlipVideoQFormerConfig,
    InstructBlipVideoQFormerModel,
)

import longreel
from longreel.bench.cases import BACKWARD, CASES, CPU, DTYPES, measure, shape_of
from longreel.bench.check import ErrorSum, Verdict, judge
from longreel.bench.harness import Contender, compare
from longreel.bench.one_dnn import linear
from longreel.bench.tables import rich_table
from longreel.models.llama_vid import PRESETS, LlamaVid
from longreel.models.published_qformer import released_qformer_name
from longreel.nn import QFormer, QFormerConfig
from longreel.nn.qformer_keys import absorbs
from longreel.ops._qformer_attention import absorbed_flops, projected_flops
from longreel.ops.common.cost import Cost

FRAMES, PATCHES, WIDTH, QUERIES = 64, 257, 1408, 32
console = Console()


class OneDnn(nn.Module):
    """A Linear through oneDNN."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.inner.weight) + self.inner.bias


def with_one_dnn(model: nn.Module) -> nn.Module:
    """The same weights, every Linear through oneDNN."""
    copied = copy.deepcopy(model)
    for module in list(copied.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, OneDnn(child))
    return copied


def shaken(model: nn.Module) -> nn.Module:
    """Weights that are not small, biases that are not zero."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data += noise * (0.5 * weight.shape[-1] ** -0.5 if weight.dim() > 1 else 0.05)
    return model.eval()


def qformer_cost(
    samples: int, keys: int, channels: int, c: Any, reads: int, *, text: int = 0, absorbed: bool, item: int
) -> Cost:
    """A Q-Former of `c`'s sizes, `reads` of its layers reading `keys`: products alone, nothing computed once."""
    rows, e = QUERIES + text, c.hidden_size
    layer = 8 * rows * e * e + 4 * rows * rows * e + 4 * rows * e * c.intermediate_size
    cross = samples * 4 * QUERIES * e * e
    sizes = samples, QUERIES, keys, channels, e
    cross += absorbed_flops(*sizes, c.num_attention_heads, False) if absorbed else projected_flops(*sizes)
    flops = samples * c.num_hidden_layers * layer + reads * cross
    return Cost(flops, samples * keys * channels * item, samples * QUERIES * e * item)


def checked(truth: Tensor, yardstick: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Verdict]:
    allowed = ErrorSum()
    allowed.add(yardstick, truth)

    def check(result: Tensor) -> Verdict:
        found = ErrorSum()
        found.add(result, truth)
        return judge({"out": found}, {"out": allowed}, dtype)

    return check


def show(forms: dict[str, Callable[[], Tensor]], truth: Tensor, dtype: torch.dtype, work: Cost, **how: Any) -> None:
    """`ours` first, the published form second, whose rounding is the yardstick."""
    ours, published = list(forms)[:2]
    with torch.no_grad():
        check = checked(truth, forms[published](), dtype)
        report = compare(
            [
                Contender(name, lambda call=call: call, budgets=1.0 if name == ours else 3.0)  # type: ignore[misc]
                for name, call in forms.items()
            ],
            work=work,
            check=check,
            device=CPU,
            dtype=dtype,
            baseline=published,
            facts={
                "dtype": str(dtype).removeprefix("torch."),
                "pass": "forward",
                "op": how["op"],
                "shape": how["shape"],
            },
            repeats=how["repeats"],
        )
    console.print(rich_table(report, [ours]))


def attention(kind: torch.dtype, repeats: int, backward: str = "none") -> None:
    case = CASES["qformer_attention"](
        "qformer_attention", shape_of("qformer_attention", "hour", {}), kind, CPU, backward
    )
    console.print(rich_table(measure(case, repeats=repeats), case.kernels))


def frames(kind: torch.dtype, repeats: int) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "encoder_hidden_size": WIDTH,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    theirs = shaken(Blip2QFormerModel._from_config(Blip2QFormerConfig(**sizes), attn_implementation="sdpa"))
    ours = QFormer(QFormerConfig(encoder_hidden_size=WIDTH, text=False)).eval()
    ours.load_state_dict({released_qformer_name(name): weight for name, weight in theirs.state_dict().items()})
    tokens, features = torch.randn(1, QUERIES, 768).to(kind), torch.randn(FRAMES, PATCHES, WIDTH).to(kind)
    exact = copy.deepcopy(theirs.to(kind)).double()
    ours, other = ours.to(kind), with_one_dnn(theirs)

    def published(model: nn.Module, dtype: torch.dtype = kind) -> Tensor:
        rows = tokens.expand(FRAMES, -1, -1).to(dtype)
        out: Tensor = model(query_embeds=rows, encoder_hidden_states=features.to(dtype)).last_hidden_state
        return out

    with torch.no_grad():
        truth = published(exact, torch.float64)
    del exact
    absorbed = absorbs(ours.layers[0].crossattention, features, QUERIES, first=False)  # type: ignore[arg-type]
    work = qformer_cost(FRAMES, PATCHES, WIDTH, ours.config, 6, absorbed=absorbed, item=kind.itemsize)
    plain = qformer_cost(FRAMES, PATCHES, WIDTH, ours.config, 6, absorbed=False, item=kind.itemsize)
    console.print(f"counted: {work.flops / 1e9:.0f} GFLOP, keys {'absorbed' if absorbed else 'projected'}; "
                  f"projected in every layer {plain.flops / 1e9:.0f}")  # fmt: skip
    show(
        {
            "ours": lambda: ours(tokens, features).queries,
            "sdpa": lambda: published(theirs),
            "sdpa, oneDNN": lambda: published(other),
        },
        truth, kind, work, repeats=repeats, op="Blip2QFormerModel", shape=f"[{FRAMES}, {PATCHES}, {WIDTH}]",
    )  # fmt: skip


def patched(kind: torch.dtype, repeats: int) -> None:
    torch.manual_seed(0)
    count, text = 16, 24
    config = InstructBlipVideoQFormerConfig(
        encoder_hidden_size=WIDTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    plain = shaken(InstructBlipVideoQFormerModel._from_config(config, attn_implementation="sdpa")).to(kind)
    own, exact, other = copy.deepcopy(plain), copy.deepcopy(plain).double(), with_one_dnn(plain)
    report = longreel.patch(own)
    ids = torch.randint(5, 30000, (1, text)).expand(count, -1)
    tokens, features = torch.randn(1, QUERIES, 768).to(kind), torch.randn(count, PATCHES, WIDTH).to(kind)
    mask = torch.ones(count, QUERIES + text, dtype=torch.long)

    def run(model: nn.Module, dtype: torch.dtype = kind) -> Tensor:
        out: Tensor = model(
            input_ids=ids, attention_mask=mask, query_embeds=tokens.expand(count, -1, -1).to(dtype),
            encoder_hidden_states=features.to(dtype),
            encoder_attention_mask=torch.ones(count, PATCHES, dtype=torch.long),
        ).last_hidden_state[:, :QUERIES]  # fmt: skip
        return out

    with torch.no_grad():
        truth = run(exact, torch.float64)
        run(own)
    del exact
    console.print(str(report))
    work = qformer_cost(count, PATCHES, WIDTH, config, 6, text=text, absorbed=True, item=kind.itemsize)
    plainly = qformer_cost(count, PATCHES, WIDTH, config, 6, text=text, absorbed=False, item=kind.itemsize)
    console.print(f"counted: {work.flops / 1e9:.0f} GFLOP, unpatched {plainly.flops / 1e9:.0f}")
    show(
        {"patched": lambda: run(own), "sdpa": lambda: run(plain), "sdpa, oneDNN": lambda: run(other)},
        truth, kind, work, repeats=repeats, op="InstructBlipVideoQFormerModel", shape=f"{count} frames, {text} words",
    )  # fmt: skip


def llama_vid(kind: torch.dtype, repeats: int) -> None:
    torch.manual_seed(0)
    preset = PRESETS["tiny"]
    model = LlamaVid(preset).eval().to(kind)
    exact = copy.deepcopy(model).double()
    patches = torch.randn(preset.chunk, 1 + preset.tower.patches, preset.tower.width).to(kind)
    ids, mask = torch.randint(5, 250, (1, 24)), torch.ones(1, 24, dtype=torch.long)
    with torch.no_grad():
        truth = exact.query(ids, patches.double(), mask, ops="reference")
    config = model.adapter.vlm_att_encoder.config
    reads = len([layer for layer in model.adapter.vlm_att_encoder.layers if layer.crossattention is not None])
    work = qformer_cost(
        preset.chunk,
        preset.tower.patches,
        preset.tower.width,
        config,
        reads,
        text=24,
        absorbed=True,
        item=kind.itemsize,
    )
    show(
        {
            "ours": lambda: model.query(ids, patches, mask, ops="longreel"),
            "reference": lambda: model.query(ids, patches, mask, ops="reference"),
        },
        truth, kind, work, repeats=repeats, op="LLaMA-VID's Q-Former stage",
        shape=f"{preset.name}: {preset.chunk} frames of {preset.tower.patches} x {preset.tower.width}",
    )  # fmt: skip


def one_gemm(kind: torch.dtype, repeats: int) -> None:
    """Keys and values of six layers: a product each, or one with the weights joined in the call (none are stored)."""
    torch.manual_seed(0)
    weights = [(WIDTH**-0.5 * torch.randn(768, WIDTH)).to(kind) for _ in range(12)]
    features = torch.randn(16, PATCHES, WIDTH).to(kind)
    truth = features.double() @ weights[-1].double().T

    def one() -> Tensor:
        return linear(features, torch.cat(weights)).split(768, -1)[-1]

    flops = 2 * 16 * PATCHES * WIDTH * 768 * 12
    work = Cost(flops, (features.numel() + 12 * 768 * WIDTH) * kind.itemsize, 16 * PATCHES * 12 * 768 * kind.itemsize)
    show(
        {"one": one, "each": lambda: [linear(features, weight) for weight in weights][-1]},
        truth, kind, work, repeats=repeats, op="keys and values of six layers", shape=f"[16, {PATCHES}, {WIDTH}]",
    )  # fmt: skip


def gradients(kind: torch.dtype, repeats: int) -> None:
    for backward in BACKWARD[1:]:
        attention(kind, repeats, backward)


PARTS: dict[str, Callable[[torch.dtype, int], None]] = {
    "attention": attention,
    "gradients": gradients,
    "frames": frames,
    "patched": patched,
    "llama-vid": llama_vid,
    "one-gemm": one_gemm,
}


def main(
    part: Annotated[list[str] | None, typer.Option(help="; ".join(PARTS))] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="bf16, fp32")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
) -> None:
    """Prints a table a part and dtype."""
    for name in (*(part or ()), *(dtype or ())):
        if name not in {*PARTS, *DTYPES}:
            raise typer.BadParameter(f"{name!r} is none of {', '.join((*PARTS, *DTYPES))}")
    for name in part or PARTS:
        for kind in dtype or ("bf16", "fp32"):
            console.rule(f"{name}, {kind}")
            PARTS[name](DTYPES[kind], repeats)


if __name__ == "__main__":
    typer.run(main)
