"""Video-LLaMA's sound: waveform to clips and log-mels, ImageBind's audio trunk, and all the way to the tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from longreel.models.video_llama import AudioTower, AudioTowerSize, clip_ranges, clips_of, log_mel
from longreel.parity.golden.files import GoldenCase
from longreel.parity.golden.videollama_branches import audio_adapter


def waveforms(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """`mel` or `chain`, by what the case has."""
    return (chain if "embedding" in case.outputs else mel)(case, backend, dtype)


def mel(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """``clip_range`` int64 [..., 8, 2], and ``mel`` [clips, 1, 128, 204] of the clips that the truth (or the output) has."""
    if "samples" in case.inputs(dtype):
        lengths = case.inputs(dtype)["samples"].tolist()
        return {"clip_range": torch.tensor([clip_ranges(length) for length in lengths])}
    waveform = _waveform(case)
    stored = case.params["truth_clips"] or case.params["stored_clips"]
    mels = log_mel(clips_of(waveform))[stored][:, None]
    return {"clip_range": torch.tensor(clip_ranges(waveform.shape[1])), "mel": mels}


def trunk(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """``cls_feature`` [B, clips, width] and ``embedding`` [B, clips, out]; weights in float32 under autocast, as released."""
    mels = case.inputs(torch.float32)["mel"]
    tower = _tower(case, case.file.config, "")
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        cls, embedded = tower(mels.flatten(0, 1)[:, 0])
    return {name: t.unflatten(0, mels.shape[:2]) for name, t in (("cls_feature", cls), ("embedding", embedded))}


def chain(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """``embedding`` [1, 8, out] and ``tokens`` [1, 8, H] of a waveform."""
    tower = _tower(case, case.file.config["audio_encoder"], "audio_encoder.").to(dtype)
    with torch.no_grad():
        embedded = tower(log_mel(clips_of(_waveform(case))).to(dtype))[1][None]
        return {"embedding": embedded, "tokens": audio_adapter(case, backend, dtype).audio_tokens(embedded)}


def _waveform(case: GoldenCase) -> Tensor:
    """[channels, samples] float32."""
    return case.inputs(torch.float32)["waveform"].float() / case.params["full_scale"]


def _tower(case: GoldenCase, config: Mapping[str, Any], prefix: str) -> AudioTower:
    width = config["audio_embed_dim"]
    size = AudioTowerSize(
        width=width,
        layers=config["audio_num_blocks"],
        heads=config["audio_num_heads"],
        mlp=config["mlp_ratio"] * width,
        out=config["out_embed_dim"],
        mels=config["mel_bins"],
        length=config["target_len"],
        kernel=config["kernel_size"],
        stride=config["stride"],
    )
    tower, weights = AudioTower(size).eval(), case.file.weights(torch.float32)
    tower.load_state_dict({name: weights[prefix + name] for name in tower.state_dict()})
    return tower
