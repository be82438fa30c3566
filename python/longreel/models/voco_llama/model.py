"""VoCo-LLaMA (arXiv 2406.12275) from pixels to answers: CLIP tower, projector, and a decoder with VoCo tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from longreel import use_layout
from longreel._transformers import with_cache
from longreel.cache import VoCoCache
from longreel.models.checkpoint import refuse_untaken
from longreel.models.clip import PROJECTOR, TOWER, clip_tower, left_out
from longreel.models.generation import greedy, unheard
from longreel.models.sizes import computed_in
from longreel.models.tower import WithTower, choose_attention
from longreel.models.trainable import Trainable
from longreel.models.voco_llama.adapter import VoCoDecoder
from longreel.models.voco_llama.presets import Preset
from longreel.models.voco_llama.tokens import VoCoCollator
from longreel.models.weights import language_model, weights_from
from longreel.nn.context_attention import build_projector

_LANGUAGE = "decoder.language."


class VoCoLlama(WithTower, Trainable, nn.Module):
    """Random weights drawn from `seed`, under LLaVA-1.5's state-dict names through `from_released` and `to_released`.

    Args:
        preset: every size. seed: of the weights.
        count: VoCo tokens of a group. rule: further fields of `VoCoRule` (mode, separator, readings of the mask).
        backend: of `block_sparse_attention` in both stages; None chooses.
        device: where the weights are made and everything runs; "meta" makes sizes alone.
    """

    def __init__(
        self,
        preset: Preset,
        *,
        seed: int = 0,
        count: int = 2,
        backend: str | None = None,
        device: torch.device | str = "cpu",
        **rule: Any,
    ) -> None:
        super().__init__()
        self.preset, self.backend = preset, backend
        tower, device = preset.tower, torch.device(device)
        dtype = computed_in(preset, device)
        with weights_from(seed, device, dtype):
            self.tower, width = clip_tower(tower), preset.language.width
            self.projector = build_projector(preset.projector, tower.width, width)
            parts: tuple[nn.Module, ...] = (self.projector, self.tower)
            for part in parts:
                part.to(dtype)
            choose_attention(self.tower)
            language = language_model(preset.language, dtype)
        token = preset.language.vocabulary - 1
        self.decoder = VoCoDecoder(language, patches_per_frame=tower.patches, voco_tokens=count, token=token, **rule)

    @property
    def language(self) -> PreTrainedModel:  # type: ignore[override]
        return self.decoder.language

    def collator(self, **options: Any) -> VoCoCollator:
        """See `VoCoCollator`; pictures are "pixels" uint8 [P, image, image, 3]."""
        return self.decoder.collator(**options)

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [P, image, image, 3] -> rows of the last layer but one [P, N, C], without CLS. The tower is frozen."""
        return self.tower_tokens(pixels, self.preset.tower.patches)

    def forward(self, input_ids: Tensor, pixels: Tensor | None = None, **inputs: Any) -> Any:
        """The masked forward over a batch of `collator`; see `VoCoDecoder.forward`."""
        return self.decoder(input_ids, self._vision(pixels), **inputs)

    def generate(self, input_ids: Tensor, pixels: Tensor | None = None, **options: Any) -> Tensor:
        """Answers in one stage; see `VoCoDecoder.generate`."""
        return self.decoder.generate(input_ids, self._vision(pixels), **options)

    @torch.no_grad()
    def encode_video(self, pixels: Tensor, **options: Any) -> VoCoCache:
        """Stage 1 over frames [F, image, image, 3]; see `VoCoDecoder.encode`."""
        return self.read(self.encode(pixels), **options)

    # Its name until 0.1.0.
    see = encode_video

    @torch.no_grad()
    def read(self, features: Tensor, *, cache: VoCoCache | None = None, at_once: int = 8, **options: Any) -> VoCoCache:
        """Stage 1 over the tower's features [F, N, C]; see `VoCoDecoder.encode`. They are projected pass by pass."""
        rule = self.decoder.rule
        # Frames of one group are one pass, and what `encode` is to refuse goes to it whole.
        apart = rule.mode != "image" and not rule.shared and at_once > 0
        with use_layout(None, backend=self.backend):
            for few in torch.split(features, at_once) if apart else (features,):
                cache = self.decoder.encode(self.projector(few), cache=cache, at_once=at_once, **options)
        assert cache is not None
        return cache

    def ask(self, cache: VoCoCache, question: Tensor | Sequence[Tensor], **options: Any) -> Tensor:
        """Stage 2; see `VoCoDecoder.ask`."""
        return self.decoder.ask(cache, question, **options)

    @torch.no_grad()
    def answer(
        self,
        cache: VoCoCache,
        after: Tensor,
        *,
        length: int = 8,
        stop: int | None = None,
        first: Callable[[], None] = unheard,
    ) -> tuple[Tensor, Tensor]:
        """Stage 2, greedily: ids int64 [at most length] to the ids `after` [T], and the logits after each of those [T, V].

        first: called once the first id is chosen.
        """
        fork = cache.fork()

        def step(ids: Tensor) -> Tensor:
            logits: Tensor = self.language(input_ids=ids, **with_cache(fork)).logits[0]
            return logits

        with use_layout(None, backend=self.backend):
            logits = step(after[None])
            return greedy(lambda chosen: step(chosen)[-1], logits[-1], length=length, stop=stop, first=first), logits

    def _vision(self, pixels: Tensor | None) -> Tensor | None:
        return None if pixels is None else self.projector(self.encode(pixels))


def released_name(name: str) -> str:
    """The released name of a parameter of `VoCoLlama`: LLaVA-1.5's."""
    room, _, rest = name.partition(".")
    if room == "tower":
        return TOWER + rest
    if room == "projector":
        return PROJECTOR + rest
    return name.removeprefix(_LANGUAGE)


def from_released(released: Mapping[str, Tensor], model: VoCoLlama) -> dict[str, Tensor]:
    """The state dict of `model` out of a released one. The tower's last layers and norm, which nobody reads, are left out.

    A LLaVA-1.5 checkpoint, one row short of the VoCo token, takes the row of `model`.

    Raises:
        KeyError: the released state dict lacks a parameter, named as the release names it.
        CheckpointError: it has an entry that `model` has no place for.
    """
    out = {}
    for name, own in model.state_dict().items():
        value = released[released_name(name)]
        if "embed_tokens" in name or "lm_head" in name:
            value = torch.cat([value, own[len(value) :].to(value)]) if len(value) == len(own) - 1 else value
        out[name] = value
    refuse_untaken(set(released) - set(map(released_name, out)), left_out(model.preset.tower.layers, None))
    return out


def to_released(model: VoCoLlama) -> dict[str, Tensor]:
    """Parameters under their released names."""
    return {released_name(name): value for name, value in model.state_dict().items()}
