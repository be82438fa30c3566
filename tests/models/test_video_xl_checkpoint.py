"""Released folders of Video-XL: a tiny model saved under the published names and loaded again; what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_video_xl import TINY
from torch import Tensor

from longreel.models.video_xl import VideoXL, to_released
from longreel.models.video_xl.checkpoint import CheckpointError, load, sized

CONFIG = {
    "model_type": "llava_qwen", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 260, "max_position_embeddings": 512, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "use_sliding_window": False, "mm_hidden_size": 32, "mm_vision_tower": "openai/a-clip",
    "mm_projector_type": "mlp2x_gelu", "mm_resampler_type": "spatial_pool", "mm_patch_merge_type": "unires",
    "mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "average", "image_aspect_ratio": "anyres", "beacon_window": 12,
    "beacon_stride": 12, "beacon_attn": "full-coverage", "beacon_ratio": [8], "beacon_ratio_mix": "step-random",
    "beacon_param": ["q", "k", "v"], "beacon_embed_init": "eos", "beacon_sink_size": 0, "beacon_attend_prev": True,
    "beacon_pos": "interleave", "beacon_parallel_window": 1, "beacon_accum": True, "enable_beacon": True,
}  # fmt: skip


def write(folder: Path, state: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    save_file({name: value.clone() for name, value in state.items()}, folder / "model.safetensors")
    return folder


def test_saved_under_released_names_and_loaded_again(tmp_path: Path) -> None:
    model = VideoXL(TINY, seed=7)
    folder = write(tmp_path / "c", to_released(model), beacon_window=24, beacon_stride=24)
    preset = sized(TINY, folder)
    assert (preset.window, preset.tower, preset.projector) == (24, TINY.tower, TINY.projector)
    other = VideoXL(preset)
    load(other, folder)
    for (name, mine), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    text = torch.arange(5, 15)
    logits = [one.eval().decoder(text[None]).logits for one in (model, other)]
    torch.testing.assert_close(*logits)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"beacon_pos": "append"}, "beacon_pos 'append' is not computed here; there is none, interleave"),
        ({"beacon_attn": "segmentation"}, "beacon_attn"),
        ({"beacon_stride": 6}, "beacon_stride 6 is not the window, 12"),
        ({"beacon_param": ["q", "k", "v", "o"]}, "beacon_param"),
        ({"mm_spatial_pool_mode": "max"}, "mm_spatial_pool_mode 'max'"),
        ({"beacon_more": 3}, "beacon_more 3 is not understood"),
        ({"mm_vision_select_layer": -9}, "none of the tower's 1 layers"),
    ],
)
def test_refused(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        sized(TINY, write(tmp_path / "c", {}, **changed))


def test_a_missing_entry(tmp_path: Path) -> None:
    state = to_released(VideoXL(TINY))
    del state["model.layers.1.self_attn.beacon_v_proj.bias"]
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.1\.self_attn\.beacon_v_proj\.bias"):
        load(VideoXL(TINY), write(tmp_path / "c", state))
