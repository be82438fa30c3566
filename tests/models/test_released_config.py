"""A checkpoint's own config.json: the language model is transformers' of that config, and what is not understood is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint import CONFIG, SMALL, released_model, same, write
from test_voco_checkpoint import CONFIG as VOCO_CONFIG
from test_voco_checkpoint import SMALL as VOCO
from test_voco_checkpoint import write as write_voco
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from longreel.models.llama_vid import LlamaVid, to_released
from longreel.models.llama_vid import checkpoint as llama_vid
from longreel.models.released_config import CheckpointError, sized_language
from longreel.models.voco_llama import VoCoLlama
from longreel.models.voco_llama import checkpoint as voco_llama
from longreel.models.voco_llama import to_released as to_released_voco

# What each entry changes, with the value that it is tried at: head size 8, 300 tokens.
ENTRIES: dict[str, dict[str, Any]] = {
    "eps": {"rms_norm_eps": 1e-2},
    "theta": {"rope_theta": 50.0},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "linear-new-name": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 50.0},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    "llama3": {
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "longrope": {
        "rope_scaling": {
            "rope_type": "longrope", "factor": 4.0, "short_factor": [3.0] * 4, "long_factor": [5.0] * 4,
            "original_max_position_embeddings": 2048,
        },
    },
    "parameters": {"rope_parameters": {"rope_type": "linear", "rope_theta": 50.0, "factor": 2.0}, "rope_scaling": None},
    "parameters-theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}, "rope_scaling": None},
    "activation": {"hidden_act": "gelu"},
    "attention-bias": {"attention_bias": True},
    "mlp-bias": {"mlp_bias": True},
    "head": {"head_dim": 16},
    "all-heads": {"num_key_value_heads": None},
    "tied": {"tie_word_embeddings": True},
    "mistral": {"model_type": "llava_mistral", "sliding_window": None, "head_dim": 16},
    "qwen2": {"model_type": "llava_qwen", "use_sliding_window": False, "rms_norm_eps": 1e-2},
}  # fmt: skip
# Windows are part of LLaMA-VID's language model alone.
WINDOWS: dict[str, dict[str, Any]] = {
    "mistral-window": {"model_type": "llava_mistral", "sliding_window": 20},
    "qwen2-window": {
        "model_type": "llava_qwen", "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1
    },
}  # fmt: skip
KINDS = {"llava_mistral": "mistral", "llava_qwen": "qwen2"}


def truth(config: Mapping[str, Any]) -> Any:
    """transformers' own model of a config.json, its weights wide enough that every entry shows."""
    given = {name: value for name, value in config.items() if value is not None and not name.startswith("mm_")}
    kind = KINDS.get(given.pop("model_type", ""), "llama")
    for own in ("num_query", "compress_type", "bert_type"):
        given.pop(own, None)
    model = AutoModelForCausalLM.from_config(
        CONFIG_MAPPING[kind](**given), dtype=torch.float32, trust_remote_code=False
    )
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            # so small that eps weighs
            torch.nn.init.normal_(parameter, 0.3)
    return model.eval()


def entries_of(model: Any) -> dict[str, Tensor]:
    state = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return state


@pytest.mark.parametrize("name", [*ENTRIES, *WINDOWS])
@torch.inference_mode()
def test_llama_vids_language_model(tmp_path: Path, name: str) -> None:
    changes = (ENTRIES | WINDOWS)[name]
    config = {**CONFIG, "rope_scaling": None, **changes}
    expected, plain = truth(config), truth({**CONFIG, "rope_scaling": None})
    released = {n: value for n, value in to_released(released_model()).items() if _of_no_language(n)}
    folder = write(tmp_path / "c", released | entries_of(expected), **{"rope_scaling": None, **changes})
    made = llama_vid.sized(SMALL, folder)
    model = LlamaVid(made)
    llama_vid.load(model, folder)
    torch.manual_seed(1)
    before, visual, after = torch.tensor([1]), torch.randn(290, 32), torch.arange(5, 14)
    logits = model.answer(visual, before, after, length=1)[1]
    for reference, agrees in ((expected, True), (plain, False)):
        embed = reference.get_input_embeddings()
        rows = torch.cat([embed(before), visual, embed(after)])[None]
        whole = reference(inputs_embeds=rows, use_cache=False).logits[0, -len(after) :]
        assert torch.allclose(logits, whole, rtol=1e-4, atol=1e-4) is agrees


@pytest.mark.parametrize("name", ENTRIES)
@torch.inference_mode()
def test_voco_llamas_language_model(tmp_path: Path, name: str) -> None:
    changes = ENTRIES[name]
    config = {**VOCO_CONFIG, **changes}
    expected, plain = truth(config), truth(VOCO_CONFIG)
    released = {n: value for n, value in to_released_voco(VoCoLlama(VOCO)).items() if _of_no_language(n)}
    folder = write_voco(tmp_path / "c", released | entries_of(expected), **changes)
    model = VoCoLlama(voco_llama.sized(VOCO, folder)).eval()
    voco_llama.load(model, folder)
    ids = torch.arange(120)[None] % 60
    logits = model.language(input_ids=ids).logits
    for reference, agrees in ((expected, True), (plain, False)):
        assert torch.allclose(logits, reference(input_ids=ids).logits, rtol=1e-4, atol=1e-4) is agrees


def _of_no_language(name: str) -> bool:
    return name.startswith(("model.vlm_att", "model.mm_projector", "model.vision_tower"))


def test_positions_that_a_changing_embedding_has() -> None:
    """Beyond them its frequencies change with the length, and cached keys would not follow."""
    for scaling, positions in (
        ({"type": "dynamic", "factor": 2.0}, 2048),
        ({"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "factor": 4.0,
          "original_max_position_embeddings": 512}, 512),
        ({"type": "linear", "factor": 4.0}, 16384),
    ):  # fmt: skip
        config = {**CONFIG, "max_position_embeddings": 2048, "rope_scaling": scaling}
        own = ("mm_hidden_size", "num_query", "compress_type")
        assert sized_language(SMALL.language, config, own=own).positions == positions


def test_tied_embeddings_that_differ(tmp_path: Path) -> None:
    language = truth({**CONFIG, "tie_word_embeddings": True})
    released = {n: value for n, value in to_released(released_model()).items() if _of_no_language(n)}
    state = released | dict(language.state_dict())
    folder = write(tmp_path / "same", state, tie_word_embeddings=True)
    model = LlamaVid(llama_vid.sized(SMALL, folder))
    llama_vid.load(model, folder)
    assert torch.equal(model.language.lm_head.weight, language.lm_head.weight)
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(CheckpointError, match=r"differs from .*, to which config\.json ties it"):
        llama_vid.load(model, write(tmp_path / "other", state, tie_word_embeddings=True))
    del state["lm_head.weight"]
    folder = write(tmp_path / "untied", state)
    with pytest.raises(CheckpointError, match=r"lacks lm_head\.weight"):
        llama_vid.load(LlamaVid(llama_vid.sized(SMALL, folder)), folder)


BOTH: list[dict[str, Any]] = [
    {"model_type": "opt"}, {"text_config": {"hidden_size": 32}}, {"quantization_config": {"bits": 4}},
    {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}, {"sliding_window": 16}, {"attn_logit_softcapping": 30.0},
    {"rope_scaling": {"type": "mystery", "factor": 2.0}}, {"hidden_act": "mystery"}, {"rms_norm_eps": "small"},
    {"num_key_value_heads": "four"}, {"mm_projector_type": "cabstract"}, {"mm_projector_type": "mlp0x_gelu"},
    {"mm_vision_select_feature": "cls"}, {"mm_use_im_start_end": True}, {"mm_resampler_type": "perceiver"},
    {"image_aspect_ratio": "anyres"}, {"mm_patch_merge_type": "spatial_unpad"}, {"mystery": 1},
    {"mm_hidden_size": "32"}, {"mm_hidden_size": -1}, {"max_token": "many"},
]  # fmt: skip
LLAMA_VID: list[dict[str, Any]] = [
    {"compress_type": "max"}, {"compress_type": "grid:1"}, {"bert_type": "gpt"}, {"bert_type": "qformer_layer:2"},
    {"bert_type": "raw_bert_pretrain"}, {"mm_vision_tower": "openai/clip-vit-large-patch14-336"},
    {"mm_vision_select_feature": "cls_patch", "compress_type": "grid:2"}, {"compress_type": 4}, {"num_query": "32"},
    {"num_query": -2}, {"num_query": True},
]  # fmt: skip
VOCO_LLAMA: list[dict[str, Any]] = [
    {"mm_vision_select_feature": "cls_patch"}, {"mm_vision_select_layer": -4}, {"mm_vision_select_layer": 4},
    {"mm_vision_select_layer": "last"}, {"sliding_window": 20, "model_type": "llava_mistral"},
]  # fmt: skip


def named(entries: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in entries.items())


@pytest.mark.parametrize("entries", [*BOTH, *LLAMA_VID], ids=named)
def test_llama_vid_refuses(tmp_path: Path, entries: dict[str, Any]) -> None:
    folder = write(tmp_path / "c", {"x": torch.zeros(1)}, **entries)
    with pytest.raises(CheckpointError) as refusal:
        llama_vid.sized(SMALL, folder)
    said(str(refusal.value), folder, entries)


@pytest.mark.parametrize("entries", [*BOTH, *VOCO_LLAMA], ids=named)
def test_voco_llama_refuses(tmp_path: Path, entries: dict[str, Any]) -> None:
    folder = write_voco(tmp_path / "c", {"x": torch.zeros(1)}, **entries)
    with pytest.raises(CheckpointError) as refusal:
        voco_llama.sized(VOCO, folder)
    said(str(refusal.value), folder, entries)


def said(text: str, folder: Path, entries: dict[str, Any]) -> None:
    """One line, with the file, the entry and its value."""
    assert text.startswith(f"{folder}/config.json: ")
    assert "\n" not in text
    name, value = next(iter(entries.items()))
    assert name.replace("rope_scaling", "rope_type") in text
    assert name == "auto_map" or str(value if not isinstance(value, dict) else next(iter(value.values()))) in text


def test_a_config_that_is_no_object(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"x": torch.zeros(1)})
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json: must be an object, is list"):
        llama_vid.sized(SMALL, folder)


def test_entries_that_change_nothing_pass(tmp_path: Path) -> None:
    idle = {
        "_name_or_path": "a/vicuna", "architectures": ["LlavaLlamaAttForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 60, "freeze_mm_mlp_adapter": False, "tune_mm_mlp_adapter": True, "image_aspect_ratio": "pad",
        "image_grid_pinpoints": [[336, 672]], "image_processor": "./processor", "initializer_range": 0.02, "max_length": 4096,
        "max_token": 2048, "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "model_type": "llava",
        "mm_vision_tower": "./model_zoo/LAVIS/eva_vit_g.pth", "pretraining_tp": 1, "mm_use_im_patch_token": True,
        "mm_use_im_start_end": False, "torch_dtype": "bfloat16", "transformers_version": "4.31.0", "use_cache": True,
        "use_mm_proj": True, "mm_projector_lr": 2e-5, "unfreeze_mm_vision_tower": True, "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": 2048, "mm_projector_type": "mlp2x_gelu", "bert_type": "qformer_pretrain_freeze_all",
        "mystery_that_is_off": False, "temperature": 0.9, "do_sample": True,
    }  # fmt: skip
    model = released_model()
    folder = write(tmp_path / "c", to_released(model), **idle)
    other = LlamaVid(llama_vid.sized(SMALL, folder))
    llama_vid.load(other, folder)
    same(model, other)
    assert other.language.config.rms_norm_eps == 1e-6


def test_absent_entries_are_as_the_released_code_has_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"x": torch.zeros(1)})
    config = json.loads((folder / "config.json").read_text())
    del config["compress_type"]
    # Null is absent.
    config |= {"mm_hidden_size": None, "num_query": None, "max_token": None}
    (folder / "config.json").write_text(json.dumps(config))
    made = llama_vid.sized(SMALL, folder)
    assert made.compress is None
    assert made.tower == SMALL.tower
    assert (made.text_decoder, made.qformer, made.projector) == ("qformer", SMALL.qformer, "mlp2x_gelu")
