import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from longreel.models.llama_vid import (
    Adapter,
    LanguageSize,
    LlamaVid,
    Ops,
    Preset,
    QFormerSize,
    TowerSize,
    byte_ids,
    released_name,
)
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
OPS: tuple[Ops, Ops] = ("reference", "longreel")
SMALL = Preset(
    name="small-for-tests",
    tower=TowerSize(image=56, patch=14, width=32, layers=2, heads=2, mlp=64),
    qformer=QFormerSize(width=24, layers=3, heads=2, mlp=48, queries=5, vocabulary=260, positions=64),
    language=LanguageSize(
        width=32, layers=2, heads=4, kv_heads=2, mlp=64, vocabulary=260, positions=4096, rope_factor=2.0
    ),
    compress="mean",
    chunk=4,
    dtype="float32",
)


@pytest.fixture(scope="module")
def model() -> LlamaVid:
    return LlamaVid(SMALL)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(0, 256, (6, 56, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def tokens(model: LlamaVid, pixels: Tensor, question: str = "where?", ops: Ops = "longreel") -> Tensor:
    features = model.encode(pixels)
    return model.compress(model.query(byte_ids([question]), features), features, ops=ops)


def test_two_tokens_a_frame_context_first(model: LlamaVid, pixels: Tensor) -> None:
    with torch.inference_mode():
        features = model.encode(pixels)
        assert features.shape == (6, 17, 32)
        queries = model.query(byte_ids(["where?", "who is"]), features)
        assert queries.shape == (2, 6, 5, 24)
        both = model.compress(queries, features)
        assert both.shape == (2, 12, 32)
        content = model.adapter.attention.mm_projector(features[:, 1:].mean(1))
    torch.testing.assert_close(both[0, 1::2], content)
    torch.testing.assert_close(both[1, 1::2], content)
    assert not torch.allclose(both[0, 0::2], both[1, 0::2])


@pytest.mark.parametrize("compress", [None, "mean", "grid:2", "grid:3"])
def test_longreel_computes_the_released_maths(compress: str | None) -> None:
    adapter = Adapter(SMALL.qformer, 32, 40, compress=compress).double()
    features, ids = torch.randn(3, 17, 32, dtype=torch.float64), byte_ids(["what", "when"])
    with torch.inference_mode():
        queries = adapter.query(ids, features)
        released, ours = (adapter.compress(queries, features, ops=ops) for ops in OPS)
    torch.testing.assert_close(ours, released, rtol=1e-12, atol=1e-12)


def test_unknown_ops_are_refused(model: LlamaVid) -> None:
    with pytest.raises(ValueError, match="'reference' or 'longreel'"):
        model.adapter.compress(torch.zeros(1, 1, 5, 24), torch.zeros(1, 17, 32), ops="fast")  # type: ignore[arg-type]


def test_padding_of_a_shorter_question_does_not_matter() -> None:
    adapter = Adapter(SMALL.qformer, 32, 40)
    features, ids = torch.randn(2, 17, 32), byte_ids(["abcdef"])
    padded = torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], 1)
    mask = torch.tensor([[1] * 6 + [0] * 3])
    with torch.inference_mode():
        torch.testing.assert_close(adapter.query(padded, features, mask), adapter.query(ids, features))


def test_chunks_give_what_the_whole_gives(model: LlamaVid, pixels: Tensor) -> None:
    whole = tokens(model, pixels)
    parts = torch.cat([tokens(model, part) for part in pixels.split(4)], 1)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_prefill_in_blocks_is_the_plain_forward(model: LlamaVid) -> None:
    visual, question = torch.randn(1200, 32), byte_ids(["and then?"])[0]
    ids, logits = model.answer(visual, question, length=3)
    embed = model.language.get_input_embeddings()
    sequence = torch.cat([embed(torch.tensor([1])), visual, embed(question)])[None]
    for step in range(3):
        plain = model.language(inputs_embeds=sequence, use_cache=False).logits[0, -1]
        if step == 0:
            torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)
        assert ids[step] == plain.argmax()
        sequence = torch.cat([sequence, embed(ids[step]).view(1, 1, -1)], 1)


@torch.inference_mode()
def test_pictures_and_question_reach_the_answer(model: LlamaVid, pixels: Tensor) -> None:
    question = byte_ids(["where?"])[0]

    def logits(pixels: Tensor, asked: str) -> Tensor:
        return model.answer(tokens(model, pixels, asked)[0], question)[1]

    base = logits(pixels, "where?")
    assert (logits(pixels.flip(0), "where?") - base).abs().max() > 1e-2
    assert (logits(pixels, "when??") - base).abs().max() > 1e-2


def test_too_long_for_the_language_model(model: LlamaVid) -> None:
    with pytest.raises(ValueError, match="exceed the language model's 4096 positions"):
        model.answer(torch.zeros(4096, 32), byte_ids(["?"])[0])


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = LlamaVid(SMALL, seed=1), LlamaVid(SMALL, seed=1), LlamaVid(SMALL, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.tower.embeddings.position_embedding, other.tower.embeddings.position_embedding)


@pytest.mark.parametrize("questions", [[], [""], ["a", "bc"]])
def test_questions_that_make_no_rectangle(questions: list[str]) -> None:
    with pytest.raises(ValueError, match="equally long"):
        byte_ids(questions)


def test_released_names() -> None:
    names = [name for name, _ in Adapter(SMALL.qformer, 32, 40).named_parameters()]
    released = {released_name(name) for name in names}
    assert len(released) == len(names)
    layer = "model.vlm_att_encoder.bert.encoder.layer.2."
    assert released >= {
        "model.vlm_att_query",
        "model.vlm_att_ln.weight",
        "model.vlm_att_projector.bias",
        "model.vlm_att_key_projector.weight",
        "model.vlm_att_val_projector.weight",
        "model.mm_projector.2.bias",
        "model.vlm_att_encoder.bert.embeddings.LayerNorm.weight",
        "model.vlm_att_encoder.bert.embeddings.word_embeddings.weight",
        layer + "attention.self.query.weight",
        layer + "attention.output.LayerNorm.bias",
        layer + "crossattention.self.key.weight",
        layer + "crossattention.output.dense.weight",
        layer + "intermediate_query.dense.weight",
        layer + "output_query.LayerNorm.weight",
    }


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("name", ["llama_vid_attention", "llama_vid_attention_soft"])
def test_golden_files(golden_folder: Path, name: str, ops: Ops) -> None:
    meta = json.loads((golden_folder / f"{name}.json").read_text())
    stored = load_file(golden_folder / f"{name}.safetensors")
    for case in meta["cases"].values():
        adapter, get = _golden_case(meta["config"], case, stored)
        features = get("in/image_features")
        counts = case["params"]["image_counts"] or [1] * len(features)
        for sample, frames in enumerate(features.split(counts)):
            with torch.inference_mode():
                queries = adapter.query(get(f"in/input_ids.{sample}"), frames, get(f"in/text_mask.{sample}"))
                result = adapter.compress(queries, frames, ops=ops)
            truth = get(f"truth/tokens.{sample}").double()
            allowed = case["suggested_tolerance"][f"tokens.{sample}"]["float32"]["max_rel"]
            assert (result.double() - truth).abs().max() <= allowed * truth.abs().max()


def _golden_case(config: dict[str, Any], case: dict[str, Any], stored: dict[str, Tensor]) -> tuple[Adapter, Any]:
    def get(name: str) -> Tensor:
        value = stored[case["tensors"][name]["key"]]
        return value.float() if value.dtype == torch.bfloat16 else value

    size, params = config["qformer"], case["params"]
    qformer = QFormerSize(
        width=size["hidden_size"],
        layers=size["num_hidden_layers"],
        heads=size["num_attention_heads"],
        mlp=size["intermediate_size"],
        queries=size["num_query"],
        vocabulary=size["vocab_size"],
        positions=size["max_position_embeddings"],
    )
    prefix = params["tokens_per_frame"] % 2 if params["mm_vision_select_feature"] == "patch" else 0
    adapter = Adapter(
        qformer, config["vision_width"], config["llm_width"], compress=params["compress_type"], num_prefix_tokens=prefix
    )
    weights = {name: stored[f"weights/{released_name(name)}"].float() for name in adapter.state_dict()}
    adapter.load_state_dict(weights)
    return adapter.eval(), get


def test_the_hour_in_small(tmp_path: Path) -> None:
    lines = tmp_path / "hour.jsonl"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "hour.py"),
        "--seconds=5",
        "--chunk=2",
        f"--cache={tmp_path}",
        f"--json={lines}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "5 frames in" in done.stdout
    assert "random" in done.stdout
    assert "\x1b" not in done.stdout
    record = json.loads(lines.read_text())
    assert record["frames"] == 5
    assert record["tokens"] == 10
    assert record["passed"]
