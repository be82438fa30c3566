"""Released checkpoints: the names of the true sizes, and a tiny model saved under them and loaded again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from longreel.cli.main import app
from longreel.models.checkpoint import fingerprint
from longreel.models.llama_vid import (
    PRESETS,
    LlamaVid,
    TextDecoder,
    by_vocabulary,
    preset_table,
    released_names,
    to_released,
)
from longreel.models.llama_vid.checkpoint import CheckpointError, load, sized
from longreel.models.llama_vid.key_map import TOWER
from longreel.models.llama_vid.presets import Preset, QFormerSize
from longreel.models.sizes import LanguageSize, TowerSize

ROOT = Path(__file__).resolve().parents[2]
SMALL = Preset(
    name="small-for-tests",
    tower=TowerSize(image=56, patch=14, width=32, layers=2, heads=2, mlp=64),
    qformer=QFormerSize(width=24, layers=3, heads=2, mlp=48, queries=5, vocabulary=60, positions=64),
    language=LanguageSize(
        width=32, layers=2, heads=4, kv_heads=2, mlp=64, vocabulary=60, positions=8192, rope_factor=2.0
    ),
    compress="mean",
    chunk=4,
    dtype="float32",
)
CONFIG = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 60, "max_position_embeddings": 4096, "mm_hidden_size": 32, "num_query": 5,
    "rope_scaling": {"type": "linear", "factor": 2.0}, "compress_type": "mean",
}  # fmt: skip


def released_model(**options: object) -> LlamaVid:
    """Of another seed, its tower without a bias on the keys, as released."""
    model = LlamaVid(SMALL, seed=7, **options)  # type: ignore[arg-type]
    for layer in model.tower.encoder.layers:
        torch.nn.init.normal_(layer.self_attn.qkv.bias)
        layer.self_attn.qkv.bias.chunk(3)[1].zero_()
    return model


def write(folder: Path, state: dict[str, Tensor], pickled: bool = False, **config: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    names = sorted(state)
    halves = ({name: state[name].clone() for name in part} for part in (names[::2], names[1::2]))
    for index, part in enumerate(halves):
        if pickled:
            torch.save(part, folder / f"pytorch_model-{index + 1:05}-of-00002.bin")
        else:
            save_file(part, folder / f"model-{index + 1:05}-of-00002.safetensors")
    return folder


def same(one: LlamaVid, other: LlamaVid) -> None:
    for (name, mine), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("decoder", ["qformer", "bert"])
@pytest.mark.parametrize("pickled", [False, True])
def test_saved_under_released_names_and_loaded_again(tmp_path: Path, pickled: bool, decoder: TextDecoder) -> None:
    model, other = released_model(text_decoder=decoder), LlamaVid(SMALL, text_decoder=decoder)
    state = to_released(model)
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
        "model.vlm_att_encoder.bert.embeddings.position_ids": torch.zeros(1, 64),
    }
    load(other, write(tmp_path / "c", {**state, **extra}, pickled))
    same(model, other)


def test_the_tower_may_lie_in_its_own_file(tmp_path: Path) -> None:
    model, other = released_model(), LlamaVid(SMALL)
    state = to_released(model)
    tower = {name.removeprefix(TOWER): state.pop(name) for name in list(state) if name.startswith(TOWER)}
    folder = write(tmp_path / "c", state, pickled=True)
    with pytest.raises(CheckpointError, match=r"lacks model\.vision_tower.* more entries"):
        load(other, folder)
    torch.save(
        {**tower, "norm.weight": torch.zeros(32), "blocks.39.norm1.weight": torch.zeros(32)}, folder / "eva_vit_g.pth"
    )
    load(other, folder)
    same(model, other)
    # One that was trained on stands in the checkpoint: it is not replaced.
    tuned = released_model()
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.mul_(2)
    (folder / "eva_vit_g.pth").rename(tmp_path / "tuned.pth")
    folder = write(tmp_path / "d", to_released(tuned), pickled=True)
    (tmp_path / "tuned.pth").rename(folder / "eva_vit_g.pth")
    load(other, folder)
    same(tuned, other)


def test_shards_of_two_saves_are_refused(tmp_path: Path) -> None:
    model, other = released_model(), LlamaVid(SMALL)
    state = to_released(model)
    folder = write(tmp_path / "c", state)
    save_file({"model.norm.weight": state["model.norm.weight"].clone()}, folder / "model-00003-of-00003.safetensors")
    load(other, folder)
    same(model, other)
    save_file({"model.norm.weight": torch.zeros(32)}, folder / "model-00003-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is there twice and differs"):
        load(LlamaVid(SMALL), folder)


def test_a_larger_image_resizes_the_position_table(tmp_path: Path) -> None:
    state = to_released(released_model())
    larger = LlamaVid(replace(SMALL, tower=replace(SMALL.tower, image=84)))
    load(larger, write(tmp_path / "c", state))
    table = larger.tower.embeddings.position_embedding
    assert torch.equal(table[:, :1], state[TOWER + "pos_embed"][:, :1])
    grid = state[TOWER + "pos_embed"][:, 1:].view(1, 4, 4, 32).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(grid, size=(6, 6), mode="bicubic")
    torch.testing.assert_close(table[:, 1:], wanted.flatten(2).mT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("model.vlm_att_query"), r"lacks model\.vlm_att_query$"),
        (lambda s: s.update({"model.mystery": torch.zeros(1)}), r"has unknown model\.mystery$"),
        (
            lambda s: s.update({"lm_head.weight": torch.zeros(61, 32)}),
            r"lm_head\.weight has shape \[61, 32\].*\[60, 32\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: object, said: str) -> None:
    state = to_released(released_model())
    change(state)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=said):
        load(LlamaVid(SMALL), write(tmp_path / "c", state))


def test_folders_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no config"):
        sized(SMALL, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        sized(SMALL, tmp_path)
    with pytest.raises(CheckpointError, match="no weights"):
        load(LlamaVid(SMALL), tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: "):
        load(LlamaVid(SMALL), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no safetensors header"):
        load(LlamaVid(SMALL), tmp_path)


def test_a_bias_on_the_keys_has_no_released_place() -> None:
    model = released_model()
    model.tower.encoder.layers[1].self_attn.qkv.bias.fill_(1)
    with pytest.raises(ValueError, match=r"layers\.1\.self_attn\.qkv\.bias"):
        to_released(model)


def test_sizes_come_from_the_checkpoint(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"x": torch.zeros(1)}, compress_type="grid:2")
    made = sized(PRESETS["7b"], folder)
    assert made.language == SMALL.language
    assert (made.tower.width, made.tower.layers, made.qformer.queries, made.compress) == (32, 39, 5, "grid:2")


@pytest.mark.parametrize(("name", "tokens"), [("7b", 257), ("7b-336", 577)])
def test_released_names_and_shapes_of_the_true_sizes(name: str, tokens: int) -> None:
    """No weight is allocated; the list is the published checkpoints'."""
    model = LlamaVid(PRESETS[name], device="meta")
    shapes = _shapes(model)
    width, wide, llm = 768, 1408, 4096
    wanted = {
        "model.vlm_att_query": (1, 32, width),
        "model.vlm_att_ln.weight": (wide,),
        "model.vlm_att_projector.weight": (wide, width),
        "model.vlm_att_key_projector.weight": (wide, wide),
        "model.vlm_att_val_projector.weight": (llm, wide),
        "model.mm_projector.0.weight": (llm, wide),
        "model.mm_projector.2.weight": (llm, llm),
        "model.embed_tokens.weight": (32000, llm),
        "lm_head.weight": (32000, llm),
        TOWER + "pos_embed": (1, tokens, wide),
        TOWER + "patch_embed.proj.weight": (wide, 3, 14, 14),
        TOWER + "blocks.38.attn.qkv.weight": (3 * wide, wide),
        TOWER + "blocks.38.attn.q_bias": (wide,),
        TOWER + "blocks.38.mlp.fc1.weight": (6144, wide),
    }
    bert = "model.vlm_att_encoder.bert."
    wanted |= {
        bert + "embeddings.word_embeddings.weight": (30523, width),
        bert + "embeddings.position_embeddings.weight": (512, width),
        bert + "embeddings.LayerNorm.weight": (width,),
    }
    parts = ["attention.output", "output", "output_query"]
    for index in range(12):
        layer = f"{bert}encoder.layer.{index}."
        crossed = index % 2 == 0
        for part in ("query", "key", "value"):
            wanted[f"{layer}attention.self.{part}.weight"] = (width, width)
            if crossed:
                wanted[f"{layer}crossattention.self.{part}.weight"] = (width, width if part == "query" else wide)
        for part in ("intermediate", "intermediate_query"):
            wanted[f"{layer}{part}.dense.weight"] = (3072, width)
        for part in [*parts, *["crossattention.output"] * crossed]:
            wanted[f"{layer}{part}.dense.weight"] = (width, 3072 if part.startswith("output") else width)
            wanted[f"{layer}{part}.LayerNorm.weight"] = (width,)
    for key in list(wanted):
        if key.endswith(".weight") and "embed" not in key.split(".")[-2] and key != "lm_head.weight":
            wanted[key.removesuffix("weight") + "bias"] = (wanted[key][0],)
    assert {key: shapes.get(key) for key in wanted} == wanted | {
        key: None for key in wanted if key.endswith("qkv.bias")
    }
    adapter = {key for key in shapes if "vlm_att" in key or "mm_projector" in key}
    assert adapter == {key for key in wanted if "vlm_att" in key or "mm_projector" in key}
    assert sum(1 for key in shapes if key.startswith(TOWER)) == 4 + 39 * 13
    assert sum(1 for key in shapes if key.startswith("model.layers.")) == 32 * 9


def _shapes(model: LlamaVid) -> dict[str, tuple[int, ...]]:
    state, shapes = model.state_dict(), {}
    for name, parts in released_names(model).items():
        shape = tuple(state[name].shape)
        for part in parts:
            shapes[part] = shape if len(parts) == 1 else (shape[0] // 3,)
    return shapes


def test_the_docs_print_the_presets() -> None:
    assert "\n".join(preset_table()) in (ROOT / "docs/llama_vid.md").read_text()


WORDS = """[PAD] [UNK] [CLS] [SEP] [MASK] <s> </s> what is it ? a chat user assistant : between and curious""".split()  # noqa: SIM905


def vocabularies(folder: Path) -> None:
    (folder / "bert-base-uncased").mkdir()
    (folder / "bert-base-uncased" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="[UNK]")
    fast.save_pretrained(folder)


def test_questions_in_the_checkpoints_vocabularies(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"x": torch.zeros(1)})
    assert by_vocabulary(["what is it?"], folder, 64, 5) is None
    vocabularies(folder)
    asked = by_vocabulary(["what is it ?", "is"], folder, 64, 5)
    assert asked is not None
    word = WORDS.index
    cls, sep = word("[CLS]"), word("[SEP]")
    assert asked.ids[0].tolist() == [cls, *map(word, ["what", "is", "it", "?"]), sep]
    assert asked.mask.tolist() == [[True] * 6, [True] * 3 + [False] * 3]
    before, after = asked.prompts[0]
    assert [word("is"), word("it")] == after.tolist()[1:3]
    assert before.tolist() == asked.prompts[1][0].tolist()
    assert asked.stop == word("</s>")
    assert asked.decode is not None
    assert asked.decode([word("it"), word("</s>")]) == "it"
    (folder / "bert-base-uncased" / "vocab.txt").unlink()
    with pytest.raises(ValueError, match=r"vocab\.txt: missing"):
        by_vocabulary(["what"], folder, 64, 5)


def test_run_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, SMALL.name, SMALL)
    picture = tmp_path / "a.png"
    Image.effect_noise((64, 48), 50).save(picture)
    folder = write(tmp_path / "c", to_released(released_model()))
    command = ["run", str(picture), "--preset", SMALL.name, "--checkpoint", str(folder), "--question", "what is it ?"]
    vocabularies(folder)
    lines = tmp_path / "run.jsonl"
    result = CliRunner().invoke(app, [*command, "--compare", "--answer-tokens", "4", "--json", str(lines)])
    assert result.exit_code == 0, result.output
    assert "No answer" not in result.stdout
    line = json.loads(lines.read_text())
    assert line["weights"] == f"checkpoint {fingerprint(folder)}"
    assert line["questions"][0]["answer"] in result.stdout
    assert len(line["questions"][0]["ids"]) <= 4
    (folder / "config.json").unlink()
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "no config.json" in result.stderr


def test_a_fingerprint_tells_folders_of_one_name_apart(tmp_path: Path) -> None:
    weights = {"a": torch.randn(3000, 7)}
    folders = [tmp_path / parent / "checkpoint-500" for parent in ("one", "two", "again")]
    for folder, change in zip(folders, (0.0, 1.0, 0.0), strict=True):
        folder.mkdir(parents=True)
        save_file({"a": weights["a"] + change}, folder / "model.safetensors")
    one, two, again = map(fingerprint, folders)
    assert one == again != two
    assert one.startswith("checkpoint-500 ")


@pytest.mark.parametrize("changed", [2_000, 500_000, 1 << 20])
def test_a_fingerprint_sees_one_number(changed: int, tmp_path: Path) -> None:
    weights = torch.zeros((1 << 20) + 1)
    save_file({"a": weights}, tmp_path / "model.safetensors")
    before = fingerprint(tmp_path)
    weights[changed] = 1.0
    save_file({"a": weights}, tmp_path / "model.safetensors")
    assert fingerprint(tmp_path) != before
