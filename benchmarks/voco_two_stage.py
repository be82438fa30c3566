"""Time to the first token of the first and of the second question about one video, through VoCo-LLaMA's two stages.

    python benchmarks/voco_two_stage.py [--frames 64] [--layers 2] [--dtype bf16]

A Llama of true layers (width 4096, 32 heads, MLP 11008) with random weights; 576 vision rows and one VoCo token a frame.
The first question waits for the vision stage, later ones read a cache of one row a frame.
"""

import time
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, LlamaConfig

from longreel.models.voco_llama import VoCoDecoder

WIDTH, ROWS = 4096, 576


def main(
    frames: Annotated[int, typer.Option(help="frames of the video")] = 64,
    layers: Annotated[int, typer.Option(help="layers of the language model")] = 2,
    text: Annotated[int, typer.Option(help="tokens of a question")] = 32,
    dtype: Annotated[str, typer.Option(help="bf16 or fp32")] = "bf16",
) -> None:
    """Prints seconds, the ratio, and what the cache holds."""
    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=WIDTH, intermediate_size=11008, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=32,
    )  # fmt: skip
    language = AutoModelForCausalLM.from_config(config, dtype=kind)
    decoder = VoCoDecoder(language, patches_per_frame=ROWS, voco_tokens=1, shared=False, mode="causal").eval()
    vision = torch.randn(frames, ROWS, WIDTH).to(kind)
    questions = torch.randint(1, 32000, (3, text))
    # The first calls of everything, on one frame.
    decoder.ask(decoder.encode(vision[:1], prefix=[1]), questions[0], max_new_tokens=1)
    start = time.perf_counter()
    cache = decoder.encode(vision, prefix=[1])
    encoded = time.perf_counter()
    decoder.ask(cache, questions[1], max_new_tokens=1)
    first = time.perf_counter()
    decoder.ask(cache, questions[2], max_new_tokens=1)
    second = time.perf_counter()
    every = frames * (ROWS + 1) + 1
    print(f"{frames} frames, {layers} layers, {dtype}: vision stage {encoded - start:.2f} s")
    print(
        f"first question {first - start:.2f} s, second {second - first:.3f} s: {(first - start) / (second - first):.0f}x"
    )
    print(f"cache {cache.rows} rows of {every}, {cache.nbytes / 2**20:.2f} MiB: {1 - cache.rows / every:.2%} less")


if __name__ == "__main__":
    typer.run(main)
