"""VoCoCache: of every frame the keys and values of its VoCo tokens only (VoCo-LLaMA, arXiv 2406.12275, two-stage inference)."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import Cache, PreTrainedConfig

from longreel.cache.voco_layer import Rows, VoCoLayer, narrowed_to
from longreel.layout import VideoLayout, kinds, positions
from longreel.layout.segments import PREFIX, VOCO

FORMAT = "longreel-voco-cache/1"
Mode = Literal["independent", "causal"]
PrefixVisibleTo = Literal["first", "frames", "all"]
Positions = Literal["compact", "absolute"]


class VoCoCache(Cache):
    """The first of two stages, kept: frames are seen once, any number of questions are asked of what their VoCo tokens hold.

    ::

        cache = VoCoCache(model.config)
        cache.append(model.model, embeds, [("prefix", 1), ("vision", 576), ("text", 2), ("voco", 1)])
        answer = model.generate(**cache.question(ids), max_new_tokens=32)

    Questions run on forks that share the kept rows, with any attention implementation; only `append` needs "longreel". Text
    stands at the position after the last frame, as in the masked forward over everything, whose result it reproduces.

    Args:
        config: of the language model.
        mode: frames see themselves only ("independent"), or also the VoCo tokens of earlier frames ("causal"). No released
            checkpoint validates either; with one image there is no difference.
        prefix_visible_to: rows before the first frame are seen by the "first" frame, all "frames", or "all": text too.
        text_sees_prefix: False is the released reading of the mask, True the paper's.
        positions: "compact" starts a frame at prefix + VoCo tokens before it, "absolute" counts rows; the same for one image.
    """

    # Of `VoCoLayer`; the base class says less.
    layers: list[Any]

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        mode: Mode = "independent",
        prefix_visible_to: PrefixVisibleTo = "first",
        text_sees_prefix: bool = False,
        positions: Positions = "compact",
    ) -> None:
        for name, value, allowed in (
            ("mode", mode, Mode), ("prefix_visible_to", prefix_visible_to, PrefixVisibleTo), ("positions", positions, Positions)
        ):  # fmt: skip
            if value not in get_args(allowed):
                raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, get_args(allowed)))}")
        self.held = Rows()
        self.mode, self.prefix_visible_to, self.positions = mode, prefix_visible_to, positions
        self.text_sees_prefix = text_sees_prefix or prefix_visible_to == "all"
        super().__init__(layers=[VoCoLayer(self.held) for _ in range(config.get_text_config().num_hidden_layers)])

    @property
    def rows(self) -> int:
        """Rows kept: the VoCo tokens, and the prefix where later rows see it."""
        return self.held.kept

    @property
    def length(self) -> int:
        """Position of the next text row: what the cache counts as its length."""
        return self.held.text_at

    @property
    def batch(self) -> int:
        """Samples; 1 as long as it is empty."""
        return int(self.layers[0].keys.shape[0]) if self.layers[0].rows else 1

    @property
    def nbytes(self) -> int:
        layers = (layer for layer in self.layers if layer.rows)
        return sum(t.numel() * t.element_size() for layer in layers for t in (layer.keys, layer.values))

    @torch.no_grad()
    def append(
        self, decoder: Callable[..., Any], embeds: Tensor, segments: Sequence[tuple[str, int]], **inputs: Any
    ) -> None:
        """The vision stage: run more frames, and keep their VoCo rows. A layer's other rows are dropped as soon as it ran.

        Args:
            decoder: the transformers decoder without its head (`model.model`), with ``attn_implementation="longreel"``.
            embeds: ``[B, n, H]``, embeddings of the rows; a batch shares one structure.
            segments: (kind, rows) in order, n rows in all: at first "prefix" if there is any, then frames of "vision" (and
                "text", separators) that each end with "voco".
            inputs: more keywords for the decoder.

        Raises:
            ValueError: the segments are not frames or do not have n rows; a question was asked of this very cache; the decoder
                has another attention, or keeps nothing; the batch is another. The cache is then as it was.
        """
        held = self.held
        given = getattr(getattr(decoder, "config", None), "_attn_implementation", "longreel")
        if given != "longreel":
            raise ValueError(f"attn_implementation={given!r} takes no layout; a vision stage needs 'longreel'")
        alone = self._layout(segments)
        if embeds.shape[1] != alone.length:
            raise ValueError(f"the segments have {alone.length} rows and embeds {embeds.shape[1]}")
        kind = kinds(alone)[0]
        if not len(kind) or kind[-1] != VOCO:
            raise ValueError("a vision stage ends with voco rows: text is asked on a fork")
        if held.text_at and (kind == PREFIX).any():
            raise ValueError("a prefix stands before the first frame only")
        if held.kept and embeds.shape[0] != self.batch:
            raise ValueError(f"the cache holds {self.batch} samples and embeds {embeds.shape[0]}")
        if any(layer.rows != held.kept for layer in self.layers):
            raise ValueError("frames are appended to a cache without text: ask questions on forks of it")
        by_itself, whole = self.mode == "independent" and self.prefix_visible_to == "first", alone
        if not by_itself:
            both = self._layout([("prefix", held.prefix), ("voco", held.voco), *segments])
            whole = both.rows(held.kept, held.kept + alone.length)
        is_kept = (kind == VOCO) | ((kind == PREFIX) & self._keeps_prefix)
        at = held.frame_at + positions(alone, self.positions)
        before = [(layer.keys, layer.values, layer.is_initialized) for layer in self.layers]
        held.keep, held.alone = torch.from_numpy(np.flatnonzero(is_kept)).to(embeds.device), by_itself
        try:
            with narrowed_to(decoder, self.layers, held.keep):
                decoder(
                    inputs_embeds=embeds,
                    position_ids=torch.from_numpy(at).to(embeds.device, torch.long),
                    past_key_values=self,
                    use_cache=True,
                    video_layout=whole,
                    **inputs,
                )
            if any(layer.rows != held.kept + len(held.keep) for layer in self.layers):
                raise ValueError(
                    "the decoder added no rows to the cache: in training with gradient checkpointing transformers takes none;"
                    " a vision stage runs after eval()"
                )
        except BaseException:
            for layer, (keys, values, initialized) in zip(self.layers, before, strict=True):
                layer.keys, layer.values, layer.is_initialized = keys, values, initialized
            raise
        finally:
            held.keep, held.alone = None, False
        count, prefix = int((kind == VOCO).sum()), int((kind == PREFIX).sum())
        held.prefix += prefix if self._keeps_prefix else 0
        held.voco += count
        held.text_at = int(at[0, -1]) + 1
        held.frame_at = held.text_at if self.positions == "absolute" else held.frame_at + prefix + count

    def fork(self, repeats: int = 1) -> "VoCoCache":
        """A cache for one question: it shares the rows that text sees, and what is added to it stays its own.

        repeats: how often each sample stands in a row, for beams or several answers.
        """
        other = copy(self)
        hidden = 0 if self.text_sees_prefix else self.held.prefix
        other.held = Rows(self.held.prefix - hidden, self.held.voco, self.held.frame_at, self.held.text_at)
        other.layers = []
        for layer in self.layers:
            forked = copy(layer)
            forked.held = other.held
            if layer.rows:
                forked.keys, forked.values = layer.keys[..., hidden:, :], layer.values[..., hidden:, :]
            other.layers.append(forked)
        if repeats > 1:
            other.batch_repeat_interleave(repeats)
        return other

    def question(self, ids: Tensor, beams: int = 1, mask: Tensor | None = None, answers: int = 1) -> dict[str, Any]:
        """What `generate` takes for questions ids [B, T] about this cache: the ids, a fork, and a mask of all positions.

        Questions of one batch are asked of as many samples, or all of the only one. mask: [B, T], zero where a shorter
        question is padded on its left. answers: of each question (`num_return_sequences`).

        Raises:
            ValueError: the cache has another number of samples, or a question is padded on its right.
        """
        batch, own = ids.shape[0], self.batch
        if own not in (1, batch):
            raise ValueError(f"{batch} questions for a cache of {own} samples: allowed is one for each, or one sample")
        asked = torch.ones_like(ids) if mask is None else mask.to(ids.device, torch.long)
        if not bool(asked[:, -1].all()):
            raise ValueError("a question is padded on its right: shorter questions are padded on the left")
        before = asked.new_ones(batch, self.length)
        return {
            "input_ids": ids,
            "attention_mask": torch.cat([before, asked], 1),
            "past_key_values": self.fork(max(beams, answers) * batch // own),
        } | {name: n for name, n in (("num_beams", beams), ("num_return_sequences", answers)) if n > 1}

    def reset(self) -> None:
        """As new."""
        self.held = Rows()
        super().reset()
        for layer in self.layers:
            layer.held = self.held

    def save(self, path: str | Path, about: Mapping[str, Any] | None = None) -> None:
        """The kept rows as a safetensors file, which appears only when it is whole. about: what else it says of itself."""
        held = {name: number for name, number in asdict(self.held).items() if name not in ("keep", "alone")}
        own = {"format": FORMAT, "layers": len(self.layers), "held": held, "about": dict(about or {})} | {
            name: getattr(self, name) for name in _OPTIONS
        }
        tensors = {
            f"{name}.{i}": getattr(layer, name).contiguous()
            for i, layer in enumerate(self.layers)
            for name in ("keys", "values")
            if layer.rows
        }
        part = Path(f"{path}.part")
        try:
            save_file(tensors, part, metadata={"longreel": json.dumps(own)})
            # safetensors makes it private; an ordinary file has the rights that the user's mask leaves.
            mask = os.umask(0)
            os.umask(mask)
            part.chmod(0o666 & ~mask)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @staticmethod
    def described(path: str | Path) -> dict[str, Any] | None:
        """What `save` was told `about` a file; None where it is not one of `save`, or cannot be read at all."""
        try:
            with safe_open(path, "pt") as file:
                own = json.loads((file.metadata() or {}).get("longreel", "{}"))
        except (OSError, SafetensorError, ValueError):
            return None
        return own.get("about", {}) if own.get("format") == FORMAT else None

    @classmethod
    def load(cls, path: str | Path, config: PreTrainedConfig, device: torch.device | str = "cpu") -> "VoCoCache":
        """What `save` wrote.

        Raises:
            ValueError: it is no such file, is cut short, or its layers, heads or head size are not those of `config`.
        """
        try:
            opened = safe_open(path, "pt", device=str(device))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a VoCoCache, or cut short: {error}") from None
        text = config.get_text_config()
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        with opened as file:
            about = json.loads((file.metadata() or {}).get("longreel", "{}"))
            if about.get("format") != FORMAT:
                raise ValueError(
                    f"{path} is not a VoCoCache: its format is {about.get('format')!r}, allowed: {FORMAT!r}"
                )
            cache = cls(config, **{name: about[name] for name in _OPTIONS})
            if about["layers"] != len(cache.layers):
                raise ValueError(
                    f"{path} has {about['layers']} layers, the model {len(cache.layers)}: it is of another model"
                )
            for name, number in about["held"].items():
                setattr(cache.held, name, number)
            for i, layer in enumerate(cache.layers):
                if cache.rows:
                    keys, values = file.get_tensor(f"keys.{i}"), file.get_tensor(f"values.{i}")
                    if (keys.shape[1], keys.shape[3]) != (text.num_key_value_heads, width):
                        raise ValueError(
                            f"{path} has {keys.shape[1]} key heads of {keys.shape[3]}, the model {text.num_key_value_heads} of"
                            f" {width}: it is of another model"
                        )
                    layer.lazy_initialization(keys, values)
                    layer.keys, layer.values = keys, values
        return cache

    @property
    def _keeps_prefix(self) -> bool:
        return self.text_sees_prefix or self.prefix_visible_to != "first"

    def _layout(self, segments: Sequence[tuple[str, int]]) -> VideoLayout:
        return VideoLayout.of(
            segments,
            attention=self.mode,
            frames_see_prefix=self.prefix_visible_to != "first",
            text_sees_prefix=self.text_sees_prefix,
        )


_OPTIONS = ("mode", "prefix_visible_to", "text_sees_prefix", "positions")
