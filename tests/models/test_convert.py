"""`longreel convert`: checkpoints of every system into one folder that loads at once; damaged ones are one line that names the
entry or the file, and leave nothing."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from damaged_checkpoints import DAMAGED, FIRST
from safetensors.torch import load_file, save_file
from test_checkpoint import SMALL as LLAMA_VID
from test_checkpoint import released_model, vocabularies
from test_checkpoint import write as write_llama_vid
from test_video_llama import SMALL as VIDEO_LLAMA
from test_video_llama import save as save_video_llama
from test_video_xl import TINY as VIDEO_XL
from test_video_xl_checkpoint import write as write_video_xl
from test_voco_checkpoint import SMALL as VOCO
from test_voco_checkpoint import write as write_voco
from typer.testing import CliRunner

from longreel.cli.main import app
from longreel.models import from_pretrained, registry
from longreel.models.convert import convert
from longreel.models.llama_vid import to_released
from longreel.models.llama_vid.key_map import TOWER
from longreel.models.video_llama import VideoLlama
from longreel.models.video_xl import VideoXL
from longreel.models.video_xl import to_released as to_released_xl
from longreel.models.voco_llama import VoCoLlama
from longreel.models.voco_llama import to_released as to_released_voco
from longreel.models.voco_llama.model import TOWER as CLIP

NAME = "small-for-tests"


def llama_vid(folder: Path, pickled: bool = True, **config: Any) -> Any:
    """Pickled shards, the tower and the questions' vocabulary beside them."""
    model = released_model(**config)
    state = to_released(model)
    tower = {name.removeprefix(TOWER): state.pop(name) for name in list(state) if name.startswith(TOWER)}
    write_llama_vid(folder, state, pickled)
    torch.save(tower | {"norm.weight": torch.zeros(32)}, folder / "eva_vit_g.pth")
    vocabularies(folder)
    return model


def raw_bert(folder: Path) -> Any:
    return llama_vid(folder, False, text_decoder="bert")


def voco_llama(folder: Path) -> Any:
    """CLIP in a folder of its own, with a layer that nobody reads."""
    model = VoCoLlama(VOCO, seed=7)
    state = to_released_voco(model)
    tower = {f"vision_model.{n.removeprefix(CLIP)}": state.pop(n).clone() for n in list(state) if n.startswith(CLIP)}
    write_voco(folder, state)
    (folder / "a-clip").mkdir()
    tower["vision_model.encoder.layers.2.mlp.fc1.weight"] = torch.zeros(64, 32)
    save_file(tower, folder / "a-clip" / "model.safetensors")
    own = {"image_size": 56, "patch_size": 14, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 64}
    (folder / "a-clip" / "config.json").write_text(json.dumps({"vision_config": own | {"num_attention_heads": 2}}))
    return model


def video_xl(folder: Path) -> Any:
    model = VideoXL(VIDEO_XL, seed=7)
    write_video_xl(folder, to_released_xl(model))
    return model


def video_llama(folder: Path) -> Any:
    """Five files and a language model in a folder."""
    model = VideoLlama(VIDEO_LLAMA, seed=3)
    for layer in model.tower.encoder.layers:
        layer.self_attn.qkv.bias.data.chunk(3)[1].zero_()
    save_video_llama(model, folder)
    return model


SOURCES: dict[str, tuple[str, Any, Callable[[Path], Any]]] = {
    "llama-vid": ("llama-vid", LLAMA_VID, llama_vid),
    "raw-bert": ("llama-vid", LLAMA_VID, raw_bert),
    "voco-llama": ("voco-llama", VOCO, voco_llama),
    "video-xl": ("video-xl", VIDEO_XL, video_xl),
    "video-llama": ("video-llama", VIDEO_LLAMA, video_llama),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, preset, _ in SOURCES.values():
        monkeypatch.setitem(registry.find(name).presets, NAME, replace(preset, name=NAME))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", SOURCES)
def test_converted_and_loaded_at_once(case: str, tmp_path: Path) -> None:
    system, _, make = SOURCES[case]
    model = make(tmp_path / "src")
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "src"), str(tmp_path / "dst"), "--preset", NAME])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{system}: ")
    # weights are in one file, and nothing of it is pickled
    assert [path.name for path in (tmp_path / "dst").rglob("*") if path.suffix in (".safetensors", ".bin", ".pth")] == [
        "model-00001-of-00001.safetensors"
    ]
    first = from_pretrained(tmp_path / "src", preset=NAME, device="cpu")
    shutil.rmtree(tmp_path / "src")
    other = from_pretrained(tmp_path / "dst", preset=NAME, dtype=torch.float32, device="cpu")
    for (name, mine), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
        assert torch.equal(mine, first.state_dict()[name]), name
    # and again, from what was converted
    again = convert(tmp_path / "dst", tmp_path / "again", preset=NAME)
    assert again.system == system
    name = "model-00001-of-00001.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "dst" / name).read_bytes()


def test_vocabularies_go_along(tmp_path: Path) -> None:
    llama_vid(tmp_path / "src")
    convert(tmp_path / "src", tmp_path / "dst", preset=NAME)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "bert-base-uncased/vocab.txt"):
        assert (tmp_path / "dst" / name).read_bytes() == (tmp_path / "src" / name).read_bytes()


def test_in_shards_with_an_index(tmp_path: Path) -> None:
    model = video_xl(tmp_path / "src")
    done = convert(tmp_path / "src", tmp_path / "dst", preset=NAME, shard=20_000)
    shards = sorted((tmp_path / "dst").glob("*.safetensors"))
    assert len(shards) == done.shards > 3
    index = json.loads((tmp_path / "dst/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == done.bytes
    assert all(name in load_file(tmp_path / "dst" / shard) for name, shard in index["weight_map"].items())
    for (name, mine), theirs in zip(
        model.state_dict().items(),
        from_pretrained(tmp_path / "dst", "video-xl", preset=NAME).state_dict().values(),
        strict=True,
    ):
        assert torch.equal(mine, theirs), name


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    voco_llama(tmp_path / "src")
    (tmp_path / "dst").mkdir()
    convert(tmp_path / "src", tmp_path / "dst", preset=NAME)
    before = sorted(path.name for path in (tmp_path / "dst").iterdir())
    with pytest.raises(ValueError, match="is there already; allowed: a new folder, or an empty one"):
        convert(tmp_path / "src", tmp_path / "dst", preset=NAME)
    assert sorted(path.name for path in (tmp_path / "dst").iterdir()) == before


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, says = DAMAGED[name]
    monkeypatch.chdir(tmp_path)
    llama_vid(tmp_path / "src", pickled=False)
    damage(tmp_path / "src")
    result = CliRunner().invoke(app, ["convert", "src", "dst", "--preset", NAME])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert says in result.stderr
    assert not (tmp_path / "ran").exists()
    # nothing is left of what was begun
    assert sorted(path.name for path in tmp_path.iterdir()) == (["src"] if name != "not-there" else [])


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama_vid(tmp_path / "src", pickled=False)
    plain = os.open

    def refusing(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(FIRST):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(ValueError, match=rf"{FIRST}: cannot be opened \(Permission denied\)"):
        convert(tmp_path / "src", tmp_path / "dst", preset=NAME)


def test_nobodys_entries(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "src/model.safetensors")
    with pytest.raises(ValueError, match=r"its entries are of no system of llama-vid, .*: name it, --system NAME"):
        convert(tmp_path / "src", tmp_path / "dst")
    with pytest.raises(ValueError, match="no config"):
        convert(tmp_path / "src", tmp_path / "dst", "llama-vid")
    with pytest.raises(ValueError, match="is no folder"):
        convert(tmp_path / "src/model.safetensors", tmp_path / "dst")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voco_llama(tmp_path / "src")

    def full(*args: Any) -> None:
        raise OSError(28, "cannot be written (No space left on device)", str(args[0]))

    monkeypatch.setattr("longreel.models.convert.write_tensors", full)
    result = CliRunner().invoke(
        app, ["convert", str(tmp_path / "src"), str(tmp_path / "dst"), "--preset", NAME, "--system", "voco-llama"]
    )
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["src"]
