"""Video-LLaMA's branches from the towers' features to the language model's tokens."""

from typing import Any

import torch
from torch import Tensor

from longreel.models.sizes import LanguageSize, TowerSize
from longreel.models.video_llama import AudioTowerSize, Branches, BranchSize, VideoLlamaPreset, published
from longreel.parity.golden.files import GoldenCase

# Of sizes that a file has no part of.
_NONE = BranchSize(width=4, layers=1, heads=1, mlp=4, queries=1)
_NO_AUDIO = AudioTowerSize(width=4, layers=1, heads=1, mlp=4, out=4)


def video(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """``frame_qformer`` [B * F, M, E], ``qformer`` [B, M, E] and ``tokens`` [B, M, H]; weights and inputs cast whole."""
    config = case.file.config
    frame, whole = qformer_size(config["frame_qformer"]), qformer_size(config["video_qformer"])
    width = config["frame_qformer"]["encoder_width"]
    preset = _preset(config, tower=width, frame=frame, video=whole, frames=config["max_frame_pos"])
    adapter, recorded = adapter_of(preset, case.file.weights(dtype), backend, dtype), list[Tensor]()
    adapter.llama_proj.register_forward_pre_hook(lambda module, given: recorded.append(given[0]))
    with torch.no_grad():
        tokens = adapter.frame_tokens(case.inputs(dtype)["vision_features"])
        out = adapter.video_tokens(tokens.unflatten(0, (case.params["batch"], -1)))
    return {"frame_qformer": tokens, "qformer": recorded[0], "tokens": out}


def audio(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """``qformer`` [B, Ma, E] and ``tokens`` [B, Ma, H]."""
    adapter, recorded = audio_adapter(case, backend, dtype), list[Tensor]()
    adapter.audio_llama_proj.register_forward_pre_hook(lambda module, given: recorded.append(given[0]))
    with torch.no_grad():
        out = adapter.audio_tokens(case.inputs(dtype)["audio_embeddings"])
    return {"qformer": recorded[0], "tokens": out}


def audio_adapter(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> Branches:
    """With the audio branch of the case's file."""
    config = case.file.config
    size = config["audio_qformer"]
    sound = AudioTowerSize(width=4, layers=1, heads=1, mlp=4, out=size["encoder_width"])
    preset = _preset(config, listen=qformer_size(size), audio=sound, clips=config.get("max_clips", 8))
    return adapter_of(preset, case.file.weights(dtype), backend, dtype)


def adapter_of(
    preset: VideoLlamaPreset, weights: dict[str, Tensor], backend: str | None, dtype: torch.dtype
) -> Branches:
    """What `weights` have of it; transformers' Q-Formers on the reference backend."""
    adapter = Branches(preset, backend=backend).to(dtype).eval()
    there = {name: weights[name] for name in adapter.state_dict() if name in weights}
    unread = [name for name in weights if name not in there and not name.endswith("position_ids")]
    if any(not name.startswith("audio_encoder.") for name in unread):
        raise KeyError(f"no place for {unread[0]}")
    adapter.load_state_dict(there, strict=False)
    return published(adapter) if backend == "reference" else adapter


def qformer_size(config: dict[str, Any]) -> BranchSize:
    """The sizes of a golden file's Q-Former."""
    return BranchSize(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp=config["intermediate_size"],
        queries=config["num_query"],
        every=config["cross_attention_freq"],
    )


def _preset(
    config: Any, *, tower: int = 4, frame: BranchSize = _NONE, video: BranchSize = _NONE,
    listen: BranchSize = _NONE, audio: AudioTowerSize = _NO_AUDIO, **rows: Any,
) -> VideoLlamaPreset:  # fmt: skip
    return VideoLlamaPreset(
        name="golden",
        tower=TowerSize(image=14, patch=14, width=tower, layers=1, heads=1, mlp=4),
        frame=frame,
        video=video,
        listen=listen,
        audio=audio,
        language=LanguageSize(config["llm_width"], 1, 1, 1, 1, 1, 1),
        **rows,
    )
