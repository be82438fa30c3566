"""Checkpoint folders by anybody: no code runs, nothing is waited for, no model is made of sizes that the weights cannot have."""

import ast
import json
import os
import time
from pathlib import Path

import pytest
import torch
from test_voco_checkpoint import CONFIG, SMALL, VoCoLlama, to_released, write

import longreel
from longreel.files.foreign import ForeignError
from longreel.models.checkpoint import CheckpointError, entries, read_config, unpickled
from longreel.models.prompts import read_vocabulary, tokenizer
from longreel.models.setup import setup_of
from longreel.models.voco_llama import PRESETS

pytestmark = pytest.mark.fast


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(PRESETS, SMALL.name, SMALL)
    return write(tmp_path / "c", to_released(VoCoLlama(SMALL, seed=7)))


def refused(folder: Path, says: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=says) as error:
        setup_of("voco-llama", SMALL.name, folder, "cpu")
    assert time.monotonic() - began < 20
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model-2.safetensors", "tokenizer.json", "notes.txt", "bert-base-uncased/vocab.txt"])
def test_a_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    os.mkfifo(folder / name)
    refused(folder, f"{name}: is not a regular file")


def test_the_config_is_a_pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    refused(folder, "is not a regular file")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "is nested without end"),
        ('{"a": ' + "[" * 90 + "]" * 90 + "}", "is nested more than 64 deep"),
        ('{"hidden_size": Infinity}', "holds Infinity"),
        ('{"rms_norm_eps": 1e999}', "holds 1e999, which is no finite number"),
        ('{"hidden_size": 32, "hidden_size": 16}', "has 'hidden_size' twice"),
        ("{" + " " * (33 << 20) + "}", "has more than 32 MiB"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "is no JSON"),
        ("\x00", "is no JSON"),
    ],
)  # fmt: skip
def test_json_that_is_none(folder: Path, text: str, says: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, says)


@pytest.mark.parametrize(
    "sizes",
    [{"num_hidden_layers": 10**6}, {"vocab_size": 10**9 + 1}, {"hidden_size": 2**20}, {"intermediate_size": 2**30}],
)
def test_sizes_that_the_weights_have_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int]
) -> None:
    monkeypatch.setitem(PRESETS, SMALL.name, SMALL)
    folder = write(tmp_path / "c", to_released(VoCoLlama(SMALL, seed=7)), **CONFIG | sizes)
    refused(folder, "config.json describes at least .* parameters, all weights there have")


def test_key_heads_that_do_not_divide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, SMALL.name, SMALL)
    folder = write(tmp_path / "c", to_released(VoCoLlama(SMALL, seed=7)), num_key_value_heads=3)
    refused(folder, "4 num_attention_heads are no multiple of 3 num_key_value_heads")


@pytest.mark.parametrize(
    "value",
    [[torch.ones(2)], {"a": 1}, {"a": {"b": torch.ones(1)}}, {1: torch.ones(1)}, {"a": torch.ones(2).to_sparse()}],
)
def test_pickles_of_something_else(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a file of tensors"):
        unpickled(tmp_path / "pytorch_model.bin")


def test_weights_that_are_written_to_while_they_are_read(folder: Path) -> None:
    shard = entries(folder)
    next(shard)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(ForeignError, match=r"it was cut while it was read|was written to while"):
        list(shard)


def test_a_config_of_another_encoding(folder: Path) -> None:
    """As JSON has it: UTF-8, whatever the locale."""
    (folder / "config.json").write_bytes('{"_name_or_path": "Größe", "hidden_size": 32}'.encode("utf-8-sig"))
    assert read_config(folder)["_name_or_path"] == "Größe"


def test_a_tokenizer_with_code_of_its_own(tmp_path: Path) -> None:
    """None of it runs, nobody is asked: one line."""
    mark = tmp_path / "ran"
    (tmp_path / "own.py").write_text(
        "import pathlib\nfrom transformers import PreTrainedTokenizer\n"
        f"pathlib.Path({str(mark)!r}).touch()\nclass Own(PreTrainedTokenizer): ...\n"
    )
    names = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="its tokenizer cannot be read") as error:
        tokenizer(tmp_path)
    assert "\n" not in str(error.value)
    assert not mark.exists()


def test_every_loader_names_what_it_allows() -> None:
    """transformers' Auto classes run no code of a folder's, torch unpickles tensors alone: each call says so."""
    wanted = {
        "from_pretrained": "trust_remote_code=False",
        "from_config": "trust_remote_code=False",
        "load": "weights_only=True",
    }
    found = list[str]()
    for path in Path(longreel.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in wanted:
                owner, call = ast.unparse(node.func.value), ast.unparse(node)
                if (owner.startswith("Auto") or owner in ("torch", "pickle")) and wanted[node.func.attr] not in call:
                    found.append(f"{path.name}:{node.lineno}: {call}")
    assert found == []


@pytest.mark.parametrize("error", [MemoryError(), MemoryError("no room"), RuntimeError("can't allocate memory")])
def test_too_little_memory_is_no_fault_of_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with pytest.raises(type(error)):
        read_vocabulary(tmp_path, fail)
    (tmp_path / "a.bin").touch()
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)):
        unpickled(tmp_path / "a.bin")


def test_an_error_that_says_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        raise AssertionError

    with pytest.raises(ValueError, match=r"its tokenizer cannot be read \(AssertionError\)"):
        read_vocabulary(tmp_path, fail)
