"""Folders of every released form of LLaMA-VID and of towers of VoCo-LLaMA, by `--checkpoint`; nothing released is left over."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_checkpoint import SMALL, same, vocabularies, write
from test_llama_vid_forms import H, adapter
from test_voco_checkpoint import SMALL as VOCO
from test_voco_checkpoint import same as same_voco
from test_voco_checkpoint import write as write_voco
from typer.testing import CliRunner

from longreel.cli.main import app
from longreel.models.llama_vid import PRESETS, LlamaVid, LlamaVidPreset, from_released, to_released
from longreel.models.llama_vid.checkpoint import load, sized
from longreel.models.released_config import CheckpointError
from longreel.models.voco_llama import VoCoLlama, VoCoPreset, released_name
from longreel.models.voco_llama import checkpoint as voco_llama
from longreel.models.voco_llama import from_released as voco_from_released
from longreel.models.voco_llama import to_released as to_released_voco
from longreel.models.voco_llama.model import TOWER

QFORMER = SMALL.qformer
# The form, the entries of config.json that say so, and those of them that the weights' names show as well.
FORMS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {"bert_type": "qformer_pretrain_freeze", "mm_projector_type": "mlp2x_gelu"}),
    ({"qformer": replace(QFORMER, norm=False)}, {"bert_type": "qformer"}),
    ({"qformer": replace(QFORMER, reads=44)}, {"bert_type": "qformer_pretrain"}),
    ({"text_decoder": "bert"}, {"bert_type": "raw_bert"}),
    ({"text_decoder": "bert", "qformer": replace(QFORMER, layers=2)}, {"bert_type": "raw_bert_layer:2"}),
    ({"projector": "linear"}, {"mm_projector_type": "linear"}),
    ({"projector": "identity"}, {"mm_projector_type": "identity"}),
    ({"projector": "mlp3x_gelu"}, {"mm_projector_type": "mlp3x_gelu"}),
    ({"projector": "mlp1x_gelu"}, {"mm_projector_type": "mlp1x_gelu"}),
    ({"cls_as_patch": True}, {"mm_vision_select_feature": "cls_patch"}),
]
# Neither can be told from names alone.
HIDDEN = ("raw_bert_layer:2", "identity", "cls_patch")


def form_of(preset: LlamaVidPreset) -> tuple[Any, ...]:
    return preset.text_decoder, preset.qformer, preset.projector, preset.cls_as_patch


def without_a_key_bias(model: LlamaVid) -> LlamaVid:
    for layer in model.tower.encoder.layers:
        layer.self_attn.qkv.bias.chunk(3)[1].zero_()
    return model


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickled"])
@pytest.mark.parametrize("silent", [False, True], ids=["by-config", "by-names"])
@pytest.mark.parametrize(
    ("form", "entries"), FORMS, ids=lambda value: "" if not value else str(list(value.values())[-1])
)
def test_released_forms(
    tmp_path: Path, form: dict[str, Any], entries: dict[str, str], silent: bool, pickled: bool
) -> None:
    if silent and set(entries.values()) & {*HIDDEN}:
        entries = {name: value for name, value in entries.items() if value in HIDDEN}
    elif silent:
        entries = {}
    preset = replace(SMALL, **form)
    model = without_a_key_bias(LlamaVid(preset, seed=7))
    folder = write(tmp_path / "c", to_released(model), pickled, **entries)
    made = sized(SMALL, folder)
    assert form_of(made) == form_of(preset)
    other = LlamaVid(made)
    load(other, folder)
    same(model, other)
    text, pixels = torch.arange(3)[None], torch.randint(0, 256, (2, 56, 56, 3), dtype=torch.uint8)
    with torch.inference_mode():
        ours, theirs = (
            m.compress(m.query(text, m.encode(pixels)), m.encode(pixels), ops=ops)
            for m, ops in ((other, "longreel"), (model, "reference"))
        )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("form", "entries", "left"),
    [
        ({"qformer": replace(QFORMER, reads=44)}, {"bert_type": "qformer"}, "has shape|has unknown model.vlm_att_"),
        ({}, {"bert_type": "qformer"}, "has unknown model.vlm_att_ln"),
        ({"projector": "mlp3x_gelu"}, {"mm_projector_type": "mlp2x_gelu"}, "has unknown model.mm_projector.4"),
        ({"projector": "mlp2x_gelu"}, {"mm_projector_type": "identity"}, "has unknown model.mm_projector.0"),
        ({"projector": "linear"}, {"mm_projector_type": "mlp2x_gelu"}, "lacks model.mm_projector.0"),
    ],
)
def test_entries_and_config_that_disagree(
    tmp_path: Path, form: dict[str, Any], entries: dict[str, str], left: str
) -> None:
    folder = write(tmp_path / "c", to_released(LlamaVid(replace(SMALL, **form))), **entries)
    with pytest.raises(CheckpointError, match=left):
        load(LlamaVid(sized(SMALL, folder)), folder)


@pytest.mark.parametrize(
    "name", ["model.vlm_att_bert_proj.weight", "model.mm_projector.4.weight", "model.vlm_att_extra"]
)
def test_an_adapter_leaves_no_entry_over(name: str) -> None:
    source = adapter()
    released = to_released(source) | {
        "model.layers.0.mlp": torch.zeros(1),
        "model.vlm_att_encoder.bert.embeddings.position_ids": torch.zeros(1, 64),
    }
    source.load_state_dict(from_released(released, source))
    with pytest.raises(CheckpointError, match=f"no place for {name}$"):
        from_released(released | {name: torch.zeros(H, H)}, source)


def test_voco_llama_leaves_no_entry_over() -> None:
    model = VoCoLlama(VOCO)
    released = to_released_voco(model) | {TOWER + "encoder.layers.7.mlp.fc1.bias": torch.zeros(1)}
    model.load_state_dict(voco_from_released(released, model))
    for name in ("model.mm_projector.4.bias", "model.layers.2.input_layernorm.weight", "model.mystery"):
        with pytest.raises(CheckpointError, match=f"no place for {name}$"):
            voco_from_released(released | {name: torch.zeros(1)}, model)


@pytest.mark.parametrize("projector", ["linear", "mlp3x_gelu"])
@pytest.mark.parametrize(("layer", "layers"), [(-2, 2), (-3, 1), (-1, 3), (1, 1), (None, 2)])
def test_the_layer_of_a_clip_tower(tmp_path: Path, layer: int | None, layers: int, projector: str) -> None:
    """Of three layers, whose number the tower's own config.json says."""
    whole = VoCoLlama(replace(VOCO, tower=replace(VOCO.tower, layers=3), projector=projector), seed=7)
    preset = replace(VOCO, tower=replace(VOCO.tower, layers=layers), projector=projector)
    state = to_released_voco(whole)
    tower = {name.removeprefix(TOWER): state.pop(name) for name in list(state) if name.startswith(TOWER)}
    entries = {} if layer is None else {"mm_vision_select_layer": layer}
    folder = write_voco(tmp_path / "c", state, mm_projector_type=projector, **entries)
    (folder / "a-clip").mkdir()
    save_file({f"vision_model.{n}": v.clone() for n, v in tower.items()}, folder / "a-clip" / "model.safetensors")
    own = {"image_size": 56, "patch_size": 14, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 64}
    (folder / "a-clip" / "config.json").write_text(json.dumps({"vision_config": own | {"num_attention_heads": 2}}))
    made = voco_llama.sized(replace(VOCO, tower=replace(VOCO.tower, image=84, mlp=96)), folder)
    assert (made.tower, made.projector) == (preset.tower, projector)
    other = VoCoLlama(made)
    voco_llama.load(other, folder)
    expected = VoCoLlama(preset, seed=7)
    expected.load_state_dict({name: whole.state_dict()[name] for name in expected.state_dict()})
    same_voco(expected, other)
    (folder / "a-clip" / "config.json").write_text(json.dumps(own | {"hidden_act": "gelu"}))
    with pytest.raises(CheckpointError, match=r"a-clip/config\.json: hidden_act 'gelu' is not computed here"):
        voco_llama.sized(VOCO, folder)


def test_names_of_a_linear_projector() -> None:
    preset: VoCoPreset = replace(VOCO, projector="linear")
    assert "model.mm_projector.weight" in {released_name(name) for name in VoCoLlama(preset).state_dict()}


@pytest.mark.parametrize("averaged", [False, True])
def test_a_run_with_a_bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, averaged: bool) -> None:
    """Its config.json says which text decoder it has; the released mean over padding is a switch."""
    monkeypatch.setitem(PRESETS, SMALL.name, SMALL)
    picture, lines = tmp_path / "a.png", tmp_path / "run.jsonl"
    Image.effect_noise((64, 48), 50).save(picture)
    model = without_a_key_bias(LlamaVid(replace(SMALL, text_decoder="bert"), seed=7))
    entries = {"bert_type": "raw_bert_freeze", "model_type": "llava_llama", "rms_norm_eps": 1e-5}
    folder = write(tmp_path / "c", to_released(model), **entries)
    vocabularies(folder)
    asked = ["--question", "what is it ?", "--question", "is", *["--average-padding"] * averaged]
    command = ["run", str(picture), "--preset", SMALL.name, "--checkpoint", str(folder), *asked, "--compare"]
    result = CliRunner().invoke(app, [*command, "--answer-tokens", "3", "--json", str(lines)])
    assert result.exit_code == 0, result.output
    assert json.loads(lines.read_text())["passed"]
