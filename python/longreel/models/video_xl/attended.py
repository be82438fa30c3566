"""How much later text attends to what a VSTCache keeps of a video: computed beside the attention, for the text's own few rows."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from longreel.cache.vst import VSTCache
from longreel.cache.vst_step import TextStep
from longreel.models.video_xl.attention import CachedRows, VSTAttention
from longreel.rotary import rotary_tables, rotated


class Attended:
    """Weights of text rows over the video: `layers[i]` float32 [rows, tokens of the video], the mean over the heads of layer i. A
    row's weights and those of the text before it sum to 1."""

    def __init__(self) -> None:
        self._rows: dict[int, list[Tensor]] = {}

    @property
    def layers(self) -> list[Tensor]:
        return [torch.cat(self._rows[layer]) for layer in sorted(self._rows)]

    def add(self, layer: int, weights: Tensor) -> None:
        self._rows.setdefault(layer, []).append(weights)


@contextmanager
def attended(language: Any) -> Iterator[Attended]:
    """Within it, what text that goes through `language` over a VSTCache of one sample attends to.

    ::

        with attended(model.language) as record:
            model.answer(cache, question, length=8)
        record.layers[-1][len(question) - 1]  # of the row that chooses the first token of the answer

    It costs a second product of the text's queries and the keys; the answers are what they were.

    Raises:
        ValueError: several samples at once.
    """
    record = Attended()
    with ExitStack() as hooks:
        for module in language.modules():
            if isinstance(module, VSTAttention):
                handle = module.register_forward_pre_hook(_watch(record), with_kwargs=True)
                hooks.callback(handle.remove)
        yield record


def _watch(record: Attended) -> Any:
    def hook(module: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        hidden = args[0] if args else inputs["hidden_states"]
        rows, cache = inputs.get("vst"), inputs.get("past_key_values")
        cache = rows.cache if isinstance(rows, CachedRows) else cache if rows is None else None
        # While chunks are appended the step is theirs.
        if isinstance(cache, VSTCache) and cache.tokens and (cache._step is None or isinstance(cache._step, TextStep)):
            record.add(module.layer_idx, _weights(module, hidden, cache))

    return hook


@torch.no_grad()
def _weights(module: Any, hidden: Tensor, cache: VSTCache) -> Tensor:
    """[R, n] of R text rows over the n tokens of the video."""
    if hidden.shape[0] != 1:
        raise ValueError(f"attended() looks at one sample, given {hidden.shape[0]}")
    layer, rows = cache.layers[module.layer_idx], hidden.shape[1]
    video, before = cache.tokens, cache.layers[-1].text_tokens
    q, k, _ = module.project(hidden, rows)
    cos, sin = (
        t[video + before :, None].float() for t in rotary_tables(cache.inv_freq.to(q.device), video + before + rows)
    )
    # [H, R, D] and [Hkv, before + R, D]
    q, own = (rotated(t.float(), cos, sin)[0].transpose(0, 1) for t in (q, k))
    earlier = layer._text[0][0, :, :before].float() if layer._text is not None else own[:, :0]
    text = torch.cat([earlier, own], 1)
    later = torch.ones(rows, before + rows, dtype=torch.bool, device=q.device).triu(before + 1)
    total, group = torch.zeros(rows, video, device=q.device), q.shape[0] // own.shape[0]
    for head in range(q.shape[0]):
        keys = torch.cat([layer.keys[0, head // group, :video].float(), text[head // group]])
        scores = (q[head] @ keys.T) * q.shape[-1] ** -0.5
        scores[:, video:].masked_fill_(later, -torch.inf)
        total += scores.softmax(-1)[:, :video]
    return total / q.shape[0]


def over_frames(weights: Tensor, prefix: int, frames: int, each: int, ratio: int) -> Tensor:
    """Weights [*, n] over a video's tokens -> [*, frames]: of each frame of `each` visual tokens the sum over its VST tokens, one
    for every `ratio` of them. What the prefix took belongs to no frame."""
    vst = weights[..., prefix:]
    # The VST token stands behind its `ratio` visual ones.
    frame = ((torch.arange(vst.shape[-1], device=vst.device) * ratio + ratio - 1) // each).clamp(max=frames - 1)
    return vst.new_zeros(*vst.shape[:-1], frames).index_add_(-1, frame, vst)
