"""What plan_compression says before anything is run, beside what compress_video leaves and the model caches."""

import pytest
import torch
from tiny_vlms import MODELS, made

import longreel
from longreel.compression import plan_compression

NAMES = ("qwen2_5_vl", "video_llama_3", "llava_onevision")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [1.0, 0.5])
@torch.no_grad()
def test_counts_and_bytes(name: str, keep: float) -> None:
    model, inputs = made(MODELS[name])
    plan = plan_compression(model, inputs, keep=keep)
    short = longreel.compress_video(model, inputs, keep=keep)
    left = sum(len(cut.kept) for cut in short.cuts)
    assert abs(plan.kept - left) <= len(short.cuts)
    assert plan.prompt == pytest.approx(short["input_ids"].shape[1], abs=1)
    cache = model(**short | {"use_cache": True}).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    each = held // short["input_ids"].shape[1]
    assert plan.kv == pytest.approx(held, abs=each)
    assert plan.weights == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


@pytest.mark.fast
def test_the_largest_share() -> None:
    model, inputs = made(MODELS["qwen2_5_vl"])
    whole = plan_compression(model, inputs)
    assert whole.fits is None
    half = plan_compression(model, inputs, keep=0.5)
    tight = plan_compression(model, inputs, memory=half.total)
    assert not tight.fits
    assert 0.5 <= tight.most < 1
    assert plan_compression(model, inputs, keep=tight.most, memory=half.total).fits
    assert plan_compression(model, inputs, memory=1).most == 0
    with pytest.raises(ValueError, match="keep is 2"):
        plan_compression(model, inputs, keep=2)
