"""What a model's own mask says is computed, or refused in a line: windows, chunks, packed documents, blocks."""

import copy
from typing import Any

import pytest
import torch
from pairs import CLOSE, SIZES, answers, both, left_mask, pair_of, some_ids
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MllamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    StaticCache,
)
from transformers.masking_utils import or_masks
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

import longreel
from longreel import VideoLayout
from longreel.integrations.transformers import range_mask

Pair = tuple[PreTrainedModel, PreTrainedModel]
ROWS = 13
HYBRID = ["sliding_attention", "full_attention"]
WINDOWED: dict[str, tuple[type, type, dict[str, Any]]] = {
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 4}),
    "phi3": (Phi3ForCausalLM, Phi3Config, {"sliding_window": 4}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"use_sliding_window": True, "sliding_window": 4, "layer_types": HYBRID}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {"head_dim": 8, "sliding_window": 4, "layer_types": HYBRID}),
    "llama4": (
        Llama4ForCausalLM, Llama4TextConfig,
        {"intermediate_size_mlp": 48, "num_local_experts": 2, "head_dim": 8, "attention_chunk_size": 4,
         "num_experts_per_tok": 1, "layer_types": ["chunked_attention", "full_attention"]},
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(WINDOWED))
def windowed(request: pytest.FixtureRequest) -> Pair:
    model, config, changes = WINDOWED[request.param]
    return pair_of(model, config, **changes)


@pytest.fixture(scope="module")
def mistral() -> Pair:
    return pair_of(*WINDOWED["mistral"][:2], sliding_window=4)


@pytest.fixture(scope="module")
def llama() -> Pair:
    return pair_of(LlamaForCausalLM, LlamaConfig)


def test_a_window_or_chunk_is_computed(windowed: Pair) -> None:
    """Alone, with padding on either side, and under a layout that says nothing else; and it is not the causal mask."""
    ids = some_ids(2, ROWS)
    both(windowed, ids)
    left = left_mask(2, ROWS, 5)
    both(windowed, ids, rows=left, attention_mask=left, position_ids=(left.cumsum(1) - 1).clamp(min=0))
    both(windowed, ids, rows=left.flip(1), attention_mask=left.flip(1))
    with torch.no_grad():
        expected = windowed[1](ids).logits
        for layout in (VideoLayout.causal(ROWS), VideoLayout.causal(ROWS).to("cpu")):
            torch.testing.assert_close(windowed[0](ids, video_layout=layout).logits, expected, **CLOSE)
        whole = pair_of(type(windowed[0]), type(windowed[0].config), **_without_bound(windowed[0].config))[1]
        assert not torch.allclose(whole(ids).logits, expected, atol=1e-3)


def _without_bound(config: Any) -> dict[str, Any]:
    kept = {
        name: getattr(config, name)
        for name in (
            "use_sliding_window",
            "head_dim",
            "layer_types",
            "intermediate_size_mlp",
            "num_local_experts",
            "num_experts_per_tok",
        )
        if getattr(config, name, None) is not None
    }
    bound = "attention_chunk_size" if hasattr(config, "attention_chunk_size") else "sliding_window"
    return kept | {bound: 64}


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_with_a_window_or_chunk(windowed: Pair, cache: str) -> None:
    """Caches that let go of what no row sees any more, and those of a fixed size; prompts longer and shorter than the window."""
    given = {} if cache == "dynamic" else {"cache_implementation": "static"}
    try:
        windowed[1].generate(some_ids(1, 3), max_new_tokens=1, **given)
    except TypeError as error:
        pytest.skip(f"this transformers cannot do so itself: {error}")
    for length in (ROWS, 3):
        ids, mask = some_ids(2, length), left_mask(2, length, 2)
        answers(windowed, ids, attention_mask=mask, **given)
        with longreel.use_layout(VideoLayout.batch([VideoLayout.causal(length), VideoLayout.causal(length - 2)])):
            ours = windowed[0].generate(ids, attention_mask=mask, max_new_tokens=7, do_sample=False, **given)
        assert torch.equal(ours, windowed[1].generate(ids, attention_mask=mask, max_new_tokens=7, do_sample=False))


def test_a_window_of_the_length_changes_nothing() -> None:
    pair, ids = pair_of(MistralForCausalLM, MistralConfig, sliding_window=ROWS), some_ids(2, ROWS)
    layout = VideoLayout.voco(frames=2, vision=3, voco=1, prefix=1, text=4)
    with torch.no_grad():
        windowed = pair[0](ids, video_layout=layout).logits
        plain = pair_of(MistralForCausalLM, MistralConfig, sliding_window=None)[0](ids, video_layout=layout).logits
    torch.testing.assert_close(windowed, plain, atol=0, rtol=0)


def test_a_window_and_a_layout_of_frames_are_refused(mistral: Pair) -> None:
    layout = VideoLayout.voco(frames=2, vision=3, voco=1, prefix=1, text=4)
    with pytest.raises(ValueError, match="own window of 4 rows cannot be combined with a layout"):
        mistral[0](some_ids(1, ROWS), video_layout=layout)
    with pytest.raises(ValueError, match="own window of 4 rows cannot be combined"):
        mistral[0](some_ids(1, ROWS), video_layout=VideoLayout.sliding_window(ROWS, 3, sinks=1))
    both_windows = mistral[0](some_ids(1, ROWS), video_layout=VideoLayout.sliding_window(ROWS, 3)).logits
    assert both_windows.isfinite().all()


def test_the_narrower_of_two_windows_holds(mistral: Pair) -> None:
    ids = some_ids(2, ROWS)
    narrow = pair_of(MistralForCausalLM, MistralConfig, sliding_window=3)[1]
    with torch.no_grad():
        for window, expected in ((3, narrow), (9, mistral[1])):
            ours = mistral[0](ids, video_layout=VideoLayout.sliding_window(ROWS, window)).logits
            torch.testing.assert_close(ours, expected(ids).logits, **CLOSE)


PACKED = torch.cat([torch.arange(5), torch.arange(1), torch.arange(7)])[None]


def apart(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits of the documents of `PACKED`, each alone."""
    with torch.no_grad():
        return torch.cat([model(part).logits for part in ids.split([5, 1, 7], dim=1)], 1)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_packed_documents(name: str, request: pytest.FixtureRequest) -> None:
    """From position_ids, with a cache too, and from cu_seq_lens, as transformers' collator for packed training gives them."""
    ours, eager = request.getfixturevalue(name)
    ids = some_ids(1, ROWS)
    bounds = torch.tensor([0, 5, 6, 13], dtype=torch.int32)
    flat = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 7, "max_length_k": 7}
    seq = {"seq_idx": torch.tensor([[0] * 5 + [1] + [2] * 7])}
    layout = VideoLayout.packed([VideoLayout.causal(n) for n in (5, 1, 7)])
    expected = apart(eager, ids)
    given: dict[str, Any]
    for given in (
        {"use_cache": False}, {"use_cache": True}, flat | {"use_cache": False}, flat | seq, {"video_layout": layout},
        flat | {"video_layout": layout.to("cpu")},
    ):  # fmt: skip
        with torch.no_grad():
            got = ours(ids, position_ids=PACKED, **given).logits
        torch.testing.assert_close(got, expected, **CLOSE)


def test_packed_documents_that_something_else_denies(llama: Pair) -> None:
    ours, ids = llama[0], some_ids(1, ROWS)
    with pytest.raises(
        ValueError, match="position_ids begin anew where an attention_mask, a cache, a position other than 0 or"
    ):
        ours(ids, position_ids=PACKED, attention_mask=torch.ones_like(ids))
    for given in ({"use_cache": False}, {"cu_seq_lens_q": torch.tensor([0, 5, 13])}):
        with pytest.raises(ValueError, match="begins a document where the layout does not"):
            ours(ids, position_ids=PACKED, video_layout=VideoLayout.causal(ROWS), **given)
    for bounds in ([0, 5, 12], [1, 5, 13], [0, 9, 5, 13]):
        with pytest.raises(ValueError, match="cu_seq_lens_q says"):
            ours(ids, cu_seq_lens_q=torch.tensor(bounds))
    with pytest.raises(ValueError, match="cu_seq_lens_k differ"):
        ours(ids, cu_seq_lens_q=torch.tensor([0, 5, 13]), cu_seq_lens_k=torch.tensor([0, 6, 13]))


def test_positions_that_step_back_to_no_beginning_are_refused(llama: Pair) -> None:
    """With a cache transformers takes them for one sequence, without one for documents."""
    for at in (torch.arange(7).flip(0), torch.tensor([3, 4, 5, 2, 3, 4, 5])):
        with (
            pytest.raises(ValueError, match="a position other than 0 or one that repeats says one sequence"),
            torch.no_grad(),
        ):
            llama[0](some_ids(1, 7), position_ids=at[None], use_cache=True)


@torch.no_grad()
def test_positions_that_patches_share(llama: Pair) -> None:
    """With a cache transformers takes them for one sequence; where they could be documents as well, they are refused."""
    ids = some_ids(1, 7)
    both(llama, ids, position_ids=torch.tensor([[0, 1, 2, 2, 2, 3, 4]]), use_cache=True)
    for at in ([0, 0, 0, 1, 1, 1, 2], [0] * 7, [0, 1, 2, 2, 3, 0, 1]):
        with pytest.raises(ValueError, match="one that repeats says one sequence"):
            llama[0](ids, position_ids=torch.tensor([at]), use_cache=True)


def test_positions_of_padding_begin_no_document(llama: Pair) -> None:
    """As generate numbers padded rows, and as training loops do."""
    ids, left = some_ids(2, ROWS), left_mask(2, ROWS, 5)
    for mask in (left, left.flip(1)):
        at = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
        both(llama, ids, rows=mask, attention_mask=mask, position_ids=at)


def test_a_static_cache_and_left_padding(llama: Pair) -> None:
    ids, mask = some_ids(2, 6), left_mask(2, 6, 2)
    answers(llama, ids, attention_mask=mask, cache_implementation="static")


def test_values_narrower_than_keys() -> None:
    """Multi-head latent attention."""
    pair = pair_of(
        DeepseekV3ForCausalLM, DeepseekV3Config, num_key_value_heads=4, qk_rope_head_dim=4, qk_nope_head_dim=8,
        v_head_dim=6, kv_lora_rank=16, q_lora_rank=16, n_routed_experts=4, moe_intermediate_size=16, n_group=1, topk_group=1,
        num_experts_per_tok=2, first_k_dense_replace=1,
    )  # fmt: skip
    both(pair, some_ids(2, ROWS))
    answers(pair, some_ids(2, 5))


def test_keywords_that_change_nothing_pass(llama: Pair) -> None:
    ids = some_ids(2, ROWS)
    expected = llama[1](ids).logits
    types = torch.zeros_like(ids)
    for given in ({"cache_position": torch.arange(ROWS)}, {"token_type_ids": types}, {"output_attentions": True},
                  {"seq_idx": types}, {"num_items_in_batch": 3}, {"any_other": "eager drops it"}):  # fmt: skip
        torch.testing.assert_close(llama[0](ids, **given).logits, expected, **CLOSE)
    torch.testing.assert_close(llama[0](ids, logits_to_keep=1).logits, expected[:, -1:], **CLOSE)


@pytest.mark.parametrize(
    "keyword", ["softcap", "s_aux", "sinks", "position_bias", "attention_bias", "head_mask", "indices", "block_indices"]
)
def test_keywords_that_change_the_result_are_refused(llama: Pair, keyword: str) -> None:
    """In one line that prints no tensor."""
    with pytest.raises(ValueError, match=f"does not compute {keyword}=<float32 \\[1, 400\\]>") as error:
        llama[0](some_ids(1, 5), **{keyword: torch.ones(1, 400)})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("model", "config", "sizes", "line"),
    [
        (BloomForCausalLM, BloomConfig, {"n_head": 4, "n_layer": 1}, "computes its attention itself"),
        (FalconForCausalLM, FalconConfig, {}, "chooses among attention classes of its own"),
    ],
)
def test_models_that_take_no_attention(model: type, config: type, sizes: dict[str, Any], line: str) -> None:
    """When they are made, and when they are switched."""
    tiny = config(**SIZES | sizes)
    with pytest.raises(ValueError, match=line):
        model(config(**SIZES | sizes, attn_implementation="longreel"))
    eager = model(tiny)
    with pytest.raises(ValueError, match=line):
        eager.set_attn_implementation("longreel")
    assert eager.config._attn_implementation != "longreel"


def test_models_that_compute_with_their_mask_are_refused() -> None:
    mask = range_mask(2, 5, 5)
    assert (mask.shape, mask.ndim) == ((2, 1, 5, 5), 4)
    assert mask[:, :, :, :5] is mask
    assert mask[..., :5] is mask
    for compute in (
        lambda: torch.zeros(2, 1, 5, 5) + mask,
        lambda: mask + torch.zeros(5),
        lambda: torch.where(mask, 0.0, 1.0),
        lambda: mask == 0,
        lambda: 1 - mask,
        lambda: mask.sum(),
        lambda: mask[:, 0],
        lambda: mask[:, :, 1:3],
        lambda: mask[..., :3],
    ):
        with pytest.raises(ValueError, match="computes with its attention mask itself"):
            compute()


@pytest.mark.parametrize("vmap", [False, True])
def test_a_mask_function_of_a_users_own_is_probed(llama: Pair, vmap: bool) -> None:
    """Equal to the dense mask it says, or refused where two ranges a row do not hold it."""
    ours, eager = llama
    ids = some_ids(2, ROWS)

    def prefix(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q < 5) & (k < 5)

    mask = range_mask(2, ROWS, ROWS, mask_function=or_masks(lambda b, h, q, k: k <= q, prefix), use_vmap=vmap)
    q, k = torch.arange(ROWS)[:, None], torch.arange(ROWS)
    dense = ((k <= q) | ((q < 5) & (k < 5))).expand(2, 1, -1, -1)
    assert not torch.equal(dense, (k <= q).expand(2, 1, -1, -1))
    with torch.no_grad():
        torch.testing.assert_close(
            ours(ids, attention_mask=mask).logits, eager(ids, attention_mask=bias(dense)).logits, **CLOSE
        )
        with (
            pytest.raises(ValueError, match="cannot be combined with a layout"),
            longreel.use_layout(VideoLayout.causal(ROWS)),
        ):
            ours(ids, attention_mask=range_mask(2, ROWS, ROWS, mask_function=prefix))
        holes = range_mask(1, ROWS, ROWS, mask_function=lambda b, h, q, k: (k <= q) & (k % 3 != 1), use_vmap=vmap)
        with pytest.raises(ValueError, match="a mask that longreel attention does not compute: row"):
            ours(ids[:1], attention_mask=holes)
        later = range_mask(1, 9, 5, mask_function=lambda b, h, q, k: q >= 0, use_vmap=vmap)
        with pytest.raises(ValueError, match="keys behind the last row"):
            later.plan(None, 1, torch.device("cpu"))


def bias(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)


def test_a_short_attention_mask_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the attention mask is \[1, 4\], the rows so far are 5"):
        range_mask(1, 5, 5, attention_mask=torch.ones(1, 4, dtype=torch.bool))


def test_an_attention_mask_longer_than_the_input(llama: Pair) -> None:
    """Without a cache nobody can say which columns are the rows'; in one of a fixed size they are the first."""
    ids, mask = some_ids(2, ROWS), torch.ones(2, ROWS + 3, dtype=torch.long)
    mask[1, :4] = 0
    with pytest.raises(ValueError, match=f"{ROWS} rows over {ROWS + 3} keys, the layer has {ROWS} over {ROWS}"):
        llama[0](ids, attention_mask=mask, use_cache=False)
    both(llama, ids, rows=mask[:, :ROWS], attention_mask=mask, use_cache=True)
    for model in llama:
        with torch.no_grad():
            cache = StaticCache(config=model.config, max_cache_len=ROWS + 3)
            rows = model(ids, attention_mask=mask, past_key_values=cache).logits[mask[:, :ROWS].bool()]
        if model is llama[0]:
            ours = rows
    torch.testing.assert_close(ours, rows, **CLOSE)


def test_dropout_in_training_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=32, n_head=4, n_layer=1, attn_implementation="longreel"))
    with pytest.raises(ValueError, match=r"attention dropout 0\.1 is not computed"):
        model.train()(some_ids(1, 5))


def test_attention_to_pictures_without_a_mask_is_refused() -> None:
    """A layer that says nothing of being causal, and is given no mask: its keys are not its rows."""
    sizes = {name: size for name, size in SIZES.items() if name != "initializer_range"}
    config = MllamaTextConfig(
        **sizes | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        cross_attention_layers=[1],
        attn_implementation="longreel",
    )
    model = MllamaForCausalLM(config).eval()
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="MllamaTextCrossAttention was given no mask and does not say"),
    ):
        model(some_ids(1, 5), cross_attention_states=torch.randn(1, 7, 32))


def test_meta_tensors_give_shapes_and_fake_ones_a_line(llama: Pair) -> None:
    model, ids = copy.deepcopy(llama[0]), some_ids(2, 5)
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as fake,
        pytest.raises(ValueError, match="fake tensors say nothing"),
    ):
        model(fake.from_tensor(ids))
    model = model.to("meta")
    for given in ({}, {"attention_mask": torch.ones(2, 5, dtype=torch.long, device="meta")}):
        assert model(ids.to("meta"), **given).logits.shape[:2] == (2, 5)
