"""nn.QFormer is the published Q-Former: transformers' BLIP-2 and InstructBLIP models, their gradients, every shortcut undone."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
)

from longreel.nn import QFormer, QFormerConfig

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "encoder_hidden_size": 24,
    "vocab_size": 30,
    "max_position_embeddings": 20,
    # sharp rows
    "initializer_range": 0.5,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SAMPLES, QUERIES, KEYS, TOKENS = 19, 3, 7, 5


def released(name: str) -> str:
    for theirs, ours in (
        ("attention.attention.", "attention.self."),
        ("layernorm.", "LayerNorm."),
        ("embeddings.layernorm", "embeddings.LayerNorm"),
    ):
        name = name.replace(theirs, ours)
    return name if name.startswith(("encoder", "embeddings")) else f"embeddings.{name}"


def pair(model: type, config: type, text: bool, frequency: int) -> tuple[Any, QFormer]:
    """transformers' model and ours with its weights, biases that are not zero."""
    torch.manual_seed(0)
    theirs: Any = model(config(**SIZES, **NO_DROPOUT, cross_attention_frequency=frequency)).double().eval()
    ours = QFormer(QFormerConfig(**SIZES, cross_attention_frequency=frequency, text=text)).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    ours.load_state_dict({released(name): value for name, value in theirs.state_dict().items()})
    return theirs, ours


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("frequency", [1, 2, 3])
@pytest.mark.parametrize("keys", [1, KEYS, 300])
def test_blip2(frequency: int, keys: int) -> None:
    """Values and every gradient; one key makes the projected form the cheaper one."""
    theirs, ours = pair(Blip2QFormerModel, Blip2QFormerConfig, False, frequency)
    mask = torch.rand(SAMPLES, keys, generator=torch.Generator().manual_seed(0)) < 0.7
    mask[:, 0] = True
    tokens = drawn(1, QUERIES, 32).requires_grad_()
    features, upstream = drawn(SAMPLES, keys, 24).requires_grad_(), drawn(SAMPLES, QUERIES, 32)
    expected = theirs(
        query_embeds=tokens.expand(SAMPLES, -1, -1),
        encoder_hidden_states=features,
        encoder_attention_mask=mask.long(),
    ).last_hidden_state
    got = ours(tokens, features, mask).queries
    close(got, expected)
    parameters = {released(name): p for name, p in theirs.named_parameters()}
    made = torch.autograd.grad(
        got, [tokens, features, *(p for _, p in ours.named_parameters())], upstream, allow_unused=True
    )
    wanted = torch.autograd.grad(
        expected,
        [tokens, features, *(parameters[name] for name, _ in ours.named_parameters())],
        upstream,
        allow_unused=True,
    )
    for name, own, other in zip(
        ["tokens", "features", *(n for n, _ in ours.named_parameters())], made, wanted, strict=True
    ):
        # the bias of the cross-attention's keys cancels in the softmax
        if own is None:
            assert other is None or other.abs().max() < 1e-9, name
        else:
            close(own, other)
    with torch.no_grad():
        close(ours(tokens[0], features, mask).queries, expected)
        close(ours(tokens.expand(SAMPLES, -1, -1).contiguous(), features, mask).queries, expected)


@pytest.mark.parametrize("shared", [True, False], ids=["one text", "a text each"])
def test_text(shared: bool) -> None:
    theirs, ours = pair(InstructBlipQFormerModel, InstructBlipQFormerConfig, True, 2)
    ids = torch.randint(30, (1 if shared else SAMPLES, TOKENS), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[-1, 3:] = 0
    tokens, features = drawn(1, QUERIES, 32), drawn(SAMPLES, KEYS, 24)
    with torch.no_grad():
        expected = theirs(
            input_ids=ids.expand(SAMPLES, -1),
            attention_mask=torch.cat([torch.ones(SAMPLES, QUERIES).long(), mask.expand(SAMPLES, -1)], 1),
            query_embeds=tokens.expand(SAMPLES, -1, -1),
            encoder_hidden_states=features,
        ).last_hidden_state
        rows, text = expected.split([QUERIES, TOKENS], 1)
        got = ours(tokens, features, input_ids=ids, text_mask=mask, return_text=True)
        close(got.queries, rows)
        real = mask.expand(SAMPLES, -1) != 0
        close(got.text[real], text[real])
        close(ours(tokens, features, text_embeds=ours.embeddings.word_embeddings(ids), text_mask=mask).queries, rows)
        keys = ours.read(features, queries=QUERIES, questions=2)
        close(ours(tokens, keys, input_ids=ids, text_mask=mask).queries, rows)
        assert ours(tokens, features, input_ids=ids, text_mask=mask).text is None


@pytest.mark.parametrize("samples", [1, SAMPLES])
def test_a_question_is_made_ready_once(samples: int) -> None:
    _, ours = pair(InstructBlipQFormerModel, InstructBlipQFormerConfig, True, 2)
    ids = torch.arange(samples * TOKENS).view(samples, -1) % 30
    tokens, features = drawn(1, QUERIES, 32), [drawn(SAMPLES, keys, 24) for keys in (KEYS, 300)]
    expected = [ours(tokens, each, input_ids=ids, return_text=True) for each in features]
    calls = list[int]()
    for module in (ours.embeddings.LayerNorm, ours.encoder.layer[0].attention.output):
        module.register_forward_hook(lambda *_: calls.append(1))
    question = ours.ask(tokens, input_ids=ids, return_text=True)
    for each, (rows, text) in zip(features, expected, strict=True):
        got = ours(question, each)
        assert torch.equal(got.queries, rows)
        assert torch.equal(got.text, text)
    assert len(calls) == 3, "a norm of queries, one of text, one self-attention"
    with pytest.raises(ValueError, match="given to `ask`"):
        ours(question, features[0], input_ids=ids)
    with pytest.raises(ValueError, match=r"have \[2, 3\] samples"):
        ours.ask(drawn(2, QUERIES, 32), input_ids=ids[:1].expand(3, -1).contiguous())


def test_without_a_key_or_a_sample() -> None:
    _, ours = pair(Blip2QFormerModel, Blip2QFormerConfig, False, 2)
    tokens, features = drawn(1, QUERIES, 32), drawn(2, KEYS, 24)
    none = torch.zeros(2, KEYS)
    assert ours(tokens, features, none).queries.isfinite().all()
    close(ours(tokens, features, none).queries, ours(tokens, features[:, :0]).queries)
    assert ours(tokens, features[:0]).queries.shape == (0, QUERIES, 32)


@pytest.mark.parametrize("keys", [2, 300])
def test_frame_table(keys: int) -> None:
    _, ours = pair(Blip2QFormerModel, Blip2QFormerConfig, False, 1)
    tokens, features, table = drawn(1, QUERIES, 32), drawn(2, keys, 24), drawn(2, 24)
    expected = ours(tokens, features + table.repeat_interleave(keys // 2, 0)).queries
    close(ours(tokens, features, frame_table=table).queries, expected)


@pytest.mark.parametrize("rate", NO_DROPOUT)
def test_dropout_is_computed(rate: str) -> None:
    """In training samples that are given the same differ, their mean is near the model's, and eval draws nothing."""
    ours = QFormer(QFormerConfig(**{**SIZES, "initializer_range": 0.1}, text=False, **{rate: 0.1}))
    tokens, features = drawn(1, QUERIES, 32).float(), drawn(1, KEYS, 24).float().expand(2000, -1, -1)
    exact = ours.eval()(tokens, features[:1]).queries
    drew = ours.train()(tokens, features).queries
    assert not torch.equal(drew[0], drew[1])
    assert (drew.mean(0) - exact[0]).abs().max() < 0.2
    assert (drew - exact).abs().max() > 0.05


def test_autocast_casts_nothing() -> None:
    """Without a gradient it computes in its weights' dtype; with one, as autocast asks."""
    ours = QFormer(QFormerConfig(**SIZES, text=False)).eval()
    tokens, features = drawn(1, QUERIES, 32).float(), drawn(2, KEYS, 24).float()
    with torch.no_grad():
        expected = ours(tokens, features).queries
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(ours(tokens, features).queries, expected)
            # so many questions that keys and values are projected
            keys = ours.read(features, queries=QUERIES, questions=1000)
            assert {key.dtype for pair in keys.projected for key in pair} == {torch.float32}
            torch.testing.assert_close(ours(tokens, keys).queries, expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = ours(tokens, features).queries.float().square().sum()
    loss.backward()
    assert ours.encoder.layer[0].crossattention.inner.key.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"query_tokens": torch.zeros(3, 31)}, r"query_tokens must be \[M, 32\]"),
        ({"query_tokens": torch.zeros(3, 3, 32)}, "query_tokens has 3 samples; allowed are 1 and 2"),
        ({"features": torch.zeros(2, 7, 23)}, r"features must be \[B, S, 24\]"),
        ({"feature_mask": torch.zeros(2, 6)}, r"feature_mask must be \[2, 7\]"),
        ({"input_ids": torch.zeros(1, 4).long()}, "takes no text"),
        ({"text_mask": torch.zeros(1, 4)}, "neither input_ids nor text_embeds"),
    ],
)
def test_bad_input(changed: dict[str, Tensor], says: str) -> None:
    ours = QFormer(QFormerConfig(**SIZES, text=False))
    with pytest.raises(ValueError, match=says):
        ours(**{"query_tokens": torch.zeros(1, 3, 32), "features": torch.zeros(2, 7, 24), **changed})


@pytest.mark.parametrize("name", ["encoder", "encoder.layer.1", "encoder.layer.0.crossattention.self"])
def test_a_hook_that_would_not_act_is_refused(name: str) -> None:
    ours = QFormer(QFormerConfig(**SIZES, text=False))
    ours.get_submodule(name).register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=f"{name} has a hook"):
        ours(torch.zeros(1, 3, 32), torch.zeros(2, 7, 24))


def test_an_adapter_on_the_keys_acts() -> None:
    """A Linear that is no plain matrix is called, never absorbed."""
    _, ours = pair(Blip2QFormerModel, Blip2QFormerConfig, False, 2)
    tokens, features = drawn(1, QUERIES, 32), drawn(2, 300, 24)
    before = ours(tokens, features).queries
    ours.encoder.layer[0].crossattention.inner.value.register_forward_hook(lambda module, given, out: 2 * out)
    after = ours(tokens, features).queries
    with torch.no_grad():
        plain = ours.encoder.layer[0].crossattention.inner
        plain.value._forward_hooks.clear()
        plain.value.weight.mul_(2)
        plain.value.bias.mul_(2)
    assert not torch.allclose(after, before)
    close(ours(tokens, features).queries, after)
