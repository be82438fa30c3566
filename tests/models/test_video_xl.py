"""Video-XL: the adapter against the language model's own forward, chunks against one pass, training, and what is skipped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
)

from longreel.models.sizes import TowerSize
from longreel.models.video_xl import (
    IGNORED,
    IMAGE,
    VideoXL,
    VideoXLPreset,
    VSTDecoder,
    from_released,
    to_released,
)
from longreel.models.video_xl.presets import qwen2
from longreel.parity.golden import videoxl_decoder
from longreel.parity.golden.files import find
from longreel.parity.golden.replay import judge

SIZES = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 512,
}  # fmt: skip
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=8)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "llama-3-rotary": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SIZES,
            rope_parameters={
                "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        )
    ),
}  # fmt: skip
each_family = pytest.mark.parametrize("family", FAMILIES)
TINY = VideoXLPreset(
    name="tiny-for-tests",
    tower=TowerSize(image=56, patch=14, width=32, layers=1, heads=2, mlp=64),
    language=qwen2(width=32, layers=3, heads=4, kv_heads=2, mlp=48, vocabulary=260, positions=512),
    chunk=4,
    window=12,
)


def adapted(family: str = "qwen2", **options: Any) -> VSTDecoder:
    """Weights of VST rows differ from the raw rows'."""
    decoder = VSTDecoder(FAMILIES[family](), per_picture=4, **({"chunk": 12, "ratio": 4} | options)).eval()
    with torch.no_grad():
        for name, weight in decoder.language.named_parameters():
            if "beacon" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    return decoder


def ids(count: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 40, (count,), generator=torch.Generator().manual_seed(seed))


def vision(tokens: int) -> Tensor:
    return torch.randn(tokens, 32, generator=torch.Generator().manual_seed(2))


@each_family
@torch.no_grad()
def test_nothing_compressed_is_the_model_itself(family: str) -> None:
    """Text alone: in one pass, behind a prefix in the memory, and through `generate`."""
    language = FAMILIES[family]().eval()
    own, text = language(input_ids=ids(20)[None]).logits[0], ids(20)
    answered = language.generate(text[None], max_new_tokens=5, do_sample=False)[0, 20:]
    decoder = VSTDecoder(language, chunk=12).eval()
    torch.testing.assert_close(decoder(text[None]).logits[0], own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(language(input_ids=text[None]).logits[0], own, rtol=1e-4, atol=1e-5)
    cache = decoder.encode(torch.empty(0, 32), prefix=text[:7].tolist())
    greedy, logits = decoder.answer(cache, text[7:], length=5)
    torch.testing.assert_close(logits, own[7:], rtol=1e-4, atol=1e-5)
    assert torch.equal(greedy, answered)
    assert torch.equal(decoder.ask(cache, text[7:], max_new_tokens=5, do_sample=False)[0], answered)


@each_family
@torch.no_grad()
def test_chunks_one_by_one_several_at_once_and_in_the_training_pass(family: str) -> None:
    decoder = adapted(family)
    seen, prefix, text = vision(32), ids(5), ids(6, seed=3)
    one = decoder.encode(seen, prefix=prefix.tolist())
    many = decoder.encode(seen, prefix=prefix.tolist(), at_once=8)
    assert one.tokens == many.tokens == 5 + 8
    for a, b in zip(one.layers, many.layers, strict=True):
        torch.testing.assert_close(a.keys, b.keys, rtol=1e-4, atol=1e-5)
    answered, logits = decoder.answer(one, text)
    whole = torch.cat([prefix, torch.full((8,), IMAGE), text])
    trained = decoder(whole[None], seen.view(8, 4, 32)).logits[0]
    torch.testing.assert_close(trained[-6:], logits, rtol=1e-4, atol=1e-5)
    ours = decoder.ask(one, [text, text[1:]], max_new_tokens=8, do_sample=False)
    assert torch.equal(ours[0], answered)
    assert torch.equal(ours[1, : len(answered)], decoder.answer(one, text[1:])[0])


def test_no_chunks_at_once_are_refused_before_the_prefix() -> None:
    decoder = adapted(next(iter(FAMILIES)))
    cache = decoder.cache(64)
    with pytest.raises(ValueError, match="at_once is 1 chunk or more, given 0"):
        decoder.encode(vision(8), prefix=[1, 2], cache=cache, at_once=0)
    assert cache.length == 0


def test_golden_files_with_all_chunks_at_once(golden_folder: Path) -> None:
    for backend in ("reference", "cpu"):
        for file in find([golden_folder], ["videoxl_decoder*"]):
            for case in file.cases.values():
                got = videoxl_decoder.replay(case, backend, torch.float32, at_once=64)
                assert [q.problem for q in judge(case, got, torch.float32) if q.problem] == []


@torch.no_grad()
@pytest.mark.parametrize("switch", ["constant_vst", "skip_unread"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_what_is_skipped_changes_nothing(switch: str, layers: int) -> None:
    """In float64, and on the CPU's kernels; the last chunk is a shorter one, the ratio divides no chunk."""
    for backend, dtype, near in (("reference", torch.float64, 1e-13), ("cpu", torch.float32, 1e-4)):
        texts = []
        for on in (True, False):
            torch.manual_seed(0)
            language = Qwen2ForCausalLM(Qwen2Config(**(SIZES | {"num_hidden_layers": layers})))
            given = {switch: on, "backend": backend}
            decoder = VSTDecoder(language, per_picture=4, chunk=12, ratio=5, **given).to(dtype).eval()
            texts.append(decoder.answer(decoder.encode(vision(32).to(dtype), prefix=[1]), ids(4))[1])
        torch.testing.assert_close(*texts, rtol=near, atol=near)


def test_rows_that_nobody_reads_are_not_computed() -> None:
    """Of the last two layers the MLP of the first sees VST rows only, that of the second none."""
    decoder, rows = adapted(), list[tuple[int, int]]()
    for i, layer in enumerate(decoder.language.model.layers):
        layer.mlp.register_forward_pre_hook(lambda _, given, i=i: rows.append((i, given[0].shape[1])))
    decoder.encode(vision(24))
    assert rows == [(0, 15), (1, 3)] * 2
    rows.clear()
    decoder.skip_unread = False
    decoder.encode(vision(24))
    assert rows == [(0, 15), (1, 15), (2, 15)] * 2


@torch.no_grad()
def test_pooling_before_the_last_linear() -> None:
    late, early = (VideoXL(TINY, pool_early=early, backend="reference").double() for early in (False, True))
    features = torch.randn(3, 16, 32, dtype=torch.float64)
    torch.testing.assert_close(early.project(features), late.project(features), rtol=1e-13, atol=1e-13)
    assert late.project(features).shape == (3, 4, 32)


def batch() -> dict[str, Tensor]:
    """Two samples of 4 and 3 pictures, the second padded on its left."""
    one, two = (
        torch.cat([ids(3), torch.full((4,), IMAGE), ids(5)]),
        torch.cat([ids(1), torch.full((3,), IMAGE), ids(4)]),
    )
    rows = torch.stack([one, torch.cat([torch.zeros(4, dtype=torch.long), two])])
    labels = rows.masked_fill(rows == IMAGE, IGNORED)
    labels[1, :4] = IGNORED
    mask = torch.ones_like(rows)
    mask[1, :4] = 0
    return {"input_ids": rows, "labels": labels, "attention_mask": mask, "vision": vision(28).view(7, 4, 32)}


def gradients(decoder: VSTDecoder, **changed: Any) -> tuple[Tensor, dict[str, Tensor]]:
    decoder.zero_grad()
    loss = decoder(**(batch() | changed)).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in decoder.named_parameters() if p.grad is not None}


def test_a_batch_is_its_samples_and_checkpointing_changes_nothing() -> None:
    decoder, given = adapted(chunk=8).train(), batch()
    loss, grads = gradients(decoder)
    # Nobody reads what the VST rows of the last layer ask.
    idle = {name for name, grad in grads.items() if "beacon" in name and not grad.any()}
    assert idle == {f"language.model.layers.2.self_attn.beacon_q_proj.{kind}" for kind in ("weight", "bias")}
    assert sum("beacon" in name for name in grads) == 3 * 6 + 1
    apart, count = [], []
    for b, pictures in enumerate((slice(0, 4), slice(4, 7))):
        keep = given["attention_mask"][b].bool()
        row = {name: given[name][b][keep][None] for name in ("input_ids", "labels")}
        count.append(int((row["labels"][:, 1:] != IGNORED).sum()))
        apart.append(decoder(**row, vision=given["vision"][pictures]).loss * count[-1])
    torch.testing.assert_close(loss, sum(apart).detach() / sum(count))
    assert gradients(decoder, num_items_in_batch=2 * sum(count))[0] == pytest.approx(loss.item() / 2)
    decoder.gradient_checkpointing_enable()
    again, recomputed = gradients(decoder)
    assert torch.equal(loss, again)
    assert all(torch.equal(grads[name], recomputed[name]) for name in grads)


def test_the_last_answer_has_a_gradient_in_the_first_frame() -> None:
    decoder, seen = adapted(), vision(32).requires_grad_()
    row = torch.cat([ids(2), torch.full((8,), IMAGE), ids(3)])
    labels = torch.full_like(row, IGNORED)
    labels[-1] = row[-1]
    decoder(row[None], seen.view(8, 4, 32), labels=labels[None]).loss.backward()
    assert seen.grad is not None
    assert bool(seen.grad.abs().amax(1).gt(0).all())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"position_ids": torch.zeros(2, 12)}, "position_ids: a batch is"),
        (
            {"vision": torch.zeros(7, 3, 32)},
            r"sample 0 has 4 pictures: vision is \[4, 4, 32\] for it, given \[4, 3, 32\]",
        ),
        ({"vision": torch.zeros(8, 4, 32)}, "the ids have 7 pictures, 8 are given"),
        ({"labels": torch.zeros(2, 3)}, "labels too"),
        ({"input_ids": torch.tensor([[5, IMAGE, 6, IMAGE]] * 2), "labels": None, "attention_mask": None}, "in one run"),
    ],
)
def test_refused_batches(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        adapted()(**(batch() | changed))


def test_refused_models() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    with pytest.raises(TypeError, match="of Llama and Qwen2"):
        VSTDecoder(Gemma2ForCausalLM(Gemma2Config(**SIZES)))
    with pytest.raises(ValueError, match="use_sliding_window"):
        VSTDecoder(Qwen2ForCausalLM(Qwen2Config(**SIZES, use_sliding_window=True)))
    decoder = adapted()
    decoder.language.model.layers[0].self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match="attention dropout"):
        decoder.train()(**batch())


def test_random_ratios_go_on_and_repeat_with_the_seed() -> None:
    draws = [adapted(chunk=16, ratio=(2, 4, 8), seed=seed) for seed in (3, 3, 4)]
    one, two, other = ([decoder.windows(160) for _ in range(2)] for decoder in draws)
    assert one == two != other
    assert one[0] != one[1]
    assert {ratio for _, ratio in one[0]} == {2, 4, 8}


def test_trained_by_trainer(tmp_path: Path) -> None:
    """The text's loss falls; the weights of VST rows move."""
    decoder = adapted(ratio=(2, 4))
    before = {name: p.detach().clone() for name, p in decoder.named_parameters()}

    class Samples(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int) -> int:
            return index

    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, num_train_epochs=1, learning_rate=1e-2, report_to=[], use_cpu=True,
        gradient_checkpointing=True, remove_unused_columns=False, save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(decoder, arguments, train_dataset=Samples(), data_collator=lambda _: batch())
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]
    moved = [name for name, p in decoder.named_parameters() if not torch.equal(p, before[name])]
    assert sum("beacon" in name for name in moved) == 3 * 6 + 1 - 2


def plain_forms(language: PreTrainedModel) -> None:
    """Another module in a projection's place."""
    attention: Any = language.get_decoder().layers[0].self_attn
    attention.q_proj = torch.nn.Sequential(attention.q_proj)


@torch.no_grad()
def test_changed_weights_and_wrapped_projections_are_seen() -> None:
    decoder = adapted()
    first = decoder.answer(decoder.encode(vision(12)), ids(3))[1]
    decoder.language.model.layers[0].self_attn.beacon_k_proj.weight.mul_(2)
    second = decoder.answer(decoder.encode(vision(12)), ids(3))[1]
    assert not torch.allclose(first, second)
    plain_forms(decoder.language)
    torch.testing.assert_close(decoder.answer(decoder.encode(vision(12)), ids(3))[1], second, rtol=1e-4, atol=1e-5)


def test_released_names(tmp_path: Path) -> None:
    model = VideoXL(TINY)
    released = to_released(model)
    assert released["model.beacon_embed_tokens.weight"].shape == (1, 32)
    assert released["model.layers.2.self_attn.beacon_k_proj.bias"].shape == (16,)
    assert {"model.mm_projector.2.weight", "lm_head.weight", "model.norm.weight"} <= released.keys()
    other = VideoXL(TINY, seed=1)
    other.load_state_dict(from_released(released, other))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(KeyError, match="beacon_embed"):
        from_released({n: t for n, t in released.items() if "beacon_embed" not in n}, other)


def test_from_pixels() -> None:
    """The tower is trained where its weights want it."""
    model = VideoXL(TINY, ratio=4).train()
    pixels = torch.randint(0, 256, (7, 56, 56, 3), dtype=torch.uint8)
    given = batch() | {"pixels": pixels}
    del given["vision"]
    model.tower.requires_grad_(True)
    model(**given).loss.backward()
    assert next(model.tower.parameters()).grad is not None
    model.zero_grad()
    model.tower.requires_grad_(False)
    model(**given).loss.backward()
    assert next(model.tower.parameters()).grad is None
    assert model.projector[0].weight.grad is not None
    with torch.no_grad():
        cache = model.eval().encode_video(pixels, prefix=[1])
        assert cache.tokens == 1 + 28 // 4
        assert model.ask(cache, ids(3), max_new_tokens=2).shape == (1, 2)
