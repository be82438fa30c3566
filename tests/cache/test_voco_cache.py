"""Two stages over a VoCoCache against one masked forward over everything."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

import longreel
import longreel.integrations.transformers
from longreel import VideoLayout
from longreel._transformers import RENAMED, version, with_cache
from longreel.cache import VoCoCache
from longreel.layout import kept, positions

VISION, SEPARATOR, PREFIX, TEXT = 10, 2, 3, 7
WIDTH = 32


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, attn_implementation="longreel", eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def layout(frames: int, voco: int, text: int = TEXT, prefix: int = PREFIX, **rule: Any) -> VideoLayout:
    rule = {"mode": "independent", "prefix_visible_to": "first", "text_sees_prefix": False} | rule
    segments = [("prefix", prefix), *frame(voco) * frames, ("text", text)]
    return VideoLayout.of(
        segments,
        attention=rule["mode"],
        frames_see_prefix=rule["prefix_visible_to"] != "first",
        text_sees_prefix=rule["text_sees_prefix"] or rule["prefix_visible_to"] == "all",
    )


def frame(voco: int) -> list[tuple[str, int]]:
    return [("vision", VISION), ("text", SEPARATOR), ("voco", voco)]


@torch.no_grad()
def masked(model: LlamaForCausalLM, whole: VideoLayout, embeds: Tensor, at: Any = None) -> Tensor:
    """Logits of the text rows from one forward over everything."""
    out = model(
        inputs_embeds=embeds,
        position_ids=torch.from_numpy(positions(whole, at)).long(),
        video_layout=whole,
        use_cache=False,
    )
    return out.logits[:, -TEXT:]


RULES = [
    {"mode": mode, "prefix_visible_to": to, "text_sees_prefix": text, "positions": at}
    for mode, to, text, at in product(
        ("independent", "causal"), ("first", "frames", "all"), (False, True), ("compact", "absolute")
    )
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, rule.values())))
def test_two_stages_equal_the_masked_forward(model: LlamaForCausalLM, rule: dict[str, Any]) -> None:
    voco = 2
    whole = layout(4, voco, **{k: v for k, v in rule.items() if k != "positions"})
    embeds = torch.randn(2, whole.length, WIDTH)
    cache = VoCoCache(model.config, **rule)
    length = VISION + SEPARATOR + voco
    # One frame, then two at once, then one.
    for first, last in ((0, 1), (1, 3), (3, 4)):
        begin, end = (PREFIX + length * first if first else 0), PREFIX + length * last
        segments = ([] if first else [("prefix", PREFIX)]) + frame(voco) * (last - first)
        cache.append(model.model, embeds[:, begin:end], segments)
    expected = masked(model, whole, embeds, rule["positions"])
    with_prefix = rule["text_sees_prefix"] or rule["prefix_visible_to"] == "all"
    question = cache.fork()
    assert (
        question.rows
        == question.layers[0].keys.shape[-2]
        == kept(layout(4, voco, 0, **{k: v for k, v in rule.items() if k != "positions"}))[0]
    )
    assert question.rows == 4 * voco + PREFIX * with_prefix
    with torch.no_grad():
        at_once = model(inputs_embeds=embeds[:, -TEXT:], **with_cache(question)).logits
        torch.testing.assert_close(at_once, expected, atol=1e-5, rtol=1e-5)
        one_by_one = cache.fork()
        rows = [
            model(inputs_embeds=embeds[:, whole.length - TEXT + i, None], **with_cache(one_by_one)).logits
            for i in range(TEXT)
        ]
    torch.testing.assert_close(torch.cat(rows, 1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("voco", [1, 2, 8, 128])
def test_an_image_leaves_its_voco_rows_only(model: LlamaForCausalLM, voco: int) -> None:
    """576 vision tokens: one VoCo token keeps 99.8 % of the keys and values out."""
    whole = VideoLayout.voco(frames=1, vision=576, separator=2, voco=voco, prefix=1, text=TEXT)
    embeds = torch.randn(1, whole.length, WIDTH)
    cache = VoCoCache(model.config)
    cache.append(model.model, embeds[:, :-TEXT], [("prefix", 1), ("vision", 576), ("text", 2), ("voco", voco)])
    assert cache.rows == voco
    assert cache.length == 579 + voco
    per_row = 2 * 3 * 2 * 8 * 4
    assert cache.nbytes == voco * per_row
    if voco == 1:
        assert 1 - cache.nbytes / (576 * per_row) > 0.998
    with torch.no_grad():
        logits = model(inputs_embeds=embeds[:, -TEXT:], **with_cache(cache.fork())).logits
    torch.testing.assert_close(logits, masked(model, whole, embeds), atol=1e-5, rtol=1e-5)


def test_forks_share_and_do_not_disturb(model: LlamaForCausalLM) -> None:
    cache = VoCoCache(model.config)
    cache.append(model.model, torch.randn(1, 14, WIDTH), frame(2))
    before = [layer.keys.clone() for layer in cache.layers]
    fork = cache.fork()
    assert fork.layers[0].keys.data_ptr() == cache.layers[0].keys.data_ptr()
    with torch.no_grad():
        model(input_ids=torch.tensor([[3, 4, 5]]), **with_cache(fork))
    assert fork.layers[0].keys.shape[-2] == 5
    assert all(torch.equal(a, layer.keys) for a, layer in zip(before, cache.layers, strict=True))
    assert cache.length == 14
    with pytest.raises(ValueError, match="ask questions on forks"):
        fork.append(model.model, torch.randn(1, 14, WIDTH), frame(2))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("implementation", ["longreel", "sdpa"])
def test_generate(model: LlamaForCausalLM, beams: int, implementation: str) -> None:
    """The answer is that of generate over the whole prompt; the second stage runs under any attention implementation."""
    cache = VoCoCache(model.config)
    whole = layout(1, 2)
    ids = torch.randint(1, 40, (1, whole.length))
    embeds = model.get_input_embeddings()(ids).detach()
    cache.append(model.model, embeds[:, :-TEXT], [("prefix", PREFIX), *frame(2)])
    with longreel.use_layout(whole):
        one_stage = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, num_beams=beams)
    try:
        model.set_attn_implementation(implementation)
        for _ in range(2):
            two_stage = model.generate(**cache.question(ids[:, -TEXT:], beams), max_new_tokens=6)
            assert torch.equal(two_stage[:, TEXT:], one_stage[:, whole.length :])
    finally:
        model.set_attn_implementation("longreel")


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("implementation", ["longreel", "sdpa"])
@pytest.mark.parametrize("samples", [1, 3])
def test_questions_of_several_lengths(model: LlamaForCausalLM, samples: int, beams: int, implementation: str) -> None:
    """One batch over one cache, padded on the left, answers as its questions do alone."""
    cache = VoCoCache(model.config, mode="causal", text_sees_prefix=True)
    embeds = torch.randn(samples, 31, WIDTH)
    cache.append(model.model, embeds, [("prefix", PREFIX), *frame(2) * 2])
    questions = [[5, 6, 7, 8, 9], [3, 4], [11, 12, 13]]
    lengths = torch.tensor([len(question) for question in questions])
    mask = (torch.arange(5) >= 5 - lengths[:, None]).long()
    ids = torch.tensor([[0] * (5 - len(question)) + question for question in questions])
    alone = []
    for b, question in enumerate(questions):
        own = VoCoCache(model.config, mode="causal", text_sees_prefix=True)
        model.set_attn_implementation("longreel")
        own.append(model.model, embeds[b % samples, None], [("prefix", PREFIX), *frame(2) * 2])
        one = torch.tensor([question])
        alone.append(model.generate(**own.question(one, beams), max_new_tokens=6)[:, len(question) :])
    try:
        model.set_attn_implementation(implementation)
        together = model.generate(**cache.question(ids, beams, mask), max_new_tokens=6)
    finally:
        model.set_attn_implementation("longreel")
    assert torch.equal(together[:, 5:], torch.cat(alone))
    with pytest.raises(ValueError, match="padded on the left"):
        cache.question(ids, mask=mask.flip(1))
    with pytest.raises(ValueError, match=r"2 questions for a cache of 3 samples" if samples == 3 else "padded"):
        cache.question(ids[:2], mask=mask[:2].flip(1))


@pytest.mark.parametrize("mode", ["independent", "causal"])
def test_appended_in_and_out_of_inference_mode(model: LlamaForCausalLM, mode: Any) -> None:
    """Rows that were written under inference_mode are not written to outside of it."""
    embeds = torch.randn(3, 1, 14, WIDTH)
    caches = [VoCoCache(model.config, mode=mode) for _ in range(2)]
    with torch.inference_mode():
        for part in embeds[:2]:
            caches[0].append(model.model, part, frame(2))
    caches[0].append(model.model, embeds[2], frame(2))
    for part in embeds:
        caches[1].append(model.model, part, frame(2))
    for one, other in zip(caches[0].layers, caches[1].layers, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.values, other.values)


def test_frames_alone_carry_no_earlier_rows(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that sees itself only has its own keys, however many frames went before."""
    keys = []
    attend = longreel.integrations.transformers.block_sparse_attention

    def spy(q: Tensor, k: Tensor, *rest: Any, **named: Any) -> Tensor:
        keys.append(k.shape[1])
        return attend(q, k, *rest, **named)

    monkeypatch.setattr(longreel.integrations.transformers, "block_sparse_attention", spy)
    for mode, visible in (("independent", [14, 14]), ("causal", [14, 16])):
        cache = VoCoCache(model.config, mode=mode)  # type: ignore[arg-type]
        keys.clear()
        for _ in range(2):
            cache.append(model.model, torch.randn(1, 14, WIDTH), frame(2))
        assert keys[:: len(keys) // 2] == visible


def test_the_last_layer_computes_what_is_kept(model: LlamaForCausalLM) -> None:
    rows = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[1]))
        for layer in model.model.layers
    ]
    VoCoCache(model.config).append(model.model, torch.randn(1, 31, WIDTH), [("prefix", PREFIX), *frame(2) * 2])
    for hook in hooks:
        hook.remove()
    assert rows == [31, 31, 4]


def test_a_first_stage_that_fails_leaves_the_cache_empty(model: LlamaForCausalLM) -> None:
    cache = VoCoCache(model.config)
    hook = model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cache.append(model.model, torch.ones(1, 14, WIDTH), frame(2))
    hook.remove()
    assert (cache.rows, cache.nbytes, cache.batch) == (0, 0, 1)
    cache.append(model.model, torch.ones(1, 14, WIDTH), frame(2))
    assert cache.rows == 2


def test_the_released_rule_needs_more_than_voco_rows() -> None:
    """Why a cache has no "image" mode: with two groups under one image rule, text sees the second group's whole picture."""
    visible = VideoLayout.of([*frame(1) * 2, ("text", 1)], attention="image").dense_mask()[0, -1]
    first, second = VISION + SEPARATOR, 2 * (VISION + SEPARATOR) + 1
    assert not visible[:first].any()
    assert visible[first : second + 1].all()


def test_saved_and_loaded(model: LlamaForCausalLM, tmp_path: Path) -> None:
    cache = VoCoCache(model.config, mode="causal", prefix_visible_to="frames")
    cache.append(model.model, torch.randn(1, 17, WIDTH), [("prefix", PREFIX), *frame(2)])
    cache.save(tmp_path / "cache.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "cache.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    again = VoCoCache.load(tmp_path / "cache.safetensors", model.config)
    assert (again.rows, again.length, again.mode) == (5, 17, "causal")
    more = torch.randn(1, 14, WIDTH)
    for one in (cache, again):
        one.append(model.model, more, frame(2))
    for a, b in zip(cache.layers, again.layers, strict=True):
        assert torch.equal(a.keys, b.keys)
        assert torch.equal(a.values, b.values)
    other = LlamaConfig(num_hidden_layers=2)
    with pytest.raises(ValueError, match="has 3 layers, the model 2"):
        VoCoCache.load(tmp_path / "cache.safetensors", other)


def test_reset(model: LlamaForCausalLM) -> None:
    cache = VoCoCache(model.config)
    for _ in range(2):
        cache.append(model.model, torch.ones(1, 17, WIDTH), [("prefix", PREFIX), *frame(2)])
        assert (cache.rows, cache.length) == (2, 17)
        cache.reset()
        assert (cache.rows, cache.length, cache.get_seq_length()) == (0, 0, 0)


@pytest.mark.parametrize(
    ("segments", "says"),
    [
        ([("vision", 4), ("voco", 2)], "the segments have 6 tokens and embeds 5"),
        ([("vision", 3), ("voco", 1), ("text", 1)], "ends with voco tokens"),
        ([("voco", 4), ("audio", 1)], "unknown segment kind"),
    ],
)
def test_bad_segments(model: LlamaForCausalLM, segments: list[tuple[str, int]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VoCoCache(model.config).append(model.model, torch.zeros(1, 5, WIDTH), segments)


def test_a_stage_that_fails_leaves_the_cache_as_it_was(model: LlamaForCausalLM) -> None:
    cache = VoCoCache(model.config)
    cache.append(model.model, torch.ones(1, 17, WIDTH), [("prefix", PREFIX), *frame(2)])
    before = [layer.keys for layer in cache.layers]
    hook = model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cache.append(model.model, torch.ones(1, 14, WIDTH), frame(2))
    hook.remove()
    assert all(layer.keys is keys for layer, keys in zip(cache.layers, before, strict=True))
    cache.append(model.model, torch.ones(1, 14, WIDTH), frame(2))
    assert cache.rows == 4
    model.set_attn_implementation("sdpa")
    try:
        with pytest.raises(ValueError, match="attn_implementation='sdpa' takes no layout"):
            cache.append(model.model, torch.ones(1, 14, WIDTH), frame(2))
    finally:
        model.set_attn_implementation("longreel")


def test_bad_options(model: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="mode='image' is not one of 'independent', 'causal'"):
        VoCoCache(model.config, mode="image")  # type: ignore[arg-type]
    cache = VoCoCache(model.config)
    cache.append(model.model, torch.zeros(1, 17, WIDTH), [("prefix", PREFIX), *frame(2)])
    with pytest.raises(ValueError, match="a prefix stands before the first frame only"):
        cache.append(model.model, torch.zeros(1, 17, WIDTH), [("prefix", PREFIX), *frame(2)])


def test_a_batch_of_another_size(model: LlamaForCausalLM) -> None:
    cache = VoCoCache(model.config)
    embeds = torch.randn(2, VISION + SEPARATOR + 1, WIDTH)
    cache.append(model.model, embeds, frame(1))
    with pytest.raises(ValueError, match="holds 2 samples and embeds 1"):
        cache.append(model.model, embeds[:1], frame(1))
    assert cache.rows == 1


def test_a_decoder_that_keeps_nothing(model: LlamaForCausalLM) -> None:
    training = LlamaForCausalLM(model.config)
    training.set_attn_implementation("longreel")
    checkpointed(training).train()
    cache, embeds = VoCoCache(model.config), torch.randn(1, VISION + SEPARATOR + 1, WIDTH)
    if version() < RENAMED:  # type: ignore[operator]
        with pytest.raises(ValueError, match=r"after eval\(\)"):
            cache.append(training.model, embeds, frame(1))
        assert cache.rows == cache.length == 0
        cache.append(training.eval().model, embeds, frame(1))
        assert cache.rows == cache.layers[0].rows == 1
    else:
        # Newer versions keep the cache in training.
        cache.append(training.model, embeds, frame(1))
        other = VoCoCache(model.config)
        other.append(training.eval().model, embeds, frame(1))
        torch.testing.assert_close(cache.layers[-1].keys, other.layers[-1].keys)


def checkpointed(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """With gradient checkpointing, whose name has changed."""
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    return model


def test_files_that_are_not_of_this_model(model: LlamaForCausalLM, tmp_path: Path) -> None:
    cache, path = VoCoCache(model.config), tmp_path / "rows.safetensors"
    cache.append(model.model, torch.randn(1, VISION + SEPARATOR + 1, WIDTH), frame(1))
    cache.save(path)
    wider = LlamaConfig(**model.config.to_dict() | {"num_key_value_heads": 4})
    with pytest.raises(ValueError, match="has 2 key heads of 8, the model 4 of 8"):
        VoCoCache.load(path, wider)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="not a VoCoCache: cut short"):
        VoCoCache.load(path, model.config)


def test_a_fork_without_the_prefix_takes_no_frames(model: LlamaForCausalLM) -> None:
    """Frames would see a prefix that the fork left out."""
    cache = VoCoCache(model.config, prefix_visible_to="frames")
    cache.append(model.model, torch.randn(1, 17, WIDTH), [("prefix", PREFIX), *frame(2)])
    fork = cache.fork()
    assert (fork.tokens, fork.counts.hidden, cache.tokens) == (2, PREFIX, 5)
    with pytest.raises(ValueError, match="this fork left out the prefix"):
        fork.append(model.model, torch.randn(1, 14, WIDTH), frame(2))
    cache.append(model.model, torch.randn(1, 14, WIDTH), frame(2))


def test_crop_counts_positions_and_stops_at_the_video(model: LlamaForCausalLM) -> None:
    """Assisted decoding crops a fork; a crop that counted cached tokens would take none."""
    cache = VoCoCache(model.config)
    cache.append(model.model, torch.randn(1, 14, WIDTH), frame(2))
    fork = cache.fork()
    with torch.no_grad():
        model(input_ids=torch.tensor([[3, 4, 5, 6]]), **with_cache(fork))
    for length in (18, 17, -1, 15, 14):
        fork.crop(length)
        assert fork.get_seq_length() == (16 if length == -1 else length)
    assert [layer.tokens for layer in fork.layers] == [2, 2, 2]
    with pytest.raises(ValueError, match="takes text away: 1 tokens are to go, the cache holds 0 of text"):
        fork.crop(13)


def test_a_cap_holds_for_text_and_beams(model: LlamaForCausalLM) -> None:
    """A fork's text is refused where the cap ends, before it is written."""
    each = 2 * 3 * 2 * 8 * 4
    cache = VoCoCache(model.config, max_bytes=6 * each)
    cache.append(model.model, torch.randn(1, 14, WIDTH), frame(2))
    fork = cache.fork()
    with torch.no_grad():
        model(input_ids=torch.tensor([[3, 4, 5]]), **with_cache(fork))
        with pytest.raises(MemoryError, match="room for 6 tokens; it holds 5, 2 more were given"):
            model(input_ids=torch.tensor([[3, 4]]), **with_cache(fork))
        assert [layer.tokens for layer in fork.layers] == [5, 5, 5]
        model(input_ids=torch.tensor([[3]]), **with_cache(fork))
    assert sum(layer.allocated for layer in fork.layers) <= 6 * each
    cache.fork(3)
    with pytest.raises(MemoryError, match="4 copies"):
        cache.fork(4)
    with pytest.raises(ValueError, match=r"max_bytes=1\.5"):
        VoCoCache(model.config, max_bytes=1.5)  # type: ignore[arg-type]


def test_a_video_cached_under_inference_mode_trains_text(model: LlamaForCausalLM) -> None:
    """Questions over a cached video may be trained, whatever mode cached it."""
    embeds, ids = torch.randn(1, 14, WIDTH), torch.tensor([[3, 4, 5]])
    gradients = []
    for inference in (True, False):
        cache = VoCoCache(model.config)
        with torch.inference_mode(inference):
            cache.append(model.model, embeds, frame(2))
        assert not any(layer.keys.is_inference() for layer in cache.layers)
        model.zero_grad()
        model(input_ids=ids, **with_cache(cache.fork())).logits.square().sum().backward()
        gradients.append(model.model.layers[0].self_attn.k_proj.weight.grad.clone())
    model.zero_grad()
    assert torch.equal(*gradients)
    assert gradients[0].abs().sum() > 0


def test_a_window_that_ends_inside_what_was_dropped_is_refused() -> None:
    """A window counts keys; of these the cache dropped some, so that it would reach a prefix that lies outside of it."""
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = MistralConfig(**sizes, **heads, sliding_window=16, attn_implementation="longreel")
    model = MistralForCausalLM(config).eval()
    cache = VoCoCache(config, prefix_visible_to="all")
    cache.append(model.model, torch.randn(1, 13, 32), [("prefix", 2), ("vision", 9), ("voco", 2)])
    ids = torch.ones(1, 4, dtype=torch.long)
    with torch.no_grad():
        model(ids[:, :3], **with_cache(cache.fork()))
        with pytest.raises(ValueError, match="window or chunks of 16 rows end inside these 17 positions"):
            model(ids, **with_cache(cache.fork()))
