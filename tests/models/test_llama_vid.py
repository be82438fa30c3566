from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from longreel.models.llama_vid import (
    Adapter,
    Equation,
    LanguageSize,
    LlamaVid,
    Ops,
    Preset,
    QFormerSize,
    TextDecoder,
    TowerSize,
    byte_ids,
    choose_compress,
    content_counts,
    from_released,
    released_name,
    to_released,
)
from longreel.models.llama_vid.bert import bert_sizes
from longreel.nn import ContextAttention

OPS: tuple[Ops, Ops] = ("reference", "longreel")
SMALL = Preset(
    name="small-for-tests",
    tower=TowerSize(image=56, patch=14, width=32, layers=2, heads=2, mlp=64),
    qformer=QFormerSize(width=24, layers=3, heads=2, mlp=48, queries=5, vocabulary=260, positions=64),
    language=LanguageSize(
        width=32, layers=2, heads=4, kv_heads=2, mlp=64, vocabulary=260, positions=4096, rope_factor=2.0
    ),
    compress="mean",
    chunk=4,
    dtype="float32",
)


@pytest.fixture(scope="module")
def model() -> LlamaVid:
    return LlamaVid(SMALL)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(0, 256, (6, 56, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def tokens(model: LlamaVid, pixels: Tensor, question: str = "where?", ops: Ops = "longreel") -> Tensor:
    features = model.encode(pixels)
    return model.compress(query(model, [question], features), features, ops=ops)


def query(model: LlamaVid, questions: list[str], features: Tensor) -> Tensor:
    ids, mask = byte_ids(questions)
    return model.query(ids, features, mask)


def test_two_tokens_a_frame_context_first(model: LlamaVid, pixels: Tensor) -> None:
    with torch.inference_mode():
        features = model.encode(pixels)
        assert features.shape == (6, 17, 32)
        queries = query(model, ["where?", "who"], features)
        assert queries.shape == (2, 6, 5, 24)
        both = model.compress(queries, features)
        assert both.shape == (2, 12, 32)
        content = model.adapter.attention.mm_projector(features[:, 1:].mean(1))
    torch.testing.assert_close(both[0, 1::2], content)
    torch.testing.assert_close(both[1, 1::2], content)
    assert not torch.allclose(both[0, 0::2], both[1, 0::2])


@pytest.mark.parametrize("equation", ["released", "paper"])
@pytest.mark.parametrize("compress", [None, "mean", "grid:2", "grid:3"])
def test_longreel_computes_the_reference_maths(compress: str | None, equation: Equation) -> None:
    adapter = Adapter(SMALL.qformer, 32, 40, compress=compress, equation=equation).double()
    features = torch.randn(3, 17, 32, dtype=torch.float64)
    ids, mask = byte_ids(["what", "when it rains"])
    with torch.inference_mode():
        queries = adapter.query(ids, features, mask)
        released, ours = (adapter.compress(queries, features, ops=ops) for ops in OPS)
    torch.testing.assert_close(ours, released, rtol=1e-12, atol=1e-12)


def test_the_papers_equation_has_no_scale_and_no_keys() -> None:
    adapter = Adapter(SMALL.qformer, 32, 40, equation="paper").double()
    features, queries = torch.randn(3, 17, 32, dtype=torch.float64), torch.randn(1, 3, 5, 24, dtype=torch.float64)
    patches, attention = features[:, 1:], adapter.attention
    assert attention.vlm_att_projector is not None
    with torch.inference_mode():
        rows = (attention.vlm_att_projector(queries) @ patches.mT).softmax(-1)
        context = attention.vlm_att_val_projector((rows @ patches).mean(-2))
        tokens = adapter.compress(queries, features)
    torch.testing.assert_close(tokens[0, 0::2], context[0])
    with pytest.raises(ValueError, match="'released' or 'paper', got 'mine'"):
        Adapter(SMALL.qformer, 32, 40, equation="mine")  # type: ignore[arg-type]


@pytest.mark.parametrize("prompts", [["?"], ["what is it", "who", "when it rains"]])
@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("frames", [1, 35])
def test_text_queries_are_the_reference_maths(layers: int, frames: int, prompts: list[str]) -> None:
    """One prompt takes the absorbed cross-attention, three the projected one; 35 frames are two parts."""
    adapter = Adapter(replace(SMALL.qformer, layers=layers), 32, 40).double()
    torch.nn.init.normal_(adapter.vlm_att_encoder.encoder.layer[0].crossattention.inner.value.bias)
    features = torch.randn(frames, 17, 32, dtype=torch.float64)
    ids, mask = byte_ids(prompts)
    with torch.inference_mode():
        released, ours = (adapter.query(ids, features, mask, ops=ops) for ops in OPS)
        assert adapter.query(ids, features[:0], mask).shape == (len(prompts), 0, 5, 24)
    torch.testing.assert_close(ours, released, rtol=1e-11, atol=1e-11)


def test_text_queries_give_the_reference_gradients() -> None:
    adapter = Adapter(SMALL.qformer, 32, 40).double()
    ids, mask = byte_ids(["what", "when it rains"])
    features = torch.randn(2, 17, 32, dtype=torch.float64)
    grads = []
    for ops in OPS:
        adapter.zero_grad()
        leaf = features.clone().requires_grad_()
        (adapter.query(ids, leaf, mask, ops=ops) ** 3).sum().backward()
        named = {name: p.grad for name, p in adapter.named_parameters() if p.grad is not None}
        grads.append({"features": leaf.grad, **named})
    released, ours = grads
    # The bias of the cross-attention's keys cancels; the last layer's text rows end nowhere.
    for name, grad in ours.items():
        torch.testing.assert_close(grad, released[name], rtol=1e-8, atol=1e-8)
    left = {name for name in set(released) - set(ours) if released[name].abs().max() > 1e-12}
    assert not left


def test_unknown_ops_are_refused(model: LlamaVid) -> None:
    with pytest.raises(ValueError, match="'reference' or 'longreel'"):
        model.adapter.query(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 17, 32), ops="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'reference' or 'longreel'"):
        model.adapter.compress(torch.zeros(1, 1, 5, 24), torch.zeros(1, 17, 32), ops="fast")  # type: ignore[arg-type]


def test_questions_of_different_length_do_not_touch_each_other(model: LlamaVid, pixels: Tensor) -> None:
    questions = ["why", "where does this road lead?", "?"]
    with torch.inference_mode():
        features = model.encode(pixels)
        together, turned = query(model, questions, features), query(model, questions[::-1], features)
        for index, question in enumerate(questions):
            assert torch.equal(together[index], turned[-1 - index])
            # Alone, the cross-attention is absorbed: the same numbers, rounded elsewhere.
            torch.testing.assert_close(together[index], query(model, [question], features)[0], rtol=1e-5, atol=1e-5)
            ids, mask = byte_ids([question])
            alone = model.query(ids, features, mask, ops="reference")[0]
            ids, mask = byte_ids(questions)
            assert torch.equal(model.query(ids, features, mask, ops="reference")[index], alone)


def test_chunks_give_what_the_whole_gives(model: LlamaVid, pixels: Tensor) -> None:
    whole = tokens(model, pixels)
    parts = torch.cat([tokens(model, part) for part in pixels.split(4)], 1)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_prefill_in_blocks_is_the_plain_forward(model: LlamaVid) -> None:
    visual, question = torch.randn(1200, 32), byte_ids(["and then?"])[0][0]
    bos = torch.tensor([1])
    ids, logits = model.answer(visual, bos, question, length=3)
    embed = model.language.get_input_embeddings()
    sequence = torch.cat([embed(bos), visual, embed(question)])[None]
    for step in range(3):
        plain = model.language(inputs_embeds=sequence, use_cache=False).logits[0]
        if step == 0:
            torch.testing.assert_close(logits, plain[-len(question) :], rtol=1e-4, atol=1e-4)
        assert ids[step] == plain[-1].argmax()
        sequence = torch.cat([sequence, embed(ids[step]).view(1, 1, -1)], 1)
    assert model.answer(visual, bos, question, length=3, stop=int(ids[0]))[0].tolist() == []
    stopped = model.answer(visual, bos, question, length=3, stop=int(ids[-1]))[0]
    assert stopped.tolist() == ids[: ids.tolist().index(ids[-1])].tolist()


@torch.inference_mode()
def test_pictures_and_question_reach_the_answer(model: LlamaVid, pixels: Tensor) -> None:
    question = byte_ids(["where?"])[0][0]

    def logits(pixels: Tensor, asked: str) -> Tensor:
        return model.answer(tokens(model, pixels, asked)[0], torch.tensor([1]), question)[1]

    base = logits(pixels, "where?")
    assert (logits(pixels.flip(0), "where?") - base).abs().max() > 1e-2
    assert (logits(pixels, "when??") - base).abs().max() > 1e-2


def test_too_long_for_the_language_model(model: LlamaVid) -> None:
    with pytest.raises(ValueError, match="more than the language model's 4096 positions"):
        model.answer(torch.zeros(4096, 32), torch.tensor([1]), byte_ids(["?"])[0][0])


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = LlamaVid(SMALL, seed=1), LlamaVid(SMALL, seed=1), LlamaVid(SMALL, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.tower.embeddings.position_embedding, other.tower.embeddings.position_embedding)


def test_bytes_as_ids() -> None:
    ids, mask = byte_ids(["a", "bc"])
    assert ids.tolist() == [[101, 0], [102, 103]]
    assert mask.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize("questions", [[], ["a", ""]])
def test_questions_that_ask_nothing(questions: list[str]) -> None:
    with pytest.raises(ValueError, match="question is"):
        byte_ids(questions)


def bert(compress: str | None = "mean", prefix: int = 1) -> Adapter:
    return Adapter(SMALL.qformer, 32, 40, text_decoder="bert", compress=compress, num_prefix_tokens=prefix).double()


@torch.inference_mode()
def test_a_bert_reads_the_patches_with_the_questions_own_tokens() -> None:
    """Causal self-attention, cross-attention in every layer, no CLS, the mean over the tokens of the question."""
    adapter, features = bert(), torch.randn(3, 17, 32, dtype=torch.float64)
    ids, mask = byte_ids(["why?"])
    queries = adapter.query(ids, features, mask)
    assert queries.shape == (1, 3, 4, 24)
    assert all(layer.crossattention is not None for layer in adapter.vlm_att_encoder.encoder.layer)
    shorter = adapter.query(ids[:, :2], features, mask[:, :2])
    torch.testing.assert_close(queries[:, :, :2], shorter)
    other = features.clone()
    other[:, 0] += 1
    assert torch.equal(adapter.query(ids, other, mask), queries)
    attention, patches = adapter.attention, features[:, 1:]
    assert attention.vlm_att_projector is not None
    text, keys = attention.vlm_att_projector(queries[0]), attention.vlm_att_key_projector(patches)
    context = ((text @ keys.mT / 32**0.5).softmax(-1) @ patches).mean(1)
    tokens = adapter.compress(queries, features, mask=adapter.query_mask(mask))
    torch.testing.assert_close(tokens[0, 0::2], attention.vlm_att_val_projector(context))


@pytest.mark.parametrize("equation", ["released", "paper"])
@torch.inference_mode()
def test_padding_of_a_berts_questions_takes_no_part(equation: Equation) -> None:
    adapter, features = bert("grid:2"), torch.randn(3, 17, 32, dtype=torch.float64)
    adapter.equation = equation
    questions = ["why", "where does this road lead?"]
    ids, mask = byte_ids(questions)
    queries = adapter.query(ids, features, mask)
    valid = adapter.query_mask(mask)
    together = [adapter.compress(queries, features, mask=valid, ops=ops) for ops in OPS]
    torch.testing.assert_close(together[0], together[1], rtol=1e-12, atol=1e-12)
    for index, question in enumerate(questions):
        alone = adapter.compress(adapter.query(byte_ids([question])[0], features), features)
        torch.testing.assert_close(together[1][index], alone[0])
    with pytest.raises(ValueError, match="'qformer' or 'bert', got 'gpt'"):
        Adapter(SMALL.qformer, 32, 40, text_decoder="gpt")  # type: ignore[arg-type]


@torch.inference_mode()
def test_the_long_path_has_no_cls_from_the_start(pixels: Tensor) -> None:
    short, long = LlamaVid(SMALL), LlamaVid(SMALL, num_prefix_tokens=0)
    features = short.encode(pixels)
    assert torch.equal(long.encode(pixels), features[:, 1:])
    ids, mask = byte_ids(["where?"])
    kept, dropped = short.query(ids, features, mask), long.query(ids, features[:, 1:], mask)
    assert not torch.allclose(kept, dropped)
    assert torch.equal(short.compress(dropped, features), long.compress(dropped, features[:, 1:]))


def test_key_map_both_ways() -> None:
    adapter, other = Adapter(SMALL.qformer, 32, 40), Adapter(SMALL.qformer, 32, 40)
    released = to_released(adapter)
    other.load_state_dict(from_released({**released, "model.layers.0.mlp": torch.zeros(1)}, other))
    for (name, mine), theirs in zip(adapter.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    del released["model.vlm_att_query"]
    with pytest.raises(KeyError, match=r"model\.vlm_att_query"):
        from_released(released, other)


@pytest.mark.parametrize("decoder", ["qformer", "bert"])
def test_state_dicts_of_transformers_qformer_load(decoder: TextDecoder) -> None:
    """As this adapter saved them while the Q-Former was transformers' module; also below another module."""
    saved, other = (Adapter(SMALL.qformer, 32, 40, text_decoder=decoder) for _ in range(2))
    older = {}
    for name, value in saved.state_dict().items():
        if decoder == "qformer":
            name = name.replace("attention.self.", "attention.attention.")
            name = name.replace("encoder.embeddings.LayerNorm", "encoder.embeddings.layernorm")
        older[name] = value
    if decoder == "qformer":
        theirs = InstructBlipQFormerModel(
            InstructBlipQFormerConfig(**bert_sizes(SMALL.qformer), encoder_hidden_size=32)
        )
        assert {n for n in older if "encoder." in n} == {f"vlm_att_encoder.{name}" for name in theirs.state_dict()}
    given = dict(older)
    torch.nn.ModuleDict({"a": other}).load_state_dict({f"a.{name}": value for name, value in older.items()})
    assert given.keys() == older.keys()
    for (name, mine), loaded in zip(saved.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, loaded), name


@pytest.mark.parametrize(
    ("side", "counts"),
    [
        (16, {1: "mean", 4: "grid:2", 9: "grid:3", 16: "grid:4", 25: "grid:5", 64: "grid:6", 256: None}),
        (1, {1: "mean"}),
        (2, {1: "mean", 4: None}),
    ],
)
def test_content_counts(side: int, counts: dict[int, str | None]) -> None:
    assert content_counts(side) == counts


def test_every_count_is_what_the_pooling_gives() -> None:
    for side in (4, 5, 16, 24):
        features = torch.randn(1, side * side, 8)
        for count, compress in content_counts(side).items():
            attention = ContextAttention(None, 8, 8, compress=compress)
            assert attention(torch.randn(2, 8), features).shape == (1, 1 + count, 8)


def test_tokens_by_number_and_by_budget() -> None:
    assert choose_compress(64, side=16, frames=None, budget=0) == "grid:6"
    assert choose_compress("auto", side=16, frames=100, budget=1700) == "grid:4"
    assert choose_compress("auto", side=16, frames=100, budget=1699) == "grid:3"
    assert choose_compress("auto", side=16, frames=1, budget=1000) is None
    assert choose_compress("auto", side=16, frames=3600, budget=7200) == "mean"
    with pytest.raises(ValueError, match="1, 4, 9, 16, 25, 64 or 256"):
        choose_compress(2, side=16, frames=1, budget=10**6)
    with pytest.raises(ValueError, match="7202 tokens"):
        choose_compress("auto", side=16, frames=3601, budget=7200)
    with pytest.raises(ValueError, match="give a number"):
        choose_compress("auto", side=16, frames=None, budget=7200)


def test_released_names() -> None:
    names = [name for name, _ in Adapter(SMALL.qformer, 32, 40).named_parameters()]
    released = {released_name(name) for name in names}
    assert len(released) == len(names)
    layer = "model.vlm_att_encoder.bert.encoder.layer.2."
    assert released >= {
        "model.vlm_att_query",
        "model.vlm_att_ln.weight",
        "model.vlm_att_projector.bias",
        "model.vlm_att_key_projector.weight",
        "model.vlm_att_val_projector.weight",
        "model.mm_projector.2.bias",
        "model.vlm_att_encoder.bert.embeddings.LayerNorm.weight",
        "model.vlm_att_encoder.bert.embeddings.word_embeddings.weight",
        layer + "attention.self.query.weight",
        layer + "attention.output.LayerNorm.bias",
        layer + "crossattention.self.key.weight",
        layer + "crossattention.output.dense.weight",
        layer + "intermediate_query.dense.weight",
        layer + "output_query.LayerNorm.weight",
    }
