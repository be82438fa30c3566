"""VoCo-LLaMA (arXiv 2406.12275) from pixels to answers: CLIP tower, projector, and a decoder with VoCo tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, PreTrainedModel

from longreel.cache import VoCoCache
from longreel.models.voco_llama.adapter import Trainable, VoCoDecoder
from longreel.models.voco_llama.presets import Preset
from longreel.models.voco_llama.tokens import VoCoCollator

_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
_TOWER, _PROJECTOR, _LANGUAGE = (
    "model.vision_tower.vision_tower.vision_model.",
    "model.mm_projector.",
    "decoder.language.",
)


class VoCoLlama(Trainable, nn.Module):
    """Random weights drawn from `seed`, under LLaVA-1.5's state-dict names through `from_released` and `to_released`.

    Args:
        preset: every size. seed: of the weights.
        count: VoCo tokens of a group. rule: further fields of `VoCoRule` (mode, separator, readings of the mask).
    """

    def __init__(self, preset: Preset, *, seed: int = 0, count: int = 2, **rule: Any) -> None:
        super().__init__()
        self.preset, dtype = preset, getattr(torch, preset.dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tower = _tower(preset).to(dtype)
            projector = nn.Sequential(
                nn.Linear(preset.vision_width, preset.width), nn.GELU(), nn.Linear(preset.width, preset.width)
            )
            self.projector = projector.to(dtype)
            language = _language(preset)
        self.decoder = VoCoDecoder(language, rows=preset.rows, count=count, token=preset.vocabulary, **rule)

    @property
    def language(self) -> PreTrainedModel:  # type: ignore[override]
        return self.decoder.language

    def collator(self, **options: Any) -> VoCoCollator:
        """See `VoCoCollator`; pictures are "pixels" uint8 [P, image, image, 3]."""
        return self.decoder.collator(**options)

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [P, image, image, 3] -> rows of the last layer but one [P, N, C], without CLS. The tower is frozen."""
        weight = self.tower.embeddings.patch_embedding.weight
        mean, std = (torch.tensor(value, device=weight.device) * 255 for value in (_PIXEL_MEAN, _PIXEL_STD))
        with torch.no_grad():
            values = ((pixels.to(weight.device) - mean) / std).permute(0, 3, 1, 2).to(weight.dtype)
            return self.tower(pixel_values=values).last_hidden_state[:, 1:]

    def forward(self, input_ids: Tensor, pixels: Tensor | None = None, **inputs: Any) -> Any:
        """The masked forward over a batch of `collator`; see `VoCoDecoder.forward`."""
        return self.decoder(input_ids, self._vision(pixels), **inputs)

    def generate(self, input_ids: Tensor, pixels: Tensor | None = None, **options: Any) -> Tensor:
        """Answers in one stage; see `VoCoDecoder.generate`."""
        return self.decoder.generate(input_ids, self._vision(pixels), **options)

    @torch.no_grad()
    def see(self, pixels: Tensor, **options: Any) -> VoCoCache:
        """Stage 1 over frames [F, image, image, 3]; see `VoCoDecoder.see`."""
        return self.decoder.see(self.projector(self.encode(pixels)), **options)

    def ask(self, cache: VoCoCache, question: Tensor, **options: Any) -> Tensor:
        """Stage 2; see `VoCoDecoder.ask`."""
        return self.decoder.ask(cache, question, **options)

    def _vision(self, pixels: Tensor | None) -> Tensor | None:
        return None if pixels is None else self.projector(self.encode(pixels))


def released_name(name: str) -> str:
    """The released name of a parameter of `VoCoLlama`: LLaVA-1.5's."""
    room, _, rest = name.partition(".")
    if room == "tower":
        return _TOWER + rest
    if room == "projector":
        return _PROJECTOR + rest
    return name.removeprefix(_LANGUAGE)


def from_released(released: Mapping[str, Tensor], model: VoCoLlama) -> dict[str, Tensor]:
    """The state dict of `model` out of a released one. The tower's last layer and norm, which nobody reads, are left out.

    A LLaVA-1.5 checkpoint, one row short of the VoCo token, takes the row of `model`.

    Raises:
        KeyError: the released state dict lacks a parameter, named as the release names it.
    """
    out = {}
    for name, own in model.state_dict().items():
        value = released[released_name(name)]
        if "embed_tokens" in name or "lm_head" in name:
            value = torch.cat([value, own[len(value) :].to(value)]) if len(value) == len(own) - 1 else value
        out[name] = value
    return out


def to_released(model: VoCoLlama) -> dict[str, Tensor]:
    """Parameters under their released names."""
    return {released_name(name): value for name, value in model.state_dict().items()}


def _tower(preset: Preset) -> CLIPVisionModel:
    config = CLIPVisionConfig(
        hidden_size=preset.vision_width,
        intermediate_size=preset.vision_mlp,
        num_hidden_layers=preset.vision_layers - 1,
        num_attention_heads=preset.vision_heads,
        image_size=preset.image,
        patch_size=preset.patch,
    )
    tower = CLIPVisionModel(config)
    tower.post_layernorm = nn.Identity()  # type: ignore[assignment]
    return tower.eval().requires_grad_(False)


def _language(preset: Preset) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=preset.vocabulary + 1,
        hidden_size=preset.width,
        intermediate_size=preset.mlp,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        num_key_value_heads=preset.kv_heads,
        max_position_embeddings=preset.positions,
        initializer_range=preset.width**-0.5,
    )
    # Made in its dtype: a cast would round the inverse frequencies of the positions too.
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, preset.dtype))
