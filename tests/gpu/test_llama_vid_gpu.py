"""LLaMA-VID on the card: the reference path's numbers, in bfloat16, from a feature file."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("av")

from longreel.cli.run_view import agreement
from longreel.data import FeatureStream
from longreel.models.feed import feature_writer
from longreel.models.llama_vid import TINY, LlamaVid, by_bytes
from longreel.models.llama_vid.stream import SYSTEM, run


def test_a_run_agrees_with_the_reference(tmp_path: Path) -> None:
    model = LlamaVid(TINY, device="cuda")
    assert model.dtype == torch.bfloat16
    path = tmp_path / "f.safetensors"
    pixels = torch.randint(0, 256, (20, 224, 224, 3), dtype=torch.uint8)
    about = {"kind": "video"}
    written = feature_writer(str(path), SYSTEM, TINY, about, num_prefix_tokens=1, device="cuda")
    with written as writer, torch.inference_mode():
        writer.add(model.encode(pixels).cpu(), torch.arange(20.0))
    with FeatureStream(path, chunk=8) as stream:
        record = run(model, stream, by_bytes(["What is it?", "Why?"], 512), compare=True)
    verdict = agreement(record, model.dtype)
    assert verdict.why is None
    assert record.visual["longreel"].device.type == "cuda"
    assert record.peak() > 2**20
