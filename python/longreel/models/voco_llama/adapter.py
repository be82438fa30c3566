"""VoCo tokens for any Llama or Qwen2 decoder of transformers: masked training, and two-stage inference."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import longreel.integrations.transformers  # noqa: F401
from longreel import use_layout
from longreel.cache import VoCoCache
from longreel.models.trainable import Trainable
from longreel.models.voco_llama.tokens import IMAGE, VoCoCollator, VoCoRule


class VoCoDecoder(Trainable, nn.Module):
    """A language model that has learnt, or learns, to read pictures through VoCo tokens.

    ::

        decoder = VoCoDecoder(LlamaForCausalLM.from_pretrained(...), patches_per_frame=576, voco_tokens=1)
        loss = decoder(**decoder.collator()(samples)).loss          # masked training
        cache = decoder.encode(vision, prefix=[1])                  # stage 1, once a video
        ids = decoder.ask(cache, question, max_new_tokens=32)       # stage 2, as often as liked

    Args:
        language: any causal language model of transformers whose attention is plain causal; it is switched to
            ``attn_implementation="longreel"``.
        patches_per_frame: of a picture. voco_tokens: of a group. rule: the other fields of `VoCoRule`.
        token: id of the VoCo token where the vocabulary has it; None adds a row to it, the last id.

    Raises:
        TypeError: patches_per_frame or voco_tokens is not given.
    """

    def __init__(
        self,
        language: PreTrainedModel,
        *,
        patches_per_frame: int | None = None,
        voco_tokens: int | None = None,
        token: int | None = None,
        **rule: Any,
    ) -> None:
        # Their names until 0.1.0.
        rows, count = rule.pop("rows", patches_per_frame), rule.pop("count", voco_tokens)
        if rows is None or count is None:
            raise TypeError(
                "VoCoDecoder needs patches_per_frame, of a picture, and voco_tokens, of a group of pictures"
            )
        super().__init__()
        if token is None:
            table: Any = language.get_input_embeddings()
            token = int(table.num_embeddings)
            language.resize_token_embeddings(token + 1, mean_resizing=False)
        language.set_attn_implementation("longreel")
        self.language = language
        self.rule = VoCoRule(token, count, rows, **rule)

    def collator(self, **options: Any) -> VoCoCollator:
        """See `VoCoCollator`."""
        return VoCoCollator(self.rule, **options)

    def embed(self, input_ids: Tensor, vision: Tensor | None = None) -> Tensor:
        """Expanded ids [B, S] and pictures [P, rows, H], in the order of their rows -> [B, S, H]."""
        if input_ids.dim() != 2 or input_ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"input_ids must be int64 [B, S], given {input_ids.dtype} {list(input_ids.shape)}")
        if vision is not None:
            self._check_width(vision)
        table = self.language.get_input_embeddings()
        at = input_ids == IMAGE
        embeds = table(input_ids.masked_fill(at, 0))
        given = 0 if vision is None else vision.shape[0] * vision.shape[1]
        if int(at.sum()) != given:
            raise ValueError(f"the ids have {int(at.sum())} rows of pictures, and {given} are given")
        if vision is None:
            return embeds
        return embeds.masked_scatter(at[..., None], vision.to(embeds.dtype))

    def forward(self, input_ids: Tensor, vision: Tensor | None = None, **inputs: Any) -> Any:
        """The masked forward over a batch of `collator`: what the language model returns, with `loss` where labels are.

        input_ids [B, S] expanded; vision [P, rows, H]; the rest of the batch and any keyword of the language model.
        """
        self._check_attention()
        if "video_layout" not in inputs:
            mask = inputs.get("attention_mask")
            inputs["video_layout"] = self.rule.layout(input_ids, torch.ones_like(input_ids) if mask is None else mask)
        if inputs.get("position_ids") is None:
            inputs["position_ids"] = self.rule.positions(inputs["video_layout"]).to(input_ids.device)
        return self.language(inputs_embeds=self.embed(input_ids, vision), **inputs)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        vision: Tensor | None = None,
        *,
        video_layout: Any = None,
        labels: Any = None,
        **options: Any,
    ) -> Tensor:
        """Answers [B, T] to a batch of `collator` in one stage: every row is kept. `options` are those of generate."""
        self._check_attention()
        mask = options.get("attention_mask")
        layout = video_layout or self.rule.layout(input_ids, torch.ones_like(input_ids) if mask is None else mask)
        options.setdefault("position_ids", self.rule.positions(layout).to(input_ids.device))
        with use_layout(layout):
            return self.language.generate(inputs_embeds=self.embed(input_ids, vision), **options)  # type: ignore[operator]

    def encode(
        self, vision: Tensor, *, prefix: list[int] | None = None, cache: VoCoCache | None = None, at_once: int = 8
    ) -> VoCoCache:
        """Stage 1: frames [F, rows, H] into a cache of their VoCo tokens.

        prefix: ids before the first frame (BOS). cache: of earlier frames, which it is appended to. at_once: frames of one
        forward pass, where every frame has a group of its own.
        """
        self._check_attention()
        rule = self.rule
        if at_once < 1:
            raise ValueError(f"at_once is 1 frame or more, given {at_once}")
        if vision.dim() != 3 or vision.shape[1] != rule.rows:
            raise ValueError(f"vision is [frames, {rule.rows}, H]; given {list(vision.shape)}")
        self._check_width(vision)
        cache = self.cache() if cache is None else cache
        prefix = [] if cache.length else prefix or []
        grouped = vision.flatten(0, 1)[None] if rule.shared else vision
        if rule.mode == "image" and (cache.length or len(grouped) > 1):
            raise ValueError(
                "mode='image', the released rule, shows later rows all between two groups of VoCo tokens: a cache of several"
                " takes mode='independent' or 'causal'"
            )
        segments = [("vision", grouped.shape[1]), ("text", len(rule.separator)), ("voco", rule.count)]
        group = [*rule.separator, *[rule.token] * rule.count]
        table: Any = self.language.get_input_embeddings()
        device = self._device(vision)
        behind = table(torch.tensor(group, device=device))
        for first in range(0, len(grouped), at_once):
            frames = grouped[first : first + at_once].to(behind)
            # [1, n, H]
            embeds = torch.cat([frames, behind.expand(len(frames), -1, -1)], 1).flatten(0, 1)[None]
            before = table(torch.tensor(prefix, device=device, dtype=torch.long))[None]
            rows = [("prefix", len(prefix)), *segments * len(frames)]
            cache.append(self.language.get_decoder(), torch.cat([before, embeds], 1), rows)
            prefix = []
        return cache

    # Its name until 0.1.0.
    see = encode

    def cache(self, max_bytes: int | None = None) -> VoCoCache:
        """An empty cache under this decoder's rule; max_bytes: see `CompressedCache`."""
        rule = self.rule
        return VoCoCache(
            self.language.config,
            mode="causal" if rule.mode == "causal" else "independent",
            prefix_visible_to="frames" if rule.frames_see_prefix else "first",
            text_sees_prefix=rule.text_sees_prefix,
            positions="absolute" if rule.absolute else "compact",
            max_bytes=max_bytes,
        )

    def ask(
        self,
        cache: VoCoCache,
        question: Tensor | Sequence[Tensor],
        *,
        num_beams: int = 1,
        num_return_sequences: int = 1,
        **options: Any,
    ) -> Tensor:
        """Stage 2: the answer [1, T] to a question [t] about what the cache holds, or answers [B, T] to B questions of any
        lengths at once; the cache stays as it is."""
        self._check_attention()
        rows = [one.flatten() for one in ([question] if isinstance(question, Tensor) else question)]
        if not rows or not all(map(len, rows)):
            raise ValueError(f"a question has at least one id; given {[len(row) for row in rows]}")
        longest = max(map(len, rows))
        device = self._device(rows[0])
        ids, mask = (torch.zeros(len(rows), longest, dtype=torch.long, device=device) for _ in range(2))
        for b, row in enumerate(rows):
            ids[b, longest - len(row) :], mask[b, longest - len(row) :] = row.to(ids.device), 1
        given = cache.question(ids, num_beams, mask, num_return_sequences) | options
        return self.language.generate(**given)[:, longest:]  # type: ignore[operator]

    def _check_width(self, vision: Tensor) -> None:
        width = self.language.config.get_text_config().hidden_size
        if vision.dim() != 3 or vision.shape[2] != width or not vision.is_floating_point():
            raise ValueError(
                f"vision must be floating [pictures, {self.rule.rows}, {width}], given {vision.dtype} {list(vision.shape)}"
            )

    def _check_attention(self) -> None:
        """Another implementation than the one that the constructor chose would show the text all pictures, without a word."""
        own = self.language.config._attn_implementation
        if own != "longreel":
            raise ValueError(
                f"the language model's attention is {own!r}, which hides no pictures from the text: call"
                " language.set_attn_implementation('longreel')"
            )

    def _device(self, given: Tensor) -> torch.device:
        """Where the embeddings are; an offloaded model has them nowhere, and takes inputs from where they are."""
        table: Any = self.language.get_input_embeddings()
        device: torch.device = table.weight.device
        return given.device if device.type == "meta" else device
