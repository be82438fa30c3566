"""Video-LLaMA (arXiv 2306.02858) from pixels and sound to answer ids, each stage a method of its own."""

from typing import Any

import torch
from torch import Tensor, nn

from longreel.models.eva import eva_tower
from longreel.models.generation import answer_behind
from longreel.models.sizes import computed_in
from longreel.models.tower import WithTower, choose_attention
from longreel.models.video_llama.audio_tower import AudioTower
from longreel.models.video_llama.branches import Branches
from longreel.models.video_llama.mel import log_mel
from longreel.models.video_llama.presets import VideoLlamaPreset
from longreel.models.weights import language_model, weights_from


class VideoLlama(WithTower, nn.Module):
    """Random weights drawn from `seed`: every stage computes what the released one does, but the answer means nothing.

    `checkpoint.load` replaces them.

    Args:
        preset: every size. seed: of the weights.
        device: where the weights are made and everything runs; "meta" makes sizes alone.
        options: of `Branches`.
    """

    def __init__(
        self, preset: VideoLlamaPreset, *, seed: int = 0, device: torch.device | str = "cpu", **options: Any
    ) -> None:
        super().__init__()
        self.preset, device = preset, torch.device(device)
        dtype = computed_in(preset, device)
        with weights_from(seed, device, dtype):
            self.tower = eva_tower(preset.tower)
            self.audio_encoder = AudioTower(preset.audio)
            self.adapter = Branches(preset, **options)
            self.language = language_model(preset.language, dtype)
        parts: tuple[nn.Module, ...] = (self.tower, self.audio_encoder, self.adapter)
        for part in parts:
            part.to(dtype)
        choose_attention(self.tower)
        self.eval().requires_grad_(False)

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [F, image, image, 3] -> the tower's tokens [F, 1 + N, C], CLS first, no final norm."""
        return self.tower_tokens(pixels, self.preset.tower.tokens)

    @torch.no_grad()
    def encode_audio(self, samples: Tensor) -> Tensor:
        """Clips [A, n] at 16 kHz, two seconds or less -> ImageBind's embeddings [A, Ea], of a norm of 20."""
        size = self.preset.audio
        mels = log_mel(samples, mels=size.mels, length=size.length)
        embeddings: Tensor = self.audio_encoder(mels.to(self.device, self.dtype))[1]
        return embeddings

    def answer(
        self, parts: tuple[Tensor, ...], after: Tensor, *, length: int = 8, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """An answer behind ids and tokens; options as in `longreel.models.generation.answer_behind`."""
        return answer_behind(
            self.language, parts, after, positions=self.preset.language.positions, length=length, **options
        )
