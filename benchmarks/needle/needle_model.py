"""The small decoder that is trained on needles, its weights, and how much it recalls from a memory."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from needle_task import VOCABULARY
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from longreel.cache.vst import VSTCache
from longreel.models.video_xl import VSTDecoder

WEIGHTS = Path(__file__).with_name("weights.safetensors")
WIDTH, LAYERS, HEADS, MLP = 128, 2, 2, 256
# So large that half of a head hardly turns within a memory of 1,152 tokens: it compares what tokens are, not where.
THETA = 1e7
# Tokens of text that a fork of a memory has room for.
TEXT = 8


def fresh(seed: int = 0, *, ratio: int = 8, chunk: int = 144) -> VSTDecoder:
    """Random weights under which like attends to like, and what is attended to is copied: training begins there."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=4096, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": THETA}, initializer_range=WIDTH**-0.5,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    language = Qwen2ForCausalLM(config)
    copies(language)
    return VSTDecoder(language, ratio=ratio, chunk=chunk)


@torch.no_grad()
def copies(language: Any) -> None:
    """Make like attend to like, and of what is attended to a copy; VST weights, where they are there, too."""
    for layer in language.model.layers:
        own = layer.self_attn
        own.k_proj.weight.copy_(own.q_proj.weight)
        own.o_proj.weight.copy_(own.v_proj.weight.T)
        layer.mlp.down_proj.weight.mul_(0.2)
        for name in ("q_proj", "k_proj", "v_proj") if hasattr(own, "beacon_q_proj") else ():
            getattr(own, f"beacon_{name}").weight.copy_(getattr(own, name).weight)


def save(decoder: VSTDecoder, path: Path, about: dict[str, str]) -> None:
    """All weights but the head, which is the table of embeddings."""
    weights = {name: t.contiguous() for name, t in decoder.language.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, path, metadata=about)


def load(path: Path = WEIGHTS, *, ratio: int = 8, chunk: int = 144) -> VSTDecoder:
    decoder = fresh(ratio=ratio, chunk=chunk)
    missing, unknown = decoder.language.load_state_dict(load_file(path), strict=False)
    if missing != ["lm_head.weight"] or unknown:
        raise ValueError(f"{path} lacks {missing} and has unknown {unknown}")
    return decoder.eval()


def encode(decoder: VSTDecoder, video: Tensor) -> VSTCache:
    """The memory of a video, ids [tokens], chunk after chunk."""
    ratio = decoder.rule.ratio
    assert isinstance(ratio, int)
    with torch.no_grad():
        return decoder.encode(decoder.embed(video)[0], cache=decoder.cache(len(video) // ratio, text_capacity=TEXT))


def shuffled(memory: VSTCache, seed: int = 0) -> VSTCache:
    """The control: the same keys and values, every value at another's place."""
    order = torch.randperm(memory.tokens, generator=torch.Generator().manual_seed(seed))
    # One circle, so that none stays where it was.
    taken = torch.empty_like(order).scatter(0, order, order.roll(1))
    for layer in memory.layers:
        layer.values.copy_(layer.values[:, :, taken])
    return memory


def reloaded(decoder: VSTDecoder, memory: VSTCache) -> VSTCache:
    """The memory by way of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.safetensors"
        memory.save(path)
        return decoder.load(path, text_capacity=TEXT)


def recalled(decoder: VSTDecoder, memory: VSTCache, keys: Tensor) -> Tensor:
    """The value [n] that is answered to each of the keys [n], asked alone behind the memory."""
    return torch.stack([decoder.answer(memory, key[None], length=1)[0][0] for key in keys])
