"""How each compressed cache is driven: a tiny decoder, its options, and pieces of video. A new subclass adds an entry here."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, Qwen2Config
from vst_decoder import Decoder

import longreel.integrations.transformers  # noqa: F401
from longreel._transformers import with_cache
from longreel.cache import CompressedCache, VoCoCache, VSTCache

WIDTH, LAYERS, VOCABULARY = 16, 2, 40


class Driver(NamedTuple):
    """options: keyword arguments to draw from. append(cache, first, size, seed, before): one piece, size from 1 to 3;
    `before(layer)` is called before each layer computes. ask(cache, ids): logits [n, vocabulary]. grows: the memory that is
    allocated follows the tokens, so that any cap that leaves room for them is enough."""

    config: Callable[[], PreTrainedConfig]
    options: dict[str, tuple[Any, ...]]
    append: Callable[[Any, bool, int, int, Callable[[int], None]], None]
    ask: Callable[[Any, Tensor], Tensor]
    grows: bool


def cached(cache: CompressedCache) -> list[Tensor]:
    """Keys and values of every layer, text's too."""
    pairs = (layer.cached() if hasattr(layer, "cached") else (layer.keys, layer.values) for layer in cache.layers)
    return [tensor.clone() for pair in pairs for tensor in pair] if cache.layers[0].tokens else []


def _random(tokens: int, seed: int) -> Tensor:
    return torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


@lru_cache
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=LAYERS, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.3, attn_implementation="longreel", eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def _append_frames(cache: VoCoCache, first: bool, size: int, seed: int, before: Callable[[int], None]) -> None:
    segments = [("prefix", 2)] * first + [("vision", 3), ("text", 1), ("voco", 2)] * size
    layers = model().model.layers
    hooks = [layer.register_forward_pre_hook(lambda *_, i=i: (before(i), None)[1]) for i, layer in enumerate(layers)]
    try:
        cache.append(model().model, _random(sum(n for _, n in segments), seed), segments)
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _ask_llama(cache: VoCoCache, ids: Tensor) -> Tensor:
    return model()(input_ids=ids[None], **with_cache(cache)).logits[0]


@lru_cache
def decoder() -> Decoder:
    generator, half = torch.Generator().manual_seed(0), WIDTH // 2
    shapes = {"embed_tokens": (VOCABULARY, WIDTH), "norm": (WIDTH,)}
    for own in (f"layers.{i}" for i in range(LAYERS)):
        for part in ("", "beacon_"):
            shapes |= {
                f"{own}.self_attn.{part}{name}_proj": (rows, WIDTH)
                for name, rows in zip("qkv", (WIDTH, half, half), strict=True)
            }
        shapes |= {
            f"{own}.self_attn.o_proj": (WIDTH, WIDTH),
            f"{own}.mlp.gate_proj": (16, WIDTH),
            f"{own}.mlp.up_proj": (16, WIDTH),
        }
        shapes |= {
            f"{own}.mlp.down_proj": (WIDTH, 16),
            f"{own}.input_layernorm": (WIDTH,),
            f"{own}.post_attention_layernorm": (WIDTH,),
        }
    weights = {f"model.{name}.weight": 0.3 * torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    for name, weight in list(weights.items()):
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            weights[name.removesuffix("weight") + "bias"] = 0.3 * torch.randn(len(weight), generator=generator)
    weights["lm_head.weight"] = torch.randn(VOCABULARY, WIDTH, generator=generator)
    return Decoder(_qwen(), weights)


def _qwen() -> Qwen2Config:
    return Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, num_key_value_heads=1
    )


def _append_chunks(cache: VSTCache, first: bool, size: int, seed: int, before: Callable[[int], None]) -> None:
    chunks = cache.chunks([(7, 2)] * size)
    segments = (*[("prefix", 2)] * first, *chunks)
    tokens, raw = 2 * first + sum(chunk.length for chunk in chunks), 2 * first + 7 * size

    def run(**given: Any) -> Tensor:
        return decoder()(**given | {"past_key_values": _Watched(given["past_key_values"], before)})

    cache.append(run, _random(tokens, seed), segments, n_raw=raw)


class _Watched(NamedTuple):
    cache: VSTCache
    before: Callable[[int], None]

    def attend(self, layer: int, *given: Any, **named: Any) -> Tensor:
        self.before(layer)
        return self.cache.attend(layer, *given, **named)


@torch.no_grad()
def _ask_qwen(cache: VSTCache, ids: Tensor) -> Tensor:
    return decoder().logits(decoder()(inputs_embeds=decoder().embed(ids), past_key_values=cache))


DRIVERS: dict[type[CompressedCache], Driver] = {
    VoCoCache: Driver(
        lambda: model().config,
        {
            "mode": ("independent", "causal"),
            "prefix_visible_to": ("first", "frames", "all"),
            "text_sees_prefix": (False, True),
            "positions": ("compact", "absolute"),
        },
        _append_frames,
        _ask_llama,
        True,
    ),
    VSTCache: Driver(_qwen, {"capacity": (160,), "text_capacity": (12,)}, _append_chunks, _ask_qwen, False),
}
