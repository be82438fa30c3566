"""LLaMA-VID from pixels to answer ids: tower, adapter, language model, each stage a method of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel, DynamicCache, LlamaConfig, LlamaForCausalLM

from longreel.models.llama_vid.adapter import Adapter, Equation, Ops
from longreel.models.llama_vid.presets import LanguageSize, Preset, TowerSize

# Few frames at a time keep the tower's wide activations in memory that is reused, not mapped anew at every layer.
_TOWER_FRAMES = 8
_PREFILL_TOKENS = 512
_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
_BOS, _BYTES = 1, 4


class LlamaVid(nn.Module):
    """Random weights drawn from `seed`: every stage computes what the released one does, but the answer means nothing.

    They are drawn wide enough (standard deviation width ** -0.5) that pictures and question matter to the end.

    Args:
        preset: every size. seed: of the weights.
        compress: content tokens of a frame, "mean", "grid:g" or None for all; by default the preset's.
        equation, backend: as in `Adapter`.
    """

    def __init__(
        self,
        preset: Preset,
        *,
        seed: int = 0,
        compress: str | None = "preset",
        equation: Equation = "released",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.preset = preset
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tower = _tower(preset.tower)
            self.adapter = Adapter(
                preset.qformer,
                preset.tower.width,
                preset.language.width,
                compress=preset.compress if compress == "preset" else compress,
                equation=equation,
                backend=backend,
            )
            self.language = _language(preset.language)
        self.to(getattr(torch, preset.dtype)).eval().requires_grad_(False)

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [F, image, image, 3] -> the tower's tokens [F, 1 + N, C], CLS first, without a final norm."""
        weight = self.tower.embeddings.patch_embedding.weight
        mean, std = (
            torch.tensor(value, dtype=weight.dtype, device=weight.device) * 255 for value in (_PIXEL_MEAN, _PIXEL_STD)
        )
        features = weight.new_empty(len(pixels), self.preset.tower.tokens, self.preset.tower.width)
        for batch, place in zip(torch.split(pixels, _TOWER_FRAMES), torch.split(features, _TOWER_FRAMES), strict=True):
            values = ((batch.to(weight.device, weight.dtype) - mean) / std).permute(0, 3, 1, 2)
            place.copy_(self.tower(pixel_values=values).last_hidden_state)
        return features

    def query(self, ids: Tensor, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Questions [P, T] and features [F, 1 + N, C] -> text queries [P, F, M, E]; see `Adapter.query`."""
        return self.adapter.query(ids, features, mask)

    def compress(self, queries: Tensor, features: Tensor, *, ops: Ops = "longreel") -> Tensor:
        """Tokens for the language model [P, F * (1 + n), H]; see `Adapter.compress`."""
        return self.adapter.compress(queries, features, ops=ops)

    def answer(self, visual: Tensor, question: Tensor, *, length: int = 8) -> tuple[Tensor, Tensor]:
        """Prefill BOS, the visual tokens and the question, then choose greedily.

        Args:
            visual: [S, H] of one question. question: int64 [T]. length: ids to choose.

        Returns:
            ids int64 [length] and the logits after every id of the question [T, vocabulary]; the last chose the first id.

        Raises:
            ValueError: more tokens than the language model has positions.
        """
        needed, limit = 1 + len(visual) + len(question) + length, self.preset.language.positions
        if needed > limit:
            raise ValueError(f"{needed} tokens are more than the language model's {limit} positions")
        embed = self.language.get_input_embeddings()
        bos = torch.full((1,), _BOS, device=visual.device)
        cache = DynamicCache(config=self.language.config)
        # [1, 1 + S, H]
        for block in torch.split(torch.cat([embed(bos), visual])[None], _PREFILL_TOKENS, 1):
            self.language.model(inputs_embeds=block, past_key_values=cache)
        logits = self.language(input_ids=question[None], past_key_values=cache).logits[0]
        ids = [logits[-1].argmax()]
        while len(ids) < length:
            ids.append(self.language(input_ids=ids[-1].view(1, 1), past_key_values=cache).logits[0, -1].argmax())
        return torch.stack(ids), logits


def byte_ids(questions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """UTF-8 bytes as ids [P, T], padded on the right, and their mask [P, T], True for a byte.

    The tokenizer of presets without a released vocabulary.
    """
    rows = [list(question.encode()) for question in questions]
    if not rows or not all(rows):
        raise ValueError("a question is empty" if rows else "at least one question is needed")
    width = max(map(len, rows))
    ids = torch.tensor([row + [-_BYTES] * (width - len(row)) for row in rows]) + _BYTES
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return ids, mask


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


def _language(size: LanguageSize) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=size.positions,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": size.rope_factor},
        bos_token_id=_BOS,
        initializer_range=size.width**-0.5,
    )
    return LlamaForCausalLM(config)
