"""LLaMA-VID from pixels to answer ids: tower, adapter, language model, each stage a method of its own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from longreel.models.eva import eva_tower
from longreel.models.generation import answer_behind, unheard
from longreel.models.llama_vid.adapter import Adapter, Equation
from longreel.models.llama_vid.presets import Preset, TextDecoder
from longreel.models.record import Ops
from longreel.models.sizes import computed_in
from longreel.models.tower import WithTower, choose_attention
from longreel.models.weights import language_model, weights_from


class LlamaVid(WithTower, nn.Module):
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
            self.tower = eva_tower(preset.tower)
            self.adapter = Adapter(
                preset.qformer,
                preset.tower.width,
                preset.language.width,
                text_decoder=text_decoder or preset.text_decoder,
                average_padding=average_padding,
                compress=preset.compress if compress == "preset" else compress,
                projector=preset.projector,
                num_prefix_tokens=0 if preset.cls_as_patch else num_prefix_tokens,
                equation=equation,
                backend=backend,
            )
            self.language = language_model(preset.language, dtype)
        parts: tuple[nn.Module, ...] = (self.adapter, self.tower)
        for part in parts:
            part.to(dtype)
        choose_attention(self.tower)
        self.eval().requires_grad_(False)

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [F, image, image, 3] -> the tower's tokens [F, 1 + N, C] (or [F, N, C]), CLS first, no final norm."""
        return self.tower_tokens(pixels, self.preset.tower.patches + self.num_prefix_tokens)

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
        return answer_behind(
            self.language, (before, visual), after, positions=self.preset.language.positions, length=length, stop=stop,
            first=first,
        )  # fmt: skip
