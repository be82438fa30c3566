"""Video-XL's memory: chunks alone and in groups, questions, bytes, files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from transformers import Gemma3TextConfig, PhiConfig, Qwen2Config
from vst_decoder import Decoder, Grouped, append

from longreel import VideoLayout
from longreel.cache import VSTCache
from longreel.layout import Segment, planning
from longreel.testing.budget import check

WIDTH, PREFIX, WINDOW = 32, 5, 24
LAYERS, HEADS, KV_HEADS = 3, 4, 2
# A partial last chunk, and a ratio that does not divide its chunk.
CHUNKS = [(WINDOW, 4), (WINDOW, 8), (WINDOW, 7), (13, 5)]


def state(seed: int = 0) -> dict[str, Tensor]:
    """Weights of a tiny decoder, float64, every value exact in bfloat16."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 0.3) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator)).bfloat16().double()

    def weights() -> dict[str, Tensor]:
        width = WIDTH // HEADS
        named = {"model.embed_tokens.weight": normal(40, WIDTH, scale=1), "lm_head.weight": normal(40, WIDTH)}
        named |= {"model.beacon_embed_tokens.weight": normal(1, WIDTH, scale=1), "model.norm.weight": normal(WIDTH) + 1}
        for i in range(LAYERS):
            own = f"model.layers.{i}"
            for part in ("", "beacon_"):
                for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
                    named[f"{own}.self_attn.{part}{name}_proj.weight"] = normal(heads * width, WIDTH)
                    named[f"{own}.self_attn.{part}{name}_proj.bias"] = normal(heads * width)
            named[f"{own}.self_attn.o_proj.weight"] = normal(WIDTH, WIDTH)
            for name, shape in (("gate", (48, WIDTH)), ("up", (48, WIDTH)), ("down", (WIDTH, 48))):
                named[f"{own}.mlp.{name}_proj.weight"] = normal(*shape)
            for name in ("input_layernorm", "post_attention_layernorm"):
                named[f"{own}.{name}.weight"] = normal(WIDTH) + 1
        return named

    return weights()


def decoder(dtype: torch.dtype = torch.float32, backend: str | None = None) -> Decoder:
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
    )
    return Decoder(config, {name: weight.to(dtype) for name, weight in state().items()}, backend)


def features(dtype: torch.dtype = torch.float32, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, sum(n for n, _ in CHUNKS), WIDTH, generator=generator).bfloat16().to(dtype)


def cache_of(model: Decoder, **options: Any) -> VSTCache:
    return VSTCache(model.sizes, **{"capacity": 40, "text_capacity": 16, "inv_freq": model.inv_freq} | options)


@torch.no_grad()
def watched(model: Decoder, groups: list[int], dtype: torch.dtype = torch.float32, batch: int = 1) -> VSTCache:
    """A video, so many chunks at once."""
    cache, video, at, first = cache_of(model), features(dtype, batch), 0, 0
    prefix = model.embed(torch.arange(PREFIX)).expand(batch, -1, -1)
    cache.append(model, prefix, [("prefix", PREFIX)])
    for count in groups:
        chunks = CHUNKS[first : first + count]
        tokens = sum(n for n, _ in chunks)
        append(cache, model, video[:, at : at + tokens], chunks)
        at, first = at + tokens, first + count
    return cache


def memory(cache: VSTCache) -> Tensor:
    return torch.stack([torch.stack(layer.cached()) for layer in cache.layers])


@torch.no_grad()
def ask(model: Decoder, cache: VSTCache, ids: Tensor, step: int = 100) -> Tensor:
    """Logits [n, vocab] of a question, `step` tokens at a time."""
    hidden = [model(inputs_embeds=model.embed(part), past_key_values=cache) for part in ids.split(step)]
    return model.logits(torch.cat(hidden, 1))


IDS = torch.tensor([3, 1, 4, 1, 5, 9])


@pytest.mark.parametrize("groups", [[2, 2], [1, 3], [4]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_groups_of_any_size_give_the_same(groups: list[int], dtype: torch.dtype) -> None:
    """Every layer's keys and values, and the answers."""
    truth = watched(decoder(torch.float64), [1, 1, 1, 1], torch.float64)
    ours = watched(decoder(dtype), groups, dtype)
    assert ours.counts == truth.counts
    assert ours.segments == truth.segments
    if dtype is torch.float64:
        torch.testing.assert_close(memory(ours), memory(truth), rtol=0, atol=1e-10)
        return
    # The yardstick takes the same groups: products of other sizes round otherwise.
    plain = watched(decoder(dtype, "reference"), groups, dtype)
    for layer in range(LAYERS):
        check(f"layer {layer}", memory(ours)[layer], memory(truth)[layer], memory(plain)[layer], dtype)
    # The rms error of a few rows is a draw of chance: twice and more between threads and machines.
    question = torch.arange(14)
    logits = [
        ask(decoder(d, b), c.fork(), question)
        for d, b, c in ((dtype, None, ours), (torch.float64, None, truth), (dtype, "reference", plain))
    ]
    check("logits", *logits, dtype)


def test_one_pass_over_everything_is_the_same_and_has_gradients() -> None:
    """Prefix, chunks and text as one masked transformer, with and without gradient checkpointing."""
    model, video = decoder(torch.float64), features(torch.float64)
    layout = VideoLayout.vst(ratio=CHUNKS, prefix=PREFIX, text=len(IDS))
    vst = layout.length - PREFIX - video.shape[1] - len(IDS)

    def logits(video: Tensor, again: bool = False) -> Tensor:
        rows = torch.cat([model.embed(torch.arange(PREFIX)), video, model.embed(IDS), model.vst(vst)], 1)
        grouped = Grouped(layout, model.inv_freq)

        def run(rows: Tensor) -> Tensor:
            return model(inputs_embeds=rows, past_key_values=grouped, n_raw=layout.length - vst)

        hidden = checkpoint(run, rows, use_reentrant=False) if again else run(rows)
        return model.logits(hidden[:, layout.length - vst - len(IDS) : layout.length - vst])

    cache = watched(model, [4], torch.float64)
    torch.testing.assert_close(logits(video), ask(model, cache, IDS), rtol=0, atol=1e-10)
    grads = []
    for again in (False, True):
        leaf = video.clone().requires_grad_()
        logits(leaf, again).square().sum().backward()
        assert leaf.grad is not None
        grads.append(leaf.grad)
    assert torch.equal(*grads)
    # Every chunk reaches the text, through its VST alone.
    assert grads[0][0, :WINDOW].abs().max() > 0
    step = 1e-6 * torch.randn_like(video)
    with torch.no_grad():
        change = logits(video + step).square().sum() - logits(video - step).square().sum()
    torch.testing.assert_close(change / 2, (grads[0] * step).sum(), rtol=1e-6, atol=0)


def test_text_longer_than_a_chunk() -> None:
    """At once, in pieces as long as a chunk, and token by token: as in one pass of everything."""
    model, video, ids = decoder(torch.float64), features(torch.float64), torch.arange(2 * WINDOW + 5) % 37
    layout = VideoLayout.vst(ratio=CHUNKS, prefix=PREFIX, text=len(ids))
    vst = layout.length - PREFIX - video.shape[1] - len(ids)
    rows = torch.cat([model.embed(torch.arange(PREFIX)), video, model.embed(ids), model.vst(vst)], 1)
    with torch.no_grad():
        hidden = model(inputs_embeds=rows, past_key_values=Grouped(layout, model.inv_freq), n_raw=layout.length - vst)
    expected = model.logits(hidden[:, -vst - len(ids) : -vst])
    cache = watched(model, [2, 2], torch.float64)
    cache.text_capacity = len(ids)
    for step in (len(ids), WINDOW, 1):
        torch.testing.assert_close(ask(model, cache.fork(), ids, step), expected, rtol=0, atol=1e-10)


def test_one_cache_has_one_rotation() -> None:
    """Frequencies that change outside, in place or by name, leave its tables as what it holds was rotated."""
    model = decoder()
    cache = watched(model, [4])
    expected = ask(model, cache.fork(), IDS)
    frequencies = model.inv_freq.clone()
    cache.inv_freq.mul_(2)
    assert torch.equal(cache.inv_freq, frequencies)
    with pytest.raises(AttributeError, match="inv_freq"):
        cache.inv_freq = 2 * frequencies  # type: ignore[misc]
    given = frequencies.clone()
    own = cache_of(model, inv_freq=given)
    given.mul_(2)
    assert torch.equal(own.inv_freq, frequencies)
    assert torch.equal(ask(model, cache.fork(), IDS), expected)
    fork = cache.fork()
    ask(model, fork, IDS)
    with pytest.raises(ValueError, match="before there is text"):
        fork.text_capacity = 7
    with pytest.raises(ValueError, match="text_capacity=-1"):
        cache.text_capacity = -1


def test_questions_share_the_video_and_do_not_disturb() -> None:
    model = decoder()
    cache = watched(model, [4])
    before = memory(cache).clone()
    first, second = cache.fork(), cache.fork()
    expected = ask(model, cache.fork(), IDS)
    one_by_one = [ask(model, fork, IDS[i : i + 1]) for i in range(len(IDS)) for fork in (first, second)]
    assert first.layers[0].keys.data_ptr() == cache.layers[0].keys.data_ptr() == second.layers[0].keys.data_ptr()
    assert first.allocated == cache.planned_bytes(1, torch.float32, text=True)
    for logits in (torch.cat(one_by_one[::2]), torch.cat(one_by_one[1::2])):
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(memory(cache), before)
    # A question taken back, and another asked in its place.
    second.crop(cache.length + 2)
    torch.testing.assert_close(ask(model, second, IDS[2:]), expected[2:], rtol=1e-5, atol=1e-5)
    assert second.get_seq_length() == cache.length + len(IDS)
    # The video goes on after questions: forks keep what they had.
    video = features()[:, :WINDOW]
    append(cache, model, video, [(WINDOW, 8)])
    torch.testing.assert_close(memory(first)[..., : before.shape[-2], :], before)
    assert cache.tokens == before.shape[-2] + 3


def test_a_batch_of_videos_and_beams() -> None:
    model = decoder()
    cache = watched(model, [4], batch=2)
    question = cache.fork(repeats=2)
    rows = model.embed(IDS).expand(4, -1, -1)
    with torch.no_grad():
        hidden = model(inputs_embeds=rows, past_key_values=question)
        torch.testing.assert_close(hidden[0], hidden[1])
        question.reorder_cache(torch.tensor([3, 2, 1, 0]))
        more = model(inputs_embeds=rows[:, :1], past_key_values=question)
        question.batch_select_indices(torch.tensor([0]))
        alone = model(inputs_embeds=rows[:1, :1], past_key_values=question)
    torch.testing.assert_close(more[0], more[1])
    assert alone.shape == (1, 1, WIDTH)


def test_transformers_update_returns_narrow_views() -> None:
    """Text through `update`: a fork copies the video once, and goes on behind it."""
    model = decoder()
    cache = watched(model, [4])
    before, fork = memory(cache).clone(), cache.fork()
    rows = torch.randn(1, KV_HEADS, 3, WIDTH // HEADS)
    for _ in range(2):
        (keys, values), *_ = [fork.update(rows, rows, layer) for layer in range(LAYERS)]
        assert (
            keys.untyped_storage().data_ptr()
            == fork.layers[0].memory(0, *(rows.transpose(1, 2),) * 2)[0].untyped_storage().data_ptr()
        )
    assert keys.shape[-2] == cache.tokens + 6
    assert torch.equal(keys[:, :, cache.tokens :], torch.cat([rows, rows], 2))
    assert torch.equal(values[:, :, : cache.tokens], before[0, 1])
    with pytest.raises(ValueError, match="stands behind its video"):
        ask(model, fork, IDS)
    other = cache.fork()
    ask(model, other, IDS)
    with pytest.raises(ValueError, match="in a buffer of its own"):
        other.update(rows, rows, 0)


def test_bytes_are_those_of_the_plan_whatever_happens() -> None:
    """Random appends, questions and growth under a hard cap: nothing beyond the plan, and a refusal changes nothing."""
    model, rng = decoder(), np.random.default_rng(0)
    each = 2 * LAYERS * KV_HEADS * (WIDTH // HEADS) * 4
    refused = 0
    for _ in range(12):
        capacity, text = int(rng.integers(PREFIX, 40)), int(rng.integers(1, 9))
        cache = cache_of(model, capacity=capacity, text_capacity=text, max_bytes=each * 48)
        cache.append(model, model.embed(torch.arange(PREFIX)), [("prefix", PREFIX)])
        assert cache.allocated == cache.planned_bytes(1, torch.float32) == each * capacity
        for _ in range(10):
            before, counts, own = memory(cache).clone(), cache.counts, cache.allocated
            what = rng.integers(3)
            try:
                if what == 0:
                    count = int(rng.integers(2, 30))
                    append(cache, model, features()[:, :count], [(count, int(rng.integers(1, 5)))])
                elif what == 1:
                    fork = cache.fork()
                    ask(model, fork, IDS[: int(rng.integers(1, 7))])
                    assert fork.allocated == each * text
                else:
                    cache.grow(int(rng.integers(1, 60)))
            except (MemoryError, ValueError):
                refused += 1
                assert cache.counts == counts
                assert torch.equal(memory(cache), before)
                assert cache.allocated == own
            assert cache.allocated == each * cache.capacity <= each * 48
            assert cache.nbytes == each * cache.tokens
    assert refused > 10


def test_growing_copies_once_and_changes_nothing() -> None:
    model = decoder()
    cache = watched(model, [4])
    before, logits = memory(cache).clone(), ask(model, cache.fork(), IDS)
    cache.grow()
    assert cache.capacity == 80
    assert torch.equal(memory(cache), before)
    assert torch.equal(ask(model, cache.fork(), IDS), logits)
    with pytest.raises(ValueError, match="does not shrink to 9"):
        cache.grow(9)
    cache.reset()
    assert (cache.tokens, cache.allocated, cache.segments) == (0, 0, ())
    assert torch.equal(memory(watched(model, [4])), before)


def test_a_file_holds_the_memory_its_layout_and_timestamps(tmp_path: Path) -> None:
    model = decoder()
    cache = watched(model, [4])
    about = {"timestamps": [0.0, 10.0, 20.0, 30.0]}
    cache.save(tmp_path / "video.vst", about=about)
    assert VSTCache.described(tmp_path / "video.vst") == about
    loaded = VSTCache.load(tmp_path / "video.vst", model.sizes)
    # Not the configuration's own.
    assert torch.equal(loaded.inv_freq, model.inv_freq)
    assert not torch.equal(loaded.inv_freq, VSTCache(model.sizes, capacity=1).inv_freq)
    assert (loaded.counts, loaded.segments, loaded.capacity) == (cache.counts, cache.segments, cache.capacity)
    assert torch.equal(ask(model, loaded.fork(), IDS), ask(model, cache.fork(), IDS))
    # The video goes on where it was.
    for own in (loaded, cache):
        append(own, model, features()[:, :8], [(8, 4)])
    assert torch.equal(memory(loaded), memory(cache))


def test_a_file_of_version_1_has_the_frequencies_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = VSTCache(decoder().sizes, capacity=40)
    with monkeypatch.context() as patch:
        patch.setattr(VSTCache, "FORMAT", "longreel-vst-cache/1")
        patch.setattr(VSTCache, "_options", lambda _: {"capacity": 40, "text_capacity": 16})
        cache.save(tmp_path / "old.vst")
    loaded = VSTCache.load(tmp_path / "old.vst", decoder().sizes)
    assert torch.equal(loaded.inv_freq, cache.inv_freq)
    with monkeypatch.context() as patch:
        patch.setattr(VSTCache, "_options", lambda _: {"capacity": 40, "text_capacity": 16, "inv_freq": [1.0, 0.5]})
        cache.save(tmp_path / "other.vst")
    with pytest.raises(ValueError, match=r"inv_freq is \[4\] for heads of 8; given \[2\]"):
        VSTCache.load(tmp_path / "other.vst", decoder().sizes)


@pytest.mark.parametrize("limit", ["capacity", "bytes", "buffers"])
def test_what_does_not_fit_is_refused_before_anything_is_computed(limit: str) -> None:
    model = decoder()
    each = 2 * LAYERS * KV_HEADS * (WIDTH // HEADS) * 4
    options = {"capacity": {"capacity": 7}, "bytes": {"max_bytes": 7 * each}, "buffers": {"max_bytes": 39 * each}}[
        limit
    ]
    cache = cache_of(model, **options)

    def untouched(**_: Any) -> None:
        pytest.fail("the decoder was called")

    segments = cache.chunks([(32, 4)])
    with pytest.raises(MemoryError, match=r"room for 7|max_bytes leaves a layer"):
        cache.append(untouched, torch.zeros(1, 40, WIDTH), segments)
    assert (cache.allocated, cache.tokens) == (0, 0)


def test_a_mask_that_masks_something_is_refused() -> None:
    model = decoder()
    cache = cache_of(model)
    with pytest.raises(ValueError, match="attention_mask masks tokens of a chunk"):
        cache.append(model, torch.zeros(1, 10, WIDTH), cache.chunks([(8, 4)]), attention_mask=torch.ones(1, 10).tril(4))


class NothingRead(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(word in func.name() for word in ("_local_scalar_dense", "lift_fresh")), (
            f"{func.name()} synchronises"
        )
        return func(*args, **(kwargs or {}))


def test_a_step_of_text_reads_no_tensor() -> None:
    """What a captured graph needs: lengths stay on the device."""
    model = decoder()
    cache = watched(model, [4]).fork()
    expected = ask(model, cache.fork(), IDS)
    rows = [ask(model, cache, IDS[:1])]
    for i in range(1, 4):
        embeds = model.embed(IDS[i : i + 1])
        with torch.no_grad(), NothingRead():
            hidden = model(inputs_embeds=embeds, past_key_values=cache)
        rows.append(model.logits(hidden))
    torch.testing.assert_close(torch.cat(rows), expected[:4], rtol=1e-5, atol=1e-5)


def test_decoding_plans_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step after the first plans nothing, whatever the memory's length."""
    model = decoder()
    cache = watched(model, [4]).fork()
    ask(model, cache, IDS[:1])
    monkeypatch.setattr(planning, "plan", lambda *_: pytest.fail("planned anew"))
    for i in range(1, 5):
        ask(model, cache, IDS[i : i + 1])


def test_text_goes_on_after_a_step_that_failed_half_way() -> None:
    cache = VSTCache(decoder().sizes, capacity=8, text_capacity=8)
    say = torch.randn(1, KV_HEADS, 2, WIDTH // HEADS)
    q, k = torch.randn(1, 3, HEADS, WIDTH // HEADS), torch.randn(1, 3, KV_HEADS, WIDTH // HEADS)
    cache.attend(0, q, k, k)
    with pytest.raises(ValueError, match="q must be"):
        cache.attend(1, q[:, :2], k, k)
    assert (cache.get_seq_length(), cache.nbytes) == (0, 0)
    for layer in range(LAYERS):
        cache.attend(layer, q, k, k)
    assert [layer.text_tokens for layer in cache.layers] == [3] * LAYERS
    assert cache.get_seq_length() == 3
    # The same where transformers caches text.
    cache = VSTCache(decoder().sizes, capacity=8, text_capacity=8)
    for layer in range(LAYERS):
        cache.update(say, say, layer)
    cache.update(say, say, 0)
    assert cache.get_seq_length() == 2
    for layer in range(LAYERS):
        cache.update(say, say, layer)
    assert [layer.tokens for layer in cache.layers] == [4] * LAYERS


def test_text_of_a_fork_stays_when_the_original_takes_its_own_back() -> None:
    """Text that both had behind the video (`update`), of which one takes a part back and writes anew."""
    cache = watched(decoder(), [4]).fork()

    def say(value: float) -> None:
        rows = torch.full((1, KV_HEADS, 2, WIDTH // HEADS), value)
        for i in range(LAYERS):
            cache.update(rows, rows, i)

    say(1.0)
    fork = cache.fork()
    before = memory(fork).clone()
    cache.crop(-2)
    say(7.0)
    assert torch.equal(memory(fork), before)
    assert not torch.equal(memory(cache), before)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("config", "says"),
    [
        (PhiConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1), r"partial_rotary_factor=0\.5"),
        (Gemma3TextConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1), "differ between layers"),
    ],
)
def test_rotary_embeddings_of_another_kind_are_refused(config: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VSTCache(config, capacity=8)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("use", "error", "says"),
    [  # m, c: the decoder and its cache
        (lambda m, c: c.append(m, m.embed(IDS), [("text", 6)]), ValueError, "'vst' takes prefix, then vst chunks|given text"),
        (lambda m, c: c.append(m, m.embed(IDS), [("prefix", 6)]), ValueError, "a prefix stands before the first chunk only"),
        (lambda m, c: c.append(m, m.embed(IDS), [Segment("vst", 6, 4, 1)]), ValueError, "2 visual .* its segment says 1"),
        (lambda m, c: c.append(m, m.embed(IDS), c.chunks([(8, 4)])), ValueError, "tokens and embeds 6"),
        (lambda m, c: c.chunks([(3, 9)]), ValueError, "has no VST at ratio 9: nothing of it would stay"),
        (lambda m, c: append(c, m, features().repeat(1, 2, 1), [(170, 2)]), MemoryError, r"room for 40 tokens \(capacity\)"),
        (lambda m, c: ask(m, c, IDS.repeat(3)), MemoryError, r"room for 16 tokens of text"),
        (lambda m, c: (ask(m, c, IDS), append(c, m, features()[:, :8], [(8, 4)])), ValueError, "a cache without text"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(use: Any, error: type[Exception], says: str) -> None:
    model = decoder()
    cache = cache_of(model)
    cache.append(model, model.embed(torch.arange(PREFIX)), [("prefix", PREFIX)])
    append(cache, model, features()[:, :10], [(10, 4)])
    before = memory(cache).clone()
    with torch.no_grad(), pytest.raises(error, match=says):
        use(model, cache)
    assert torch.equal(memory(cache)[..., : before.shape[-2], :], before)
    assert cache.counts.carry == 2
