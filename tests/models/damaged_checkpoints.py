"""How a released folder of LLaMA-VID, two safetensors shards and the tower beside them, may be damaged; and what is said."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def shard(folder: Path, number: int = 1) -> Path:
    return folder / f"model-{number:05}-of-00002.safetensors"


def changed(change: Callable[[dict[str, torch.Tensor]], Any], number: int = 1) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state = load_file(shard(folder, number))
        change(state)
        save_file(state, shard(folder, number))

    return damage


def with_index(folder: Path, **more: Any) -> None:
    places = {name: shard(folder, n).name for n in (1, 2) for name in load_file(shard(folder, n))}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places | more}))


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = shard(folder).read_bytes()
        length = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + length])
        change(entries)
        text = json.dumps(entries).encode()
        shard(folder).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return damage


class Code:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def pickled(value: Any) -> Callable[[Path], None]:
    return lambda folder: torch.save(value, folder / "eva_vit_g.pth")


def config(**entries: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return damage


def folder_for(path: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / path).unlink()
        (folder / path).mkdir()

    return damage


def cut(path: str, keep: int) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes()[:keep])  # type: ignore[return-value]


HEAD, NORM, FIRST = "lm_head.weight", "model.norm.weight", "model-00001-of-00002.safetensors"
DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing-key": (changed(lambda s: s.pop(HEAD)), f"lacks {HEAD}"),
    "extra-key": (changed(lambda s: s.update({"model.mystery": torch.zeros(2)})), "has unknown model.mystery"),
    "wrong-shape": (changed(lambda s: s.update({HEAD: torch.zeros(61, 32)})), f"{HEAD} has shape [61, 32]"),
    "transposed": (changed(lambda s: s.update({HEAD: s[HEAD].T.contiguous()})), f"{HEAD} has shape [32, 60]"),
    "whole-numbers": (changed(lambda s: s.update({HEAD: torch.ones(60, 32, dtype=torch.int8)})), f"{HEAD} is torch.int8"),
    "float8": (
        changed(lambda s: s.update({HEAD: s[HEAD].to(torch.float8_e4m3fn)})), f"'{HEAD}' is F8_E4M3",
    ),
    "nan": (changed(lambda s: s[HEAD][3].fill_(torch.nan)), f"{HEAD} holds NaN or infinity"),
    "infinity": (changed(lambda s: s[HEAD][3, 1:2].fill_(-torch.inf)), f"{HEAD} holds NaN or infinity"),
    "there-twice": (
        lambda folder: changed(lambda s: s.update({HEAD: torch.zeros(60, 32)}), 2)(folder), f"'{HEAD}' is there twice",
    ),
    "cut-short": (cut(FIRST, 9_000), f"{FIRST}: cut short"),
    "cut-in-the-header": (cut(FIRST, 50), f"{FIRST}: no safetensors header"),
    "empty-file": (cut(FIRST, 0), f"{FIRST}: the file is empty"),
    "bad-header": (lambda f: shard(f).write_bytes(b"\x10" + bytes(7) + b"not json at all."), f"{FIRST}: no safetensors header"),
    "offsets": (header(lambda e: e[HEAD].update(data_offsets=[8, 16])), f"{FIRST}: its header contradicts itself: '{HEAD}'"),
    "unknown-dtype": (header(lambda e: e[HEAD].update(dtype="F12")), f"'{HEAD}' is of dtype 'F12'"),
    "a-folder-for-a-shard": (folder_for(FIRST), f"{FIRST}: is not a regular file"),
    "absent-shard": (lambda f: with_index(f, **{HEAD: "model-00003.safetensors"}), f"'{HEAD}' is in 'model-00003.safetensors'"),
    "shard-elsewhere": (lambda f: with_index(f, **{HEAD: "../model.safetensors"}), f"'{HEAD}' is in '../model.safetensors'"),
    "index-is-no-index": (
        lambda f: (f / "model.safetensors.index.json").write_text("[1]"), "index.json: has no weight_map of file names",
    ),
    "index-is-no-json": (lambda f: (f / "model.safetensors.index.json").write_text("{"), "index.json: cannot be read"),
    "shard-removed": (lambda f: (with_index(f), shard(f).unlink()), f"'{FIRST}', which is not in this folder"),
    "no-weights": (lambda f: [path.unlink() for path in f.glob("model-*")], "no weights (*.safetensors or pytorch_model*.bin)"),
    "pickled-code": (pickled({"blocks.0.x": Code()}), "eva_vit_g.pth: not a file of tensors"),
    "pickled-list": (pickled([torch.zeros(2)]), "eva_vit_g.pth: not a file of tensors, but of a list"),
    "pickled-number": (pickled({"cls_token": 3.0}), "eva_vit_g.pth: not a file of tensors, 'cls_token' is none"),
    "pickled-cut": (cut("eva_vit_g.pth", 700), "eva_vit_g.pth: "),
    "tower-lacks-a-key": (
        lambda f: torch.save({k: v for k, v in torch.load(f / "eva_vit_g.pth").items() if k != "pos_embed"}, f / "eva_vit_g.pth"),
        "lacks model.vision_tower.vision_tower.pos_embed",
    ),
    "no-config": (lambda f: (f / "config.json").unlink(), "not a checkpoint folder (no config.json)"),
    "config-is-no-json": (cut("config.json", 20), "config.json: cannot be read"),
    "config-of-another-size": (config(hidden_size=64), "has shape"),
    "config-of-another-model": (config(model_type="gpt2"), "config.json: model_type 'gpt2' is not understood"),
    "config-names-code": (config(auto_map={"AutoModel": "x.Y"}), "config.json: auto_map names code"),
    "not-there": (shutil.rmtree, "src: no such folder"),
}  # fmt: skip
