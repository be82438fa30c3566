"""`longreel parity`: a model with longreel inside against the same without, whole; what is wrong must be seen."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "patching"))

from patch_models import MODELS, tiny_vlms
from snapshot import snapshot

from longreel.cli.main import app
from longreel.files.foreign import ForeignError
from longreel.integrations.patches import qformer
from longreel.parity.folder import known_ids
from longreel.parity.inputs import drawn_inputs
from longreel.parity.lines import gradient_lines, logits_lines, tensor_lines
from longreel.parity.whole import _cast, whole


@pytest.fixture(autouse=True)
def every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some leave bf16 to the model's own projections."""
    monkeypatch.setattr(qformer, "_bf16_in_fp32", lambda: False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["instructblip_video-sdpa", "blip2_t5-eager", "llava_onevision-sdpa", "llama_vid", "voco_llama"]
)
def test_a_right_patch(name: str, dtype: torch.dtype) -> None:
    model, given = MODELS[name]()
    model.to(dtype).train()
    # the first call of some of transformers' models leaves hooks of theirs
    model(**{key: _cast(value, dtype) for key, value in given.items()})
    before = snapshot(model)
    drift = whole(model, given)
    assert drift.right, drift.table()
    assert snapshot(model) == before
    assert all(module.training for module in model.modules())
    whats = {line.what for line in drift.lines}
    assert {"gradients", "logits" if "llama_vid" not in name and name != "voco_llama" else "output"} <= whats
    # something was compared: both are another rounding
    assert any(line.apart > 0 for line in drift.lines)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_op_is_seen_from_its_layer_on(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = MODELS["instructblip_video-sdpa"]()
    right = qformer.qformer_attention
    monkeypatch.setattr(qformer, "qformer_attention", lambda *args, **kwargs: right(*args, **kwargs) * 1.05)
    drift = whole(model.to(dtype), given)
    assert not drift.right
    wrong = {line.what for line in drift.lines if not line.right}
    assert "qformer.encoder.layer.0.crossattention" in wrong
    assert not any(what.startswith("vision_model") for what in wrong)
    assert "DIFFERENT" in drift.table()


def test_a_wrong_gradient_is_seen() -> None:
    draw = torch.Generator().manual_seed(0)
    truth = {"a": torch.randn(50, generator=draw), "b": torch.randn(3, generator=draw) / 100, "zero": torch.zeros(4)}
    plain = {name: g + 1e-7 * g.abs().max() * torch.randn(g.shape, generator=draw) for name, g in truth.items()}
    for changes, right in (
        ({}, True),
        ({"a": truth["a"] * (1 + 1e-4)}, False),
        ({"b": -truth["b"]}, False),
        ({"zero": torch.full((4,), 1e-7)}, True),
        ({"zero": torch.full((4,), 1e-2)}, False),
        ({"a": truth["a"].clone().fill_(float("nan"))}, False),
    ):
        lines = gradient_lines((truth, plain, plain | changes), torch.float32, 1)
        assert all(line.right for line in lines) is right, changes
    assert not all(line.right for line in gradient_lines((truth, plain, {"a": truth["a"]}), torch.float32, 1))


def test_what_logits_are_judged_by() -> None:
    truth = torch.tensor([[3.0, 1.0, 0.0], [1.0, 1.0 + 1e-7, 0.0]], dtype=torch.double)
    plain = truth.float()
    tied = plain.clone()
    tied[1, 1] = 1 - 1e-7
    assert all(line.right for line in logits_lines((truth, plain, tied), torch.float32, 1))
    swapped = plain.flip(1)
    lines = {line.measure: line for line in logits_lines((truth, plain, swapped), torch.float32, 1)}
    assert not any(lines[kind].right for kind in ("max", "rms", "KL", "rows"))
    lost = plain.clone()
    lost[0, 0] = torch.nan
    assert not all(line.right for line in logits_lines((truth, plain, lost), torch.float32, 1))
    assert not all(line.right for line in tensor_lines("x", (truth, plain, lost), torch.float32, 1))


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="longreel computes nothing of it"):
        whole(nn.Sequential(nn.Linear(2, 2)), {"input": torch.ones(1, 2)})
    with pytest.raises(ValueError, match="no weights in float32"):
        whole(nn.Linear(2, 2).double(), {"input": torch.ones(1, 2)})


@pytest.mark.parametrize(
    "build", [*tiny_vlms.MODELS.values(), tiny_vlms.internvl, tiny_vlms.blip2_t5], ids=lambda b: b.__name__
)
def test_inputs_are_drawn_for(build: Any) -> None:
    model, _ = tiny_vlms.made(build, "sdpa")
    given = drawn_inputs(model, frames=3)
    with torch.no_grad():
        one, other = model(**given).logits, model(**drawn_inputs(model, frames=3)).logits
    assert torch.equal(one, other)
    given = {key: value + 1 if value.is_floating_point() else value for key, value in given.items()}
    # the pixels matter
    assert not torch.equal(model(**given).logits, one)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["parity", *map(str, arguments)])


def test_a_folder_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = MODELS["instructblip_video-sdpa"]()
    model.save_pretrained(tmp_path / "m")
    lines = tmp_path / "parity.jsonl"
    result = run(tmp_path / "m", "--json", lines)
    assert result.exit_code == 0, result.output
    assert "1 of 1 modules patched" in result.stdout
    assert "attention of the text model: longreel" in result.stdout
    assert result.stdout.endswith("equal within the error budget\n")
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(one["dtype"], one["passed"]) for one in found] == [("float32", True), ("bfloat16", True)]
    whats = [line["what"] for line in found[0]["lines"]]
    assert "language_model.model.layers.1" in whats
    assert {line["measure"] for line in found[0]["lines"]} == {"max", "rms", "KL", "rows", "1 - cos"}
    save_file({name: value.contiguous() for name, value in given.items()}, tmp_path / "inputs.safetensors")
    options = ["--dtype", "fp32", "--inputs", tmp_path / "inputs.safetensors"]
    result = run(tmp_path / "m", *options, "--no-gradients", "--no-attention")
    assert (result.exit_code, "gradient" in result.stdout) == (0, False), result.output
    right = qformer.qformer_attention
    monkeypatch.setattr(qformer, "qformer_attention", lambda *args, **kwargs: right(*args, **kwargs) * 1.05)
    result = run(tmp_path / "m", *options)
    assert result.exit_code == 1
    assert "DIFFERENT: over the error budget" in result.stdout


def own_model() -> Any:
    return MODELS["llama_vid"]()


def test_a_function_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    result = run("test_whole:own_model", "--dtype", "fp32")
    assert result.exit_code == 0, result.output
    assert "3 of 3 modules patched" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "dtype"),
    [("llama-vid", "bf16"), ("voco-llama", "bf16"), ("video-xl", "fp32"), ("video-llama", "fp32")],
)
def test_a_system_from_the_command_line(system: str, dtype: str) -> None:
    result = run(system, "--frames", 2, "--dtype", dtype)
    assert result.exit_code == 0, result.output
    assert "logits, the worst row" in result.stdout
    assert "layers.3 |" in result.stdout or "cached of layer 3 |" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "nothing: no such folder; allowed: a folder, MODULE:FUNCTION, or one of llama-vid"),
        (["."], "no config.json"),
        (["no_module:f"], "No module named 'no_module'"),
        (["json:loads", "--device", "cpu"], "--inputs and --device are for a folder"),
        (["llama-vid", "--dtype", "fp64"], "--dtype 'fp64': there is fp32, bf16"),
        (["llama-vid", "--op", "compress_frames"], "are for models of transformers"),
        (["llama-vid", "--preset", "huge"], "--preset 'huge'"),
    ],
)
def test_refused_in_one_line(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def set_in(folder: Path, part: str | None, name: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config if part is None else config[part])[name] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "config.json").write_text('{"architectures": ["Nobody"]}'), "names no class of"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "no safetensors header"),
        (lambda folder: os.mkfifo(folder / "chat_template.jinja"), "is not a regular file"),
        (lambda folder: set_in(folder, "text_config", "num_hidden_layers", 10**6), "more than the weights there"),
        (lambda folder: set_in(folder, "text_config", "hidden_size", 2**40), "more than the weights there"),
        (lambda folder: set_in(folder, "text_config", "attn_implementation", "a/b"), "names code of the Hub"),
        (lambda folder: set_in(folder, "vision_config", "image_size", 10**4), "cannot be loaded"),
        (lambda folder: set_in(folder, None, "video_token_index", 10**9), "has no place for its ids"),
    ],
)
def test_a_damaged_folder_is_one_line(damage: Any, said: str, tmp_path: Path) -> None:
    model, _ = tiny_vlms.made(tiny_vlms.llava_next_video, "sdpa")
    model.save_pretrained(tmp_path / "m")
    damage(tmp_path / "m")
    result = run(tmp_path / "m", "--dtype", "fp32")
    told = [line for line in result.stderr.splitlines() if "Loading weights" not in line and line.strip()]
    assert (result.exit_code, len(told)) == (2, 1), result.stderr
    assert said in result.stderr


def test_an_id_without_a_row_is_the_folders_fault_and_nothing_else_is(tmp_path: Path) -> None:
    with pytest.raises(ForeignError, match="no place for its ids"), known_ids(tmp_path):
        torch.nn.Embedding(3, 2)(torch.tensor([3]))
    for fault in (lambda: [][0], lambda: torch.zeros(3)[torch.tensor([3])]):
        with pytest.raises(IndexError), known_ids(tmp_path):
            fault()


def test_a_decoder_alone(tmp_path: Path) -> None:
    import transformers as tf

    torch.manual_seed(0)
    tf.LlamaForCausalLM(tf.LlamaConfig(**tiny_vlms.WORDS)).save_pretrained(tmp_path / "m")
    result = run(tmp_path / "m", "--dtype", "fp32")
    assert result.exit_code == 0, result.output
    assert "nothing in it that longreel has an op for" in result.stdout
