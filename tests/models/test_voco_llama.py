from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Trainer, TrainingArguments

from longreel.cache import VoCoCache
from longreel.layout import kinds
from longreel.models.sizes import LanguageSize, TowerSize
from longreel.models.voco_llama import (
    IGNORED,
    IMAGE,
    Preset,
    VoCoCollator,
    VoCoDecoder,
    VoCoLlama,
    VoCoRule,
    from_released,
    released_name,
    to_released,
)  # fmt: skip

SMALL = Preset(
    name="small-for-tests",
    tower=TowerSize(image=42, patch=14, width=16, layers=2, heads=2, mlp=32),
    language=LanguageSize(width=32, layers=2, heads=4, kv_heads=2, mlp=48, vocabulary=41, positions=512),
)
ROWS, VOCO, BOS, NEWLINE = 9, 40, 1, 13
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def system(**rule: Any) -> VoCoLlama:
    model = VoCoLlama(SMALL, **{"count": 2, "separator": (NEWLINE,)} | rule).eval()
    model.language.generation_config.eos_token_id = None
    model.language.generation_config.pad_token_id = 0
    return model


def pictures(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 42, 42, 3), dtype=torch.uint8)


def sample(count: int, text: int) -> dict[str, Any]:
    """A sample with `count` pictures and `text` ids behind them."""
    ids = [BOS, *[IMAGE] * count, *torch.randint(2, 40, (text,)).tolist()]
    return {"input_ids": ids, **({"pixels": pictures(count)} if count else {})}


def dense(model: VoCoLlama, batch: dict[str, Any]) -> Any:
    """The masked forward, eager, under a dense mask: the language model of `model` is eager from here on."""
    language = model.language
    language.set_attn_implementation("eager")
    seen = torch.from_numpy(batch["video_layout"].dense_mask())[:, None]
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    vision = model.projector(model.encode(batch["pixels"])) if "pixels" in batch else None
    embeds = model.decoder.embed(batch["input_ids"], vision)
    return language(
        inputs_embeds=embeds, attention_mask=mask, position_ids=batch["position_ids"], labels=batch["labels"]
    )


@pytest.mark.parametrize(
    "rule",
    [
        {"count": 1},
        {"count": 8, "text_sees_prefix": True},
        {"shared": False, "mode": "independent"},
        {"shared": False, "mode": "causal", "frames_see_prefix": True, "absolute": True},
        {"shared": False, "mode": "image"},
    ],
    ids=str,
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_forward(rule: dict[str, Any], side: Any) -> None:
    """Several pictures, one, and none, padded to one batch: loss and logits of real rows are those of the dense mask."""
    model = system(**rule)
    batch = model.collator(side=side)([sample(3, 6), sample(0, 9), sample(1, 4)])
    assert list(batch["input_ids"].shape) == list(batch["labels"].shape) == [3, batch["video_layout"].length]
    ours, expected = model(**batch), dense(model, batch)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(ours.loss, expected.loss, **CLOSE)
    torch.testing.assert_close(ours.logits[real], expected.logits[real], **CLOSE)


def test_collator_inserts_voco_tokens_and_labels_the_text() -> None:
    rule = VoCoRule(VOCO, 2, 3, separator=(NEWLINE,))
    two = {"input_ids": [BOS, IMAGE, IMAGE, 5, 6], "labels": [-100, -100, -100, -100, 6], "vision": torch.ones(2, 3, 4)}
    batch = VoCoCollator(rule)([two, {"input_ids": [BOS, 7, 8]}])
    i, v = IMAGE, VOCO
    assert batch["input_ids"].tolist() == [[BOS, i, i, i, i, i, i, NEWLINE, v, v, 5, 6], [0] * 9 + [BOS, 7, 8]]
    assert batch["labels"].tolist() == [[IGNORED] * 11 + [6], [IGNORED] * 9 + [IGNORED, 7, 8]]
    assert kinds(batch["video_layout"])[0].tolist() == [5, 2, 2, 2, 2, 2, 2, 1, 3, 3, 1, 1]
    assert batch["position_ids"][1].tolist() == [0] * 9 + [0, 1, 2]
    assert batch["vision"].shape == (2, 3, 4)
    own = VoCoCollator(VoCoRule(VOCO, 1, 2, shared=False, mode="causal"))([two | {"vision": torch.ones(2, 2, 4)}])
    assert own["input_ids"].tolist() == [[BOS, i, i, v, i, i, v, 5, 6]]
    # Frames at prefix + VoCo tokens before them, text behind the last frame.
    assert own["position_ids"].tolist() == [[0, 1, 2, 3, 2, 3, 4, 5, 6]]
    for wrong, says in (
        ({"vision": torch.ones(1, 3, 4)}, "2 placeholders .* and 1 pictures"),
        ({"labels": [1]}, "5 ids and 1 labels"),
    ):
        with pytest.raises(ValueError, match=says):
            VoCoCollator(rule)([two | wrong])
    assert VoCoCollator(rule, max_length=11)([two])["input_ids"].shape == (1, 11)
    with pytest.raises(ValueError, match="would cut pictures or VoCo tokens, which reach row 9"):
        VoCoCollator(rule, max_length=9)([two])


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize(
    ("rule", "count"),
    [
        ({}, 1),
        ({"count": 128}, 1),
        ({"text_sees_prefix": True}, 3),
        ({"shared": False, "mode": "independent"}, 5),
        ({"shared": False, "mode": "causal", "frames_see_prefix": True}, 5),
        ({"shared": False, "mode": "causal", "text_sees_prefix": True, "absolute": True}, 4),
    ],
    ids=str,
)
def test_two_stages_answer_as_one(rule: dict[str, Any], count: int, beams: int) -> None:
    """Questions on a cache that saw the frames two at a time, against generate over everything."""
    model = system(**rule)
    one = sample(count, 5)
    cache = model.encode_video(one["pixels"], prefix=[BOS], at_once=2)
    groups = 1 if model.decoder.rule.shared else count
    prefix = bool(rule.get("text_sees_prefix") or rule.get("frames_see_prefix"))
    assert cache.rows == groups * model.decoder.rule.count + prefix
    for question in (one["input_ids"][-5:], [7, 8, 9]):
        batch = model.collator()([{**one, "input_ids": [BOS, *[IMAGE] * count, *question]}])
        del batch["labels"]
        expected = model.generate(**batch, max_new_tokens=5, num_beams=beams)
        got = model.ask(cache, torch.tensor(question), max_new_tokens=5, num_beams=beams)
        assert torch.equal(got, expected)


def test_no_frames_at_once_are_refused() -> None:
    model = system(shared=False, mode="independent")
    with pytest.raises(ValueError, match="at_once is 1 frame or more, given 0"):
        model.encode_video(sample(3, 5)["pixels"], at_once=0)


@pytest.mark.parametrize("beams", [1, 2])
def test_several_questions_at_once(beams: int) -> None:
    model = system(shared=False, mode="causal")
    cache = model.encode_video(pictures(3), prefix=[BOS])
    questions = [torch.tensor(ids) for ids in ([5, 6, 7, 8], [9], [10, 11])]
    options: dict[str, Any] = {"max_new_tokens": 5, "num_beams": beams}
    together = model.ask(cache, questions, **options)
    assert torch.equal(together, torch.cat([model.ask(cache, question, **options) for question in questions]))


def test_a_batch_decodes_as_its_samples() -> None:
    model = system()
    samples = [sample(1, 6), sample(0, 4), sample(2, 3)]
    options: dict[str, Any] = {"max_new_tokens": 5, "num_beams": 2}
    batches = [model.collator()(part) for part in (samples, *([one] for one in samples))]
    for batch in batches:
        del batch["labels"]
    together, *alone = (model.generate(**batch, **options) for batch in batches)
    assert torch.equal(together, torch.cat(alone))


def test_more_footage_and_a_cache_from_disk(tmp_path: Path) -> None:
    model = system(shared=False, mode="causal")
    frames, question = pictures(5), torch.tensor([5, 6, 7])
    whole = model.encode_video(frames, prefix=[BOS])
    model.encode_video(frames[:2], prefix=[BOS]).save(tmp_path / "cache.safetensors")
    loaded = VoCoCache.load(tmp_path / "cache.safetensors", model.language.config)
    more = model.encode_video(frames[2:], prefix=[BOS], cache=loaded)
    assert torch.equal(model.ask(more, question, max_new_tokens=6), model.ask(whole, question, max_new_tokens=6))
    for a, b in zip(whole.layers, more.layers, strict=True):
        torch.testing.assert_close(a.keys, b.keys, **CLOSE)
    with pytest.raises(ValueError, match="takes mode='independent' or 'causal'"):
        system().encode_video(frames, cache=loaded)


@pytest.mark.parametrize(("model", "config"), [(LlamaForCausalLM, LlamaConfig), (Qwen2ForCausalLM, Qwen2Config)])
def test_any_decoder_gets_voco_tokens(model: Any, config: Any) -> None:
    language = model(
        config(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            eos_token_id=None,
            pad_token_id=0,
        )
    )
    decoder = VoCoDecoder(language, patches_per_frame=6, voco_tokens=1).eval()
    assert (decoder.rule.token, language.get_input_embeddings().num_embeddings, language.lm_head.out_features) == (
        40,
        41,
        41,
    )
    vision = torch.randn(1, 6, 32)
    batch = decoder.collator()([{"input_ids": [BOS, IMAGE, 5, 6, 7], "vision": vision}])
    decoder(**batch).loss.backward()
    assert language.get_input_embeddings().weight.grad[40].abs().sum() > 0
    cache = decoder.encode(vision, prefix=[BOS])
    assert cache.rows == 1
    del batch["labels"]
    expected = decoder.generate(**batch, max_new_tokens=6)
    assert torch.equal(decoder.ask(cache, torch.tensor([5, 6, 7]), max_new_tokens=6), expected)


def test_training_step_through_trainer(tmp_path: Path) -> None:
    """Loss and gradients of a step with gradient checkpointing are those of the dense mask."""
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate (requirements/dev.txt)")
    samples = [sample(2, 6), sample(0, 9), sample(1, 5)]
    ours, plain = system().train(), system().train()
    gradients: dict[str, Tensor] = {}

    class Keeping(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            loss = super().training_step(*args, **kwargs)
            gradients.update({n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None})
            return loss

    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=3, activation_checkpointing=True, report_to=[],
        remove_unused_columns=False, use_cpu=True, save_strategy="no", disable_tqdm=True, max_grad_norm=0.0,
    )  # fmt: skip
    trainer = Keeping(ours, arguments, data_collator=ours.collator(), train_dataset=samples)  # type: ignore[arg-type]
    trained = trainer.train()
    assert ours.language.is_activation_checkpointing
    loss = dense(plain, plain.collator()(samples)).loss
    loss.backward()
    assert trained.training_loss == pytest.approx(loss.item(), abs=1e-5)
    expected = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    assert any(name.startswith("projector") for name in expected)
    torch.testing.assert_close(gradients, expected, **CLOSE)


def test_released_names_both_ways() -> None:
    model, other = system(), VoCoLlama(SMALL, seed=1)
    released = to_released(model)
    for name in (
        "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight",
        "model.mm_projector.0.weight", "model.mm_projector.2.bias",
        "model.vision_tower.vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight",
        "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding",
    ):  # fmt: skip
        assert name in released
    assert len(released) == len(model.state_dict()) == len({released_name(name) for name in model.state_dict()})
    assert released["model.embed_tokens.weight"].shape == (41, 32)
    other.load_state_dict(from_released(released, other))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    # A LLaVA-1.5 checkpoint has no VoCo row yet: it keeps the model's own.
    before = {name: released[name][:-1] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    fresh = VoCoLlama(SMALL, seed=2)
    row = fresh.decoder.language.get_input_embeddings().weight[-1].clone()
    fresh.load_state_dict(from_released(released | before, fresh))
    assert torch.equal(fresh.decoder.language.get_input_embeddings().weight[-1], row)
    with pytest.raises(KeyError, match=r"model.norm.weight"):
        from_released({name: t for name, t in released.items() if name != "model.norm.weight"}, other)


def test_an_offloaded_model_answers_as_itself() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = system(count=2)
    frames, question = torch.randn(3, model.decoder.rule.rows, model.decoder.config.hidden_size), torch.arange(3, 8)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    expected = model.decoder.ask(model.decoder.encode(frames, prefix=[1]), question, **options)
    accelerate.cpu_offload(model.decoder.language, execution_device=torch.device("cpu"))
    assert model.decoder.language.get_input_embeddings().weight.is_meta
    assert torch.equal(model.decoder.ask(model.decoder.encode(frames, prefix=[1]), question, **options), expected)


def test_bad_frames_and_questions() -> None:
    decoder = system(count=2).decoder
    rows, width = decoder.rule.rows, decoder.config.hidden_size
    with pytest.raises(ValueError, match=rf"vision is \[frames, {rows}, H\]; given \[2, {rows - 1}, {width}\]"):
        decoder.encode(torch.randn(2, rows - 1, width))
    cache = decoder.encode(torch.randn(2, rows, width))
    with pytest.raises(ValueError, match="at least one id"):
        decoder.ask(cache, torch.arange(0))
    two = decoder.ask(cache, torch.arange(3, 8), num_return_sequences=2, do_sample=True, max_new_tokens=3, top_k=1)
    assert two.shape == (2, 3)
