"""Released folders of VoCo-LLaMA: a tiny model saved under LLaVA-1.5's names and loaded again, and a run with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_checkpoint import WORDS, vocabularies
from torch import Tensor
from transformers import AutoTokenizer
from typer.testing import CliRunner

from longreel.cli.main import app
from longreel.models.checkpoint import fingerprint
from longreel.models.sizes import LanguageSize, TowerSize
from longreel.models.voco_llama import PRESETS, Preset, VoCoLlama, released_name, to_released
from longreel.models.voco_llama.checkpoint import CheckpointError, load, sized
from longreel.models.voco_llama.model import TOWER
from longreel.models.voco_llama.prompts import by_vocabulary

SMALL = Preset(
    name="small-for-tests",
    tower=TowerSize(image=56, patch=14, width=32, layers=2, heads=2, mlp=64),
    language=LanguageSize(width=32, layers=2, heads=4, kv_heads=2, mlp=64, vocabulary=61, positions=4096),
)
CONFIG = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64,
    "vocab_size": 61, "max_position_embeddings": 4096, "mm_hidden_size": 32, "mm_vision_tower": "openai/a-clip",
}  # fmt: skip


def write(folder: Path, state: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    save_file({name: value.clone() for name, value in state.items()}, folder / "model.safetensors")
    return folder


def same(one: VoCoLlama, other: VoCoLlama) -> None:
    for (name, mine), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


def test_saved_under_released_names_and_loaded_again(tmp_path: Path) -> None:
    model, other = VoCoLlama(SMALL, seed=7), VoCoLlama(SMALL)
    unread = {
        TOWER + "post_layernorm.weight": torch.zeros(32),
        TOWER + "encoder.layers.2.mlp.fc1.weight": torch.zeros(64, 32),
        TOWER + "embeddings.position_ids": torch.zeros(1, 17),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
    }
    load(other, write(tmp_path / "c", to_released(model) | unread))
    same(model, other)


def test_the_tower_may_lie_in_its_own_folder(tmp_path: Path) -> None:
    model, other = VoCoLlama(SMALL, seed=7), VoCoLlama(SMALL)
    state = to_released(model)
    tower = {name.removeprefix(TOWER): state.pop(name) for name in list(state) if name.startswith(TOWER)}
    folder = write(tmp_path / "c", state)
    with pytest.raises(CheckpointError, match=r"lacks model\.vision_tower"):
        load(other, folder)
    (folder / "a-clip").mkdir()
    clip = {f"vision_model.{name}": value.clone() for name, value in tower.items()} | {"logit_scale": torch.zeros(1)}
    save_file(clip, folder / "a-clip" / "model.safetensors")
    load(other, folder)
    same(model, other)
    # One that was trained on stands in the checkpoint: it is not replaced.
    tuned = VoCoLlama(SMALL, seed=8)
    save_file({name: value.clone() for name, value in to_released(tuned).items()}, folder / "model.safetensors")
    load(other, folder)
    same(tuned, other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("model.mm_projector.0.bias"), r"lacks model\.mm_projector\.0\.bias$"),
        (lambda s: s.update({TOWER + "encoder.layers.3.mlp.fc1.bias": torch.zeros(1)}), r"has unknown .*layers\.3"),
        (
            lambda s: s.update({"lm_head.weight": torch.zeros(60, 32)}),
            r"lm_head\.weight has shape \[60, 32\].*\[61, 32\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: Any, said: str) -> None:
    state = to_released(VoCoLlama(SMALL))
    change(state)
    with pytest.raises(CheckpointError, match=said):
        load(VoCoLlama(SMALL), write(tmp_path / "c", state))


def test_sizes_come_from_the_checkpoint(tmp_path: Path) -> None:
    made = sized(PRESETS["7b"], write(tmp_path / "c", {"x": torch.zeros(1)}))
    assert (made.language, made.tower.width, made.tower.layers) == (SMALL.language, 32, 23)
    with pytest.raises(CheckpointError, match="without a VoCo token"):
        sized(PRESETS["7b"], write(tmp_path / "d", {"x": torch.zeros(1)}, vocab_size=32000))


def test_names_and_shapes_of_the_true_sizes() -> None:
    """No weight is allocated; LLaVA-1.5-7B's, with 32001 ids."""
    model = VoCoLlama(PRESETS["7b"], device="meta")
    shapes = {released_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
    for name, shape in {
        "model.embed_tokens.weight": (32001, 4096),
        "lm_head.weight": (32001, 4096),
        "model.mm_projector.0.weight": (4096, 1024),
        "model.mm_projector.2.weight": (4096, 4096),
        "model.layers.31.mlp.gate_proj.weight": (11008, 4096),
        TOWER + "embeddings.position_embedding.weight": (577, 1024),
        TOWER + "encoder.layers.22.mlp.fc1.weight": (4096, 1024),
        TOWER + "pre_layrnorm.weight": (1024,),
    }.items():
        assert shapes[name] == shape
    assert sum(1 for name in shapes if name.startswith("model.layers.")) == 32 * 9
    assert not any("encoder.layers.23" in name for name in shapes)


def test_run_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, SMALL.name, SMALL)
    picture, lines = tmp_path / "a.png", tmp_path / "run.jsonl"
    Image.effect_noise((64, 48), 50).save(picture)
    folder = write(tmp_path / "c", to_released(VoCoLlama(SMALL, seed=7)))
    vocabularies(folder)
    asked = by_vocabulary(["what is it ?", "is it ?"], folder, 5)
    assert asked is not None
    before, after = asked.prompts[0]
    assert before.tolist() == [WORDS.index("<s>")]
    assert WORDS.index("what") in after.tolist()
    assert asked.stop == WORDS.index("</s>")
    command = ["run", str(picture), "--system", "voco-llama", "--preset", SMALL.name, "--checkpoint", str(folder)]
    given = [
        "--question",
        "what is it ?",
        "--question",
        "is it ?",
        "--compare",
        "--answer-tokens",
        "4",
        "--json",
        str(lines),
    ]
    result = CliRunner().invoke(app, [*command, *given])
    assert result.exit_code == 0, result.output
    assert "No answer" not in result.stdout
    line = json.loads(lines.read_text())
    assert (line["weights"], line["passed"]) == (f"checkpoint {fingerprint(folder)}", True)
    for question in line["questions"]:
        assert question["answer"] in result.stdout
        assert len(question["ids"]) <= 4
    (folder / "tokenizer.json").write_text("{")
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "its tokenizer cannot be read" in result.stderr


def test_a_voco_token_that_is_not_the_last_id_is_refused(tmp_path: Path) -> None:
    """A vocabulary padded behind it would answer from a row that was never trained."""
    vocabularies(tmp_path)
    speech = AutoTokenizer.from_pretrained(tmp_path)
    speech.add_tokens(["<voco>"])
    speech.save_pretrained(tmp_path)
    ids = len(WORDS) + 1
    assert by_vocabulary(["what is it ?"], tmp_path, 5, ids) is not None
    with pytest.raises(ValueError, match=rf"has <voco> as {ids - 1}, and the vocabulary ends with 63: "):
        by_vocabulary(["what is it ?"], tmp_path, 5, 64)


def test_a_vocabulary_that_may_be_padded_needs_a_tokenizer(tmp_path: Path) -> None:
    folder = write(tmp_path / "padded", {"model.norm.weight": torch.zeros(32)}, vocab_size=64)
    with pytest.raises(CheckpointError, match=r"64 ids may be padded behind the VoCo token, and no tokenizer says"):
        sized(SMALL, folder)
    (folder / "tokenizer.json").write_text("{}")
    assert sized(SMALL, folder).language.vocabulary == 64
