"""Sizes of the LLaMA-VID reference model."""

from dataclasses import dataclass, replace
from typing import Literal

from longreel.models.sizes import NATIVE, LanguageSize, TowerSize

TextDecoder = Literal["qformer", "bert"]


@dataclass(frozen=True, slots=True)
class QFormerSize:
    """BERT with learned queries that attend to the patches in every second layer.

    `norm`: the patches are normed before it reads them. `reads`: the width of what it reads, where a projection stands between
    it and the patches; None: the patches' own. A BERT as text decoder has neither, and `queries` has no say.
    """

    width: int
    layers: int
    heads: int
    mlp: int
    queries: int
    vocabulary: int
    positions: int
    norm: bool = True
    reads: int | None = None


@dataclass(frozen=True, slots=True)
class LlamaVidPreset:
    """One size of the whole system.

    `compress`: the content tokens of a frame, "mean", "grid:g" or None for all; `chunk`: frames at a time; `dtype`: on a
    CPU (a GPU computes in bfloat16); `text_decoder`: which one `qformer` has the sizes of; `projector`: of the content tokens,
    as in `longreel.nn.ContextAttention`; `cls_as_patch`: the tower's CLS counts as a patch of the context attention.
    """

    name: str
    tower: TowerSize
    qformer: QFormerSize
    language: LanguageSize
    compress: str | None
    chunk: int
    dtype: str
    text_decoder: TextDecoder = "qformer"
    projector: str = "mlp2x_gelu"
    cls_as_patch: bool = False


# As it was called at first.
Preset = LlamaVidPreset

TINY = LlamaVidPreset(
    name="tiny",
    tower=TowerSize(image=224, patch=14, width=192, layers=4, heads=3, mlp=768),
    qformer=QFormerSize(width=192, layers=4, heads=3, mlp=768, queries=32, vocabulary=260, positions=512),
    language=LanguageSize(
        width=256, layers=4, heads=4, kv_heads=2, mlp=704, vocabulary=260, positions=65536, rope_factor=16.0
    ),
    compress="mean",
    chunk=64,
    dtype=NATIVE,
)

SMALL = LlamaVidPreset(
    name="small",
    tower=TowerSize(image=224, patch=14, width=384, layers=12, heads=6, mlp=1536),
    qformer=QFormerSize(width=384, layers=6, heads=6, mlp=1536, queries=32, vocabulary=260, positions=512),
    language=LanguageSize(
        width=512, layers=8, heads=8, kv_heads=4, mlp=1408, vocabulary=260, positions=65536, rope_factor=16.0
    ),
    compress="mean",
    chunk=64,
    dtype=NATIVE,
)

# EVA-g without its last block and norm, BERT-base, Vicuna-7B with the long-video stage's positions: the released sizes.
SEVEN_B = LlamaVidPreset(
    name="7b",
    tower=TowerSize(image=224, patch=14, width=1408, layers=39, heads=16, mlp=6144),
    qformer=QFormerSize(width=768, layers=12, heads=12, mlp=3072, queries=32, vocabulary=30523, positions=512),
    language=LanguageSize(
        width=4096, layers=32, heads=32, kv_heads=32, mlp=11008, vocabulary=32000, positions=65536, rope_factor=16.0
    ),
    compress="mean",
    chunk=64,
    dtype="bfloat16",
)

SEVEN_B_336 = replace(SEVEN_B, name="7b-336", tower=replace(SEVEN_B.tower, image=336))

PRESETS = {preset.name: preset for preset in (TINY, SMALL, SEVEN_B, SEVEN_B_336)}


def preset_table() -> list[str]:
    """The presets as lines of a Markdown table."""
    heads = ["preset", "vision tower", "patches N x C", "Q-Former", "language model", "positions", "content tokens"]
    rows = [[*heads, "chunk", "dtype on a CPU"], ["---"] * (len(heads) + 2)]
    for p in PRESETS.values():
        tower, qformer, language = p.tower, p.qformer, p.language
        rows.append([
            f"`{p.name}`",
            f"{tower.image} px, {tower.layers} layers of {tower.width}, {tower.heads} heads, MLP {tower.mlp}",
            f"{tower.patches} x {tower.width}",
            f"{qformer.layers} layers of {qformer.width}, {qformer.heads} heads, {qformer.queries} queries",
            f"{language.layers} layers of {language.width}, {language.heads} heads, {language.kv_heads} KV heads",
            f"{language.positions:,}",
            p.compress or "all",
            str(p.chunk),
            "bfloat16, else float32" if p.dtype == NATIVE else p.dtype,
        ])  # fmt: skip
    return ["| " + " | ".join(row) + " |" for row in rows]
