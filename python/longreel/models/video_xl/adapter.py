"""VST tokens for any Llama or Qwen2 decoder of transformers: chunks into a memory, questions about it, and training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import longreel.integrations.transformers  # noqa: F401
from longreel import use_layout
from longreel.cache.vst import VSTCache
from longreel.cache.vst_last import one_chunk
from longreel.layout import RatioDraw
from longreel.layout.ratios import chunk_lengths
from longreel.layout.segments import chunk_of
from longreel.models.generation import greedy, unheard
from longreel.models.trainable import Trainable
from longreel.models.video_xl.attention import CachedRows, Rows, add_vst
from longreel.models.video_xl.training import forward


@dataclass(frozen=True)
class VSTRule:
    """How visual tokens are summarised.

    chunk: visual tokens of a window. ratio: visual tokens of a VST token; several are drawn from, as `draw` says (`RatioDraw`),
    by a generator that begins with `seed` and goes on from video to video, as published.
    """

    chunk: int = 1440
    ratio: int | tuple[int, ...] = 8
    draw: str = "step-random"
    seed: int = 42


class VSTDecoder(Trainable, nn.Module):
    """A language model that reads a video in chunks, of each of which its VST tokens' keys and values stay.

    ::

        decoder = VSTDecoder(Qwen2ForCausalLM.from_pretrained(...), ratio=8)
        loss = decoder(ids, vision, labels=labels).loss                 # training: ids with one IMAGE a picture
        cache = decoder.encode(vision, prefix=[1, 2])                   # chunks into a memory, once a video
        answer = decoder.ask(cache, question, max_new_tokens=32)        # as often as liked

    Args:
        language: a Llama or Qwen2 of transformers; it is switched to ``attn_implementation="longreel"`` and takes VST weights,
            copies of its own, under released names (``model.layers.0.self_attn.beacon_q_proj.weight``, ...).
        per_picture: visual tokens that an IMAGE among the ids stands for.
        backend: of the ops; None chooses.
        constant_vst: the first layer projects one VST row for all, since they are alike there; the numbers are the same.
        skip_unread: at inference the last two layers of a chunk compute what the memory takes from them; the same numbers.
        rule: fields of `VSTRule`.
    """

    def __init__(
        self,
        language: PreTrainedModel,
        *,
        per_picture: int = 144,
        backend: str | None = None,
        constant_vst: bool = True,
        skip_unread: bool = True,
        **rule: Any,
    ) -> None:
        super().__init__()
        self.rule = VSTRule(**rule)
        if getattr(language.config.get_text_config(), "use_sliding_window", False):
            raise ValueError("use_sliding_window: a window of the model's own is not computed with VST tokens")
        language.set_attn_implementation("longreel")
        add_vst(language.get_decoder())
        self.language, self.per_picture, self.backend = language, per_picture, backend
        self.constant_layer, self.skip_unread = 0 if constant_vst else -1, skip_unread
        self.inv_freq = inverse_frequencies(language.config)
        self._draw = self.ratios()

    def ratios(self) -> RatioDraw:
        """A fresh draw of the ratios under this rule."""
        rule = self.rule
        given = (rule.ratio,) if isinstance(rule.ratio, int) else rule.ratio
        return RatioDraw(given, rule.draw, seed=rule.seed)

    def windows(self, visual: int, draw: RatioDraw | None = None) -> list[tuple[int, int]]:
        """The chunks (visual tokens, ratio) of so many visual tokens."""
        draw = draw or self._draw
        return [(length, draw.next(length)) for length in chunk_lengths(visual, self.rule.chunk)]

    def embed(self, ids: Tensor) -> Tensor:
        """int64 [T] -> [1, T, E]."""
        table: Any = self.language.get_input_embeddings()
        out: Tensor = table(ids.to(table.weight.device))[None]
        return out

    def cache(self, capacity: int, *, text_capacity: int = 2048, max_bytes: int | None = None) -> VSTCache:
        """An empty memory with room for `capacity` prefix and VST tokens, and for so many of text in a fork."""
        return VSTCache(
            self.language.config,
            capacity=capacity,
            text_capacity=text_capacity,
            inv_freq=self.inv_freq,
            max_bytes=max_bytes,
        )

    def load(self, path: str | Path, *, text_capacity: int = 2048, max_bytes: int | None = None) -> VSTCache:
        """What `VSTCache.save` wrote, with so much room for text in a fork."""
        cache = VSTCache.load(path, self.language.config, self.vst.device, max_bytes=max_bytes)
        if not torch.equal(cache.inv_freq.cpu(), self.inv_freq.cpu()):
            raise ValueError(f"{path} holds keys at other rotary frequencies than the model's: it is of another model")
        cache.text_capacity = text_capacity
        return cache

    @torch.no_grad()
    def encode(
        self,
        vision: Tensor,
        *,
        prefix: Sequence[int] = (),
        cache: VSTCache | None = None,
        chunks: Sequence[tuple[int, int]] | None = None,
        at_once: int = 1,
    ) -> VSTCache:
        """Visual tokens [n, E] into a memory, chunk after chunk; the last chunk may be a shorter one.

        prefix: ids before the video. cache: of what came before, which it is appended to, and which grows where it has to.
        chunks: (visual tokens, ratio) of each, n in all; None: as the rule says. at_once: chunks of one forward pass.
        """
        if at_once < 1:
            raise ValueError(f"at_once is 1 chunk or more, given {at_once}")
        if vision.dim() != 2 or not vision.is_floating_point() or vision.shape[1] != self.width:
            raise ValueError(
                f"vision must be floating [tokens, {self.width}], given {vision.dtype} {list(vision.shape)}"
            )
        windows = self.windows(len(vision)) if chunks is None else list(chunks)
        if sum(length for length, _ in windows) != len(vision):
            raise ValueError(f"the chunks have {sum(n for n, _ in windows)} visual tokens, {len(vision)} are given")
        if cache is None:
            # Remainders add up to less than one token a chunk.
            cache = self.cache(len(prefix) + sum(-(-length // ratio) for length, ratio in windows))
        if len(prefix) and not cache.length:
            self._append(cache, self.embed(torch.tensor(prefix)), [("prefix", len(prefix))], len(prefix))
        at = 0
        for first in range(0, len(windows), at_once):
            some = windows[first : first + at_once]
            visual = sum(length for length, _ in some)
            segments = cache.chunks(some)
            vst = sum(segment.length for segment in segments) - visual
            raw = vision[None, at : at + visual].to(self.vst.device, self.vst.dtype)
            self._append(cache, torch.cat([raw, self.vst.expand(1, vst, -1)], 1), segments, visual)
            at += visual
        return cache

    @torch.no_grad()
    def ask(self, cache: VSTCache, question: Tensor | Sequence[Tensor], **options: Any) -> Tensor:
        """The answer [1, T] to a question [t] about what the memory holds, or answers [B, T] to several, one after the other, by
        transformers' `generate`, whose `options` these are; the memory stays as it is. A shorter answer is padded behind."""
        questions = [one.flatten() for one in ([question] if isinstance(question, Tensor) else question)]
        if not questions or not all(map(len, questions)):
            raise ValueError(f"a question has at least one id; given {[len(one) for one in questions]}")
        beams, several = options.get("num_beams", 1), options.get("num_return_sequences", 1)
        answers = list[Tensor]()
        for one in questions:
            ids = one[None].to(self.vst.device)
            given = cache.question(ids, beams, None, several) | options
            with use_layout(None, backend=self.backend):
                made: Tensor = self.language.generate(**given)  # type: ignore[operator]
            answers += made[:, ids.shape[1] :]
        longest = max(map(len, answers))
        return torch.stack([nn.functional.pad(one, (0, longest - len(one)), value=self._padding) for one in answers])

    @property
    def _padding(self) -> int:
        config = self.language.generation_config
        eos = config.eos_token_id if config is not None else None
        eos = eos[0] if isinstance(eos, list) else eos
        pad = config.pad_token_id if config is not None else None
        return pad if isinstance(pad, int) else eos if isinstance(eos, int) else 0

    @torch.no_grad()
    def answer(
        self,
        cache: VSTCache,
        after: Tensor,
        *,
        length: int = 8,
        stop: int | None = None,
        first: Callable[[], None] = unheard,
    ) -> tuple[Tensor, Tensor]:
        """Greedily, without a copy of the memory: ids int64 [at most length] to the ids `after` [T], and the logits after each
        of those [T, V]. first: called once the first id is chosen."""
        fork = cache.fork()

        def step(ids: Tensor) -> Tensor:
            return self.logits(self.rows(self.embed(ids), CachedRows(fork, len(ids), backend=self.backend)))[0]

        logits = step(after)
        return greedy(lambda one: step(one[0])[-1], logits[-1], length=length, stop=stop, first=first), logits

    def forward(
        self, input_ids: Tensor, vision: Tensor | None = None, labels: Tensor | None = None, **inputs: Any
    ) -> CausalLMOutput:
        """Samples with all their chunks in one pass each; see `training.forward`."""
        return forward(self, input_ids, vision, labels, **inputs)

    @property
    def width(self) -> int:
        return int(self.language.config.get_text_config().hidden_size)

    @property
    def vst(self) -> Tensor:
        """The embedding of every VST token [1, E]."""
        table: Any = self.language.get_decoder().beacon_embed_tokens
        out: Tensor = table(torch.zeros(1, dtype=torch.long, device=table.weight.device))
        return out

    def rows(self, embeds: Tensor, rows: Rows) -> Tensor:
        """Hidden states [B, R, E] of embeddings [B, R, E], rows grouped [raw | VST], through all layers and the last norm."""
        decoder: Any = self.language.get_decoder()
        out: Tensor = decoder.norm(self._through(decoder.layers, embeds, rows))
        return out

    def _through(self, layers: Any, x: Tensor, rows: Rows) -> Tensor:
        for layer in layers:
            x = layer(
                x, attention_mask=None, position_ids=None, past_key_values=None, position_embeddings=None, vst=rows
            )
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """[B, R, E] -> [B, R, V]."""
        head: Any = self.language.get_output_embeddings()
        out: Tensor = head(hidden)
        return out

    def _append(self, cache: VSTCache, embeds: Tensor, segments: Sequence[Any], n_raw: int) -> None:
        more = sum(chunk_of(s).vst if s[0] == "vst" else s[1] for s in segments)
        if cache.tokens + more > cache.capacity and cache.max_bytes is not None:
            raise MemoryError(
                f"under max_bytes={cache.max_bytes} the cache has room for {cache.capacity} tokens of video beside its text; it"
                f" holds {cache.tokens}, {more} more would come"
            )
        if cache.tokens + more > cache.capacity:
            cache.grow(max(2 * cache.capacity, cache.tokens + more))

        def run(*, inputs_embeds: Tensor, past_key_values: VSTCache, use_cache: bool) -> None:
            rows, decoder = (
                CachedRows(past_key_values, n_raw, self.constant_layer, self.backend),
                self.language.get_decoder(),
            )
            layers: Any = decoder.layers
            # An offloaded layer has its weights only while it is called.
            called = any(hasattr(layer, "_hf_hook") for layer in layers)
            alone = self.skip_unread and not called and one_chunk(past_key_values)
            whole = len(layers) - 2 if alone else len(layers)
            x = self._through(layers[: max(whole, 0)], inputs_embeds, rows)
            if alone:
                rows.finish(layers[max(whole, 0) :], x)

        cache.append(run, embeds, segments)


def inverse_frequencies(config: Any) -> Tensor:
    """float32 [D/2], of a configuration's rotary embedding.

    Raises:
        ValueError: one that scales, or that changes with the length: keys that were cached before would not follow.
    """
    text = config.get_text_config()
    parameters = text.rope_parameters or {}
    kind = parameters.get("rope_type", "default")
    if kind in ("dynamic", "longrope") or parameters.get("partial_rotary_factor", 1) != 1:
        raise ValueError(f"rotary embedding {parameters} is not computed with VST tokens")
    if kind == "default":
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return 1.0 / (parameters["rope_theta"] ** (torch.arange(0, head, 2, dtype=torch.int64).float() / head))
    inv_freq, scaling = ROPE_INIT_FUNCTIONS[kind](text, torch.device("cpu"))
    if scaling != 1:
        raise ValueError(
            f"rotary embedding {parameters} scales queries and keys by {scaling}: not computed with VST tokens"
        )
    return inv_freq.float()
