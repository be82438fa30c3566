"""LLaMA-VID's adapter in every released form, against the released order in plain PyTorch; hooks, adapters and dropout."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from longreel.models.llama_vid import Adapter, LlamaVid, QFormerSize, build_qformer, byte_ids
from longreel.models.llama_vid.bert import bert_sizes
from longreel.models.llama_vid.qformer import published_frames, qformer_frames
from longreel.models.record import Ops
from longreel.nn import QFormer

pytestmark = pytest.mark.fast
OPS: tuple[Ops, Ops] = ("reference", "longreel")
SIZE = QFormerSize(width=24, layers=3, heads=2, mlp=48, queries=5, vocabulary=260, positions=64)
# Widths of the patches and of the language model.
C, H = 32, 40
QUESTIONS = ["why", "where does this road lead?"]


def adapter(size: QFormerSize = SIZE, out: int = H, **options: Any) -> Adapter:
    return Adapter(size, C, out, **options).double()


def theirs(qformer: QFormer) -> Any:
    """transformers' Q-Former with its own copy of the weights."""
    config = InstructBlipQFormerConfig(**bert_sizes(SIZE), encoder_hidden_size=qformer.config.encoder_hidden_size)
    model, own = InstructBlipQFormerModel(config).double().eval(), qformer.state_dict()
    model.load_state_dict({name: own[ours(name)] for name in model.state_dict()})
    return model


def ours(name: str) -> str:
    return name.replace("embeddings.layernorm", "embeddings.LayerNorm").replace("attention.attention", "attention.self")


def released(a: Adapter, ids: Tensor, mask: Tensor, features: Tensor, compress: str | None, decoder: str) -> Tensor:
    """Prompt-major pairs of a prompt and a frame, padding kept and masked, keys formed: vlm_attention step by step."""
    prompts, frames = len(ids), len(features)
    pairs = features[None].expand(prompts, -1, -1, -1).flatten(0, 1)
    ids, mask = (rows[:, None].expand(-1, frames, -1).flatten(0, 1) for rows in (ids, mask.long()))
    patches = pairs[:, 1:]
    if decoder == "bert":
        text = a.vlm_att_encoder(ids, attention_mask=mask, encoder_hidden_states=a.vlm_att_bert_proj(patches))
        rows = text.last_hidden_state
    else:
        seen = pairs if a.vlm_att_bert_proj is None else a.vlm_att_bert_proj(pairs)
        seen = seen if a.vlm_att_ln is None else a.vlm_att_ln(seen)
        learned = a.vlm_att_query.expand(len(seen), -1, -1)
        both = torch.cat([torch.ones(learned.shape[:2], dtype=torch.long), mask], 1)
        text = theirs(a.vlm_att_encoder)(ids, query_embeds=learned, attention_mask=both, encoder_hidden_states=seen)
        rows = text.last_hidden_state[:, : learned.shape[1]]
    attention = a.attention
    scores = attention.vlm_att_projector(rows) @ attention.vlm_att_key_projector(patches).mT / C**0.5
    context = attention.vlm_att_val_projector((scores.softmax(-1) @ patches).mean(1))
    content = patches
    if compress == "mean":
        content = patches.mean(1, keepdim=True)
    elif compress == "grid:3":
        content = F.avg_pool2d(patches.mT.unflatten(2, (4, 4)), 1).flatten(2).mT
    tokens = torch.cat([context[:, None], attention.mm_projector(content)], 1)
    return tokens.unflatten(0, (prompts, frames)).flatten(1, 2)


@pytest.mark.parametrize("projector", ["linear", "identity", "mlp2x_gelu", "mlp3x_gelu"])
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ({}, {}),
        ({"norm": False}, {}),
        ({"reads": 44}, {}),
        ({"reads": 44, "norm": False}, {}),
        ({}, {"text_decoder": "bert", "average_padding": True}),
    ],
    ids=["pretrained", "no-norm", "projected", "projected-no-norm", "bert"],
)
@torch.inference_mode()
def test_released_forms(form: dict[str, Any], options: dict[str, Any], projector: str) -> None:
    compress = "grid:3" if projector == "linear" else "mean"
    out = C if projector == "identity" else H
    a = adapter(replace(SIZE, **form), out, projector=projector, compress=compress, **options)
    features, (ids, mask) = torch.randn(3, 17, C, dtype=torch.float64), byte_ids(QUESTIONS)
    expected = released(a, ids, mask, features, compress, a.text_decoder)
    for ops in OPS:
        queries = a.query(ids, features, mask, ops=ops)
        got = a.compress(queries, features, mask=a.query_mask(mask), ops=ops)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_names_of_the_forms() -> None:
    names = {
        form: {name for name in adapter(replace(SIZE, **size)).state_dict() if name.split(".")[0] != "attention"}
        for form, size in {"pretrained": {}, "plain": {"norm": False}, "projected": {"reads": 44}}.items()
    }
    assert names["pretrained"] - names["plain"] == {"vlm_att_ln.weight", "vlm_att_ln.bias"}
    assert names["projected"] - names["pretrained"] == {"vlm_att_bert_proj.weight", "vlm_att_bert_proj.bias"}
    state = adapter(replace(SIZE, reads=44)).state_dict()
    assert state["vlm_att_bert_proj.weight"].shape == (44, C)
    assert state["vlm_att_ln.weight"].shape == (44,)
    assert state["vlm_att_encoder.encoder.layer.0.crossattention.self.key.weight"].shape == (24, 44)


@torch.inference_mode()
def test_averaged_padding_depends_on_the_batch_and_masked_padding_does_not() -> None:
    features = torch.randn(3, 17, C, dtype=torch.float64)
    ids, mask = byte_ids(QUESTIONS)
    for average in (True, False):
        torch.manual_seed(0)
        a = adapter(text_decoder="bert", average_padding=average)
        both = a.compress(a.query(ids, features, mask), features, mask=a.query_mask(mask))
        alone = a.compress(a.query(*(byte_ids(QUESTIONS[:1])[0], features)), features)
        assert torch.allclose(both[:1], alone) is not average


def test_the_model_takes_its_forms_from_the_preset() -> None:
    from test_llama_vid import SMALL

    preset = replace(SMALL, text_decoder="bert", projector="mlp3x_gelu", cls_as_patch=True)
    model = LlamaVid(preset, average_padding=True)
    assert (model.adapter.text_decoder, model.adapter.average_padding) == ("bert", True)
    assert model.adapter.attention.num_prefix_tokens == 0
    assert len(model.adapter.attention.mm_projector) == 5
    assert LlamaVid(preset, text_decoder="qformer").adapter.text_decoder == "qformer"


class Lora(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.weight, self.bias = base, base.weight, base.bias
        self.more = nn.Linear(base.in_features, base.out_features, dtype=base.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.more(x)
        return out


def lora(parent: nn.Module, name: str) -> None:
    torch.manual_seed(0)
    setattr(parent, name, Lora(getattr(parent, name)))


def hook(parent: nn.Module, name: str) -> None:
    getattr(parent, name).register_forward_hook(lambda module, given, out: 2 * out)


LAYER = "encoder.layer.0."
LEARNED, ENCODED = torch.randn(5, 24, dtype=torch.float64), torch.randn(3, 17, C, dtype=torch.float64)
IDS = byte_ids(["why?"])[0][0]


@pytest.mark.parametrize(
    "name",
    [
        LAYER + "crossattention.attention.key", LAYER + "crossattention.attention.value", LAYER + "attention.attention.query",
        LAYER + "output_query.dense",
    ],
)  # fmt: skip
@pytest.mark.parametrize("change", [lora, hook])
@torch.no_grad()
def test_a_changed_linear_of_the_qformer_acts(change: Callable[[nn.Module, str], None], name: str) -> None:
    """As in transformers' Q-Former; the reference path, which would go past it, says so."""
    qformer = build_qformer(SIZE, C).double().eval()
    other, before = theirs(qformer), qformer_frames(qformer, LEARNED, [IDS], ENCODED)
    for model, place in ((other, name), (qformer, ours(name))):
        parent, _, leaf = place.rpartition(".")
        change(model.get_submodule(parent), leaf)
    given = {"input_ids": IDS.expand(3, -1), "query_embeds": LEARNED.expand(3, -1, -1)}
    expected = other(**given, encoder_hidden_states=ENCODED).last_hidden_state[:, :5]
    got = qformer_frames(qformer.double(), LEARNED, [IDS], ENCODED)
    torch.testing.assert_close(got[0], expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(got, before)
    with pytest.raises(ValueError, match="takes plain weights"):
        published_frames(qformer, LEARNED, [IDS], ENCODED)


@pytest.mark.parametrize("name", ["encoder", "encoder.layer.1", LAYER + "attention", LAYER + "crossattention.self"])
@torch.no_grad()
def test_a_hook_on_a_part_that_is_gone_past_is_refused(name: str) -> None:
    qformer = build_qformer(SIZE, C).double().eval()
    hook(qformer.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
    with pytest.raises(ValueError, match=rf"{name} has a hook"):
        qformer_frames(qformer, LEARNED, [IDS], ENCODED)
    with pytest.raises(ValueError, match="has hooks"):
        published_frames(qformer, LEARNED, [IDS], ENCODED)


@pytest.mark.parametrize("kind", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
@torch.no_grad()
def test_dropout_of_a_training_qformer_is_drawn(kind: str) -> None:
    """On both paths every frame draws its own, and none in evaluation."""
    config = replace(build_qformer(SIZE, C).config, **{kind: 0.5})
    qformer, same = QFormer(config).double(), ENCODED[:1].expand(3, -1, -1)
    for frames in (qformer_frames, published_frames):
        drawn, quiet = (frames(qformer.train(training), LEARNED, [IDS], same)[0] for training in (True, False))
        torch.testing.assert_close(quiet[:1].expand(3, -1, -1), quiet)
        assert not any(torch.allclose(drawn[i], other) for i in range(3) for other in (quiet[0], drawn[i - 1]))
