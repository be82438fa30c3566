"""What `compress_video` knows of each family of models; everything is asked by name, so that none is imported."""

import inspect
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """kind: how its videos come, a function of `towers`. modality: whose placeholders they fill. pixels: what they come in.
    rotary: positions of time, height and width. stacked: the encoder's output is one tensor, else a list of one a video."""

    kind: str
    modality: str = "video"
    pixels: str = "pixel_values_videos"
    rotary: bool = False
    stacked: bool = False


_QWEN = Family("packed", rotary=True)
FAMILIES = {
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "qwen3_vl_moe": _QWEN,
    "video_llama_3": Family("packed"),
    "llava_onevision": Family("clips_and_newline", stacked=True),
    "llava_next_video": Family("clips"),
    # Frames are pictures like any other.
    "internvl": Family("pictures", "image", "pixel_values", stacked=True),
    "smolvlm": Family("padded_pictures", "image", "pixel_values"),
}
REFUSED = {
    "instructblipvideo": "its Q-Former leaves each frame a few query tokens, which stand for no place of the frame",
    "instructblip": "it takes pictures, and its Q-Former leaves each a few query tokens",
}


def family_of(model: Any) -> Family:
    """
    Raises:
        ValueError: a model that is not covered.
    """
    name, kind = type(model).__name__, getattr(getattr(model, "config", None), "model_type", None)
    if kind in REFUSED:
        raise ValueError(f"compress_video does not take {name}: {REFUSED[kind]}; allowed: {', '.join(FAMILIES)}")
    if kind not in FAMILIES:
        raise ValueError(f"compress_video does not know {name} (model_type {kind!r}); allowed: {', '.join(FAMILIES)}")
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"{name}.forward takes no mm_encoder_outputs: give compress_video the model that is generated with, of transformers"
            " 5.18 or newer"
        )
    return FAMILIES[kind]
