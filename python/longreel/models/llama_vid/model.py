"""LLaMA-VID from pixels to answer ids: tower, adapter, language model, each stage a method of its own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel

from longreel._transformers import with_cache
from longreel.cache import BufferedCache
from longreel.models.generation import greedy, unheard
from longreel.models.llama_vid.adapter import Adapter, Equation
from longreel.models.llama_vid.presets import Preset, TextDecoder
from longreel.models.record import Ops
from longreel.models.sizes import TowerSize, computed_in
from longreel.models.tower import encode, placed
from longreel.models.weights import language_model, weights_from

_PREFILL_TOKENS = 256


class LlamaVid(nn.Module):
    """Random weights drawn from `seed`: every stage computes what the released one does, but the answer means nothing.

    They are drawn wide enough (standard deviation width ** -0.5) that pictures and question matter to the end.
    `checkpoint.load` replaces them.

    Args:
        preset: every size. seed: of the weights.
        compress: content tokens of a frame, "mean", "grid:g" or None for all; by default the preset's.
        num_prefix_tokens: 1 keeps the tower's CLS for the Q-Former, as the released code does on its short path; 0 drops it
            from the features, as on its long one.
        text_decoder: as in `Adapter`; None: the preset's. average_padding, equation, backend: as there.
        device: where the weights are made and everything runs; "meta" makes sizes alone.
    """

    def __init__(
        self,
        preset: Preset,
        *,
        seed: int = 0,
        compress: str | None = "preset",
        num_prefix_tokens: int = 1,
        text_decoder: TextDecoder | None = None,
        average_padding: bool = False,
        equation: Equation = "released",
        backend: str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if num_prefix_tokens not in (0, 1):
            raise ValueError(f"num_prefix_tokens must be 0 or 1, the tower has one CLS token; got {num_prefix_tokens}")
        self.preset, self.num_prefix_tokens = preset, num_prefix_tokens
        device = torch.device(device)
        dtype = computed_in(preset, device)
        with weights_from(seed, device, dtype):
            self.tower = _tower(preset.tower)
            self.adapter = Adapter(
                preset.qformer,
                preset.tower.width,
                preset.language.width,
                text_decoder=text_decoder or preset.text_decoder,
                average_padding=average_padding,
                compress=preset.compress if compress == "preset" else compress,
                projector=preset.projector,
                num_prefix_tokens=0 if preset.patches_see_cls else num_prefix_tokens,
                equation=equation,
                backend=backend,
            )
            self.language = language_model(preset.language, dtype)
        parts: tuple[nn.Module, ...] = (self.adapter, self.tower)
        for part in parts:
            part.to(dtype)
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the tower is, and what it takes its input from."""
        return placed(self.tower).device

    @property
    def dtype(self) -> torch.dtype:
        """What the tower computes in, and its features have."""
        return placed(self.tower).dtype

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [F, image, image, 3] -> the tower's tokens [F, 1 + N, C] (or [F, N, C]), CLS first, no final norm."""
        size = self.preset.tower
        shape = len(pixels), size.patches + self.num_prefix_tokens, size.width
        return encode(self.tower, pixels, torch.empty(shape, dtype=self.dtype, device=self.device))

    def query(self, ids: Tensor, features: Tensor, mask: Tensor | None = None, *, ops: Ops = "longreel") -> Tensor:
        """Questions [P, T] and features [F, 1 + N, C] -> text queries [P, F, M, E]; see `Adapter.query`."""
        return self.adapter.query(ids, features, mask, ops=ops)

    def compress(
        self, queries: Tensor, features: Tensor, *, mask: Tensor | None = None, ops: Ops = "longreel"
    ) -> Tensor:
        """Tokens for the language model [P, F * (1 + n), H]; see `Adapter.compress`."""
        return self.adapter.compress(queries, features, mask=mask, ops=ops)

    def answer(
        self,
        visual: Tensor,
        before: Tensor,
        after: Tensor,
        *,
        length: int = 8,
        stop: int | None = None,
        first: Callable[[], None] = unheard,
    ) -> tuple[Tensor, Tensor]:
        """Prefill the ids before the visual tokens, these and the ids after them, then choose greedily.

        Args:
            visual: [S, H] of one question. before: int64 [A]. after: int64 [T], at least one.
            length: ids to choose at most. stop: the id that ends an answer; it is not returned.
            first: called once the first id is chosen.

        Returns:
            ids int64 [at most length] and the logits after every id of `after` [T, vocabulary]; the last chose the first id.

        Raises:
            ValueError: more tokens than the language model has positions; visual of another shape.
        """
        width = self.preset.language.width
        if visual.dim() != 2 or visual.shape[1] != width or not len(after):
            raise ValueError(
                f"visual must be [S, {width}] and after have an id, given {list(visual.shape)} and {len(after)} ids"
            )
        needed, limit = len(before) + len(visual) + len(after) + length, self.preset.language.positions
        if needed > limit:
            raise ValueError(f"{needed} tokens are more than the language model's {limit} positions")
        embed = self.language.get_input_embeddings()
        cache = BufferedCache(self.language.config, needed)
        for rows in (embed(before), visual):
            # [1, at most so many, H]
            for block in torch.split(rows[None], _PREFILL_TOKENS, 1):
                self.language.model(inputs_embeds=block, **with_cache(cache))
        logits = self.language(input_ids=after[None], **with_cache(cache)).logits[0]

        def step(chosen: Tensor) -> Tensor:
            following: Tensor = self.language(input_ids=chosen, **with_cache(cache)).logits[0, -1]
            return following

        return greedy(step, logits[-1], length=length, stop=stop, first=first), logits


def _tower(size: TowerSize) -> Blip2VisionModel:
    config = Blip2VisionConfig(
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        image_size=size.image,
        patch_size=size.patch,
        hidden_act="gelu",
        initializer_range=size.width**-0.5,
    )
    tower = Blip2VisionModel(config)
    tower.post_layernorm = nn.Identity()  # type: ignore[assignment]
    return tower
