"""From a tower's output to the first token with fewer video tokens: Qwen2.5-VL's layer shapes, few layers, random weights.

    python benchmarks/compress_video.py                          64 frames of 448 x 448, two decoder layers of the 7B
    python benchmarks/compress_video.py --size 3b --layers 4 --keep 0.5 --keep 0.1

A scene stands still but for two planted frames. `faster`: seconds to the first token of all tokens over those to score, cut and
reach it with fewer, in one round; the median of the rounds. `scoring`: its share of the latter.
"""

import argparse
from statistics import median
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from longreel.compression import METHODS, QualityReport, compression_quality

SIZES = {"3b": (2048, 11008, 16, 2), "7b": (3584, 18944, 28, 4)}
VIDEO, START, END, VOCABULARY = 1000, 1001, 1002, 1024
PLANTED = (7, 21)


def model_of(size: str, layers: int) -> Qwen2_5_VLForConditionalGeneration:
    width, hidden, heads, kv_heads = SIZES[size]
    rotary = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text = {
        "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": VOCABULARY, "rope_parameters": rotary, "pad_token_id": 0,
        "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    tower = {
        "depth": 2, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": width,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=tower, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END,
        image_token_id=1003,
    )  # fmt: skip
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


def inputs_of(frames: int, side: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Two frames are a step of the tower; a step is side x side patches of 14."""
    steps, generator = frames // 2, torch.Generator().manual_seed(1)
    still = torch.randn(side * side, 1176, generator=generator)
    pixels = still + 0.1 * torch.randn(steps, side * side, 1176, generator=generator)
    for step in PLANTED:
        if step < steps:
            pixels[step] = torch.randn(side * side, 1176, generator=generator)
    ids = torch.tensor([[5, START, *[VIDEO] * (steps * side * side // 4), END, *range(10, 30)]])
    given = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": 2 * (ids == VIDEO).int(),
        "pixel_values_videos": pixels.flatten(0, 1).to(dtype), "video_grid_thw": torch.tensor([[steps, side, side]]),
    }  # fmt: skip
    return {key: value.to(device) for key, value in given.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--side", type=int, default=32, help="patches a side")
    parser.add_argument("--keep", type=float, action="append")
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args()
    dtype = getattr(torch, given.dtype)
    model = model_of(given.size, given.layers).to(given.device, dtype)
    inputs = inputs_of(given.frames, given.side, given.device, dtype)
    options = {"methods": given.method or METHODS, "keep": given.keep or (0.25,)}
    planted = [[step for step in PLANTED if step < given.frames // 2]]
    rounds = [compression_quality(model, inputs, planted=planted, **options) for _ in range(given.rounds)]
    print(
        f"{given.size}, {given.layers} layers, {given.dtype} on {given.device}, {torch.get_num_threads()} threads; random weights"
    )
    print(rounds[-1])
    print()
    for i, row in enumerate(rounds[-1].rows):
        faster, share = median(_faster(one, i) for one in rounds), median(_share(one, i) for one in rounds)
        print(f"{row.method:8s} keep {row.keep:g}: {faster:.2f}x faster to the first token, scoring {share:.2%} of it")


def _faster(report: QualityReport, i: int) -> float:
    row = report.rows[i]
    return report.full / (row.scoring + row.first_token)


def _share(report: QualityReport, i: int) -> float:
    row = report.rows[i]
    return row.scoring / (row.scoring + row.first_token)


if __name__ == "__main__":
    main()
