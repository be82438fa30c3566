"""Video-XL (arXiv 2409.14485) from pixels to answers: CLIP tower, projector, 2 x 2 pooling, and a decoder with VST tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from longreel import adaptive_pool
from longreel.cache.vst import VSTCache
from longreel.models.checkpoint import refuse_untaken
from longreel.models.clip import PROJECTOR, TOWER, clip_tower, left_out
from longreel.models.sizes import computed_in
from longreel.models.tower import WithTower, by_few, choose_attention, normalised
from longreel.models.trainable import Trainable
from longreel.models.video_xl.adapter import VSTDecoder
from longreel.models.video_xl.presets import VideoXLPreset
from longreel.models.weights import language_model, weights_from
from longreel.nn.context_attention import build_projector

_LANGUAGE = "decoder.language."


class VideoXL(WithTower, Trainable, nn.Module):
    """Random weights drawn from `seed`, under released state-dict names through `from_released` and `to_released`.

    Args:
        preset: every size. seed: of the weights.
        backend: of the ops; None chooses. device: where the weights are made and everything runs.
        pool_early: pool between the projector's layers, of which the last then has a fourth of the rows; the same numbers.
        rule: further arguments of `VSTDecoder` (ratio, draw, seed of the draw as `ratio_seed`).
    """

    def __init__(
        self,
        preset: VideoXLPreset,
        *,
        seed: int = 0,
        ratio_seed: int = 42,
        backend: str | None = None,
        device: torch.device | str = "cpu",
        pool_early: bool = True,
        **rule: Any,
    ) -> None:
        super().__init__()
        self.preset, self.backend, self.pool_early = preset, backend, pool_early
        tower, device = preset.tower, torch.device(device)
        self.side = tower.image // tower.patch
        if self.side % 2:
            raise ValueError(f"2 x 2 pooling takes an even grid of patches, the tower has {self.side} x {self.side}")
        dtype = computed_in(preset, device)
        with weights_from(seed, device, dtype):
            self.tower = clip_tower(tower)
            self.projector = build_projector(preset.projector, tower.width, preset.language.width)
            parts: tuple[nn.Module, ...] = (self.projector, self.tower)
            for part in parts:
                part.to(dtype)
            choose_attention(self.tower)
            language = language_model(preset.language, dtype)
        rule = {"chunk": preset.window, "seed": ratio_seed} | rule
        self.decoder = VSTDecoder(language, per_picture=preset.frame, backend=backend, **rule)

    @property
    def language(self) -> PreTrainedModel:  # type: ignore[override]
        return self.decoder.language

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [P, image, image, 3] -> patches of the layer that is read [P, N, C], without CLS and gradient."""
        return self.tower_tokens(pixels, self.preset.tower.patches)

    def project(self, features: Tensor) -> Tensor:
        """The tower's features [F, N, C] -> visual tokens [F, N / 4, E]."""
        layers = list(self.projector) if isinstance(self.projector, nn.Sequential) else [self.projector]
        early = self.pool_early and isinstance(layers[-1], nn.Linear)
        x = features
        for layer in layers[:-1] if early else layers:
            x = layer(x)
        half = self.side // 2
        x = adaptive_pool(x, (half, half), grid=(self.side, self.side), backend=self._pool_backend)
        out: Tensor = layers[-1](x) if early else x
        return out

    @property
    def _pool_backend(self) -> str | None:
        return "reference" if self.backend == "reference" else None

    def forward(
        self, input_ids: Tensor, pixels: Tensor | None = None, labels: Tensor | None = None, **inputs: Any
    ) -> Any:
        """Training; see `VSTDecoder.forward`. pixels uint8 [pictures, image, image, 3] of all samples."""
        vision = None if pixels is None else self.project(self._patches(pixels))
        return self.decoder(input_ids, vision, labels, **inputs)

    @torch.no_grad()
    def encode_video(self, pixels: Tensor, **options: Any) -> VSTCache:
        """Frames [F, image, image, 3] into a memory; see `VSTDecoder.encode`."""
        return self.read(self.encode(pixels), **options)

    @torch.no_grad()
    def read(self, features: Tensor, **options: Any) -> VSTCache:
        """The tower's features [F, N, C] into a memory; see `VSTDecoder.encode`."""
        return self.decoder.encode(by_few(self.project, features).flatten(0, 1), **options)

    def ask(self, cache: VSTCache, question: Tensor | Sequence[Tensor], **options: Any) -> Tensor:
        """See `VSTDecoder.ask`."""
        return self.decoder.ask(cache, question, **options)

    def answer(self, cache: VSTCache, after: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """See `VSTDecoder.answer`."""
        return self.decoder.answer(cache, after, **options)

    def _patches(self, pixels: Tensor) -> Tensor:
        """As `encode`, with a gradient where the tower is trained too."""
        if not torch.is_grad_enabled() or not any(p.requires_grad for p in self.tower.parameters()):
            return self.encode(pixels)
        values = normalised(pixels, self.device, self.dtype)
        out: Tensor = self.tower(pixel_values=values).last_hidden_state[:, 1:]
        return out


def released_name(name: str) -> str:
    """The released name of a parameter of `VideoXL`."""
    room, _, rest = name.partition(".")
    if room == "tower":
        return TOWER + rest
    if room == "projector":
        return PROJECTOR + rest
    return name.removeprefix(_LANGUAGE)


def from_released(released: Mapping[str, Tensor], model: VideoXL) -> dict[str, Tensor]:
    """The state dict of `model` out of a released one. What no forward reads of the tower is left out.

    Raises:
        KeyError: the released state dict lacks a parameter, named as the release names it.
        CheckpointError: it has an entry that `model` has no place for.
    """
    out = {name: released[released_name(name)] for name in model.state_dict()}
    refuse_untaken(set(released) - set(map(released_name, out)), left_out(model.preset.tower.layers, None))
    return out


def to_released(model: VideoXL) -> dict[str, Tensor]:
    """Parameters under their released names."""
    return {released_name(name): value for name, value in model.state_dict().items()}
