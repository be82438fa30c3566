"""What a layer of a decoding step costs the host beside its kernels: one row over a cache, small heads.

    python benchmarks/decode_host.py                 on the CPU
    python benchmarks/decode_host.py --triton        launches of the Triton kernels, bound as for a card, and not run

`call`: the public call. `kernel`: our kernels in it, called with their arguments. `beside`: the difference.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import longreel
from longreel import VideoLayout, backends, block_sparse_attention
from longreel.cache import VSTCache
from longreel.layout import text_steps
from longreel.testing.runner import Recorder

HEADS, KV_HEADS, WIDTH, KEYS = 4, 2, 16, 512


def median(call: Callable[[], Any], repeats: int = 400) -> float:
    """Microseconds."""
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return sorted(taken)[repeats // 2] * 1e6


def kernels_of(call: Callable[[], Any]) -> Callable[[], None]:
    """The kernels that `call` runs, alone."""
    with Recorder() as recorder:
        call()

    def run() -> None:
        for op, args, _ in recorder.calls:
            op(*args)

    return run


def layouts() -> dict[str, VideoLayout]:
    voco = {
        f"VoCo, {n} frames": VideoLayout.voco(frames=n, vision=144, voco=2, text=8, mode="causal") for n in (64, 3600)
    }
    return {"text": VideoLayout.causal(1), **voco}


def rows(heads: int, count: int = 1) -> Tensor:
    return torch.randn(1, count, heads, WIDTH)


def vst() -> Callable[[], Any]:
    """A layer's rotation, append and attention behind a memory."""
    from transformers import Qwen2Config

    config = Qwen2Config(
        hidden_size=HEADS * WIDTH, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, num_hidden_layers=2
    )
    cache = VSTCache(config, capacity=KEYS, text_capacity=4096)
    video, q, k = cache.chunks([(64, 8)]), rows(HEADS), rows(KV_HEADS)
    shape = sum(segment.length for segment in video)

    def decoder(**_: Any) -> None:
        for layer in range(2):
            cache.attend(layer, rows(HEADS, shape), rows(KV_HEADS, shape), rows(KV_HEADS, shape))

    cache.append(decoder, torch.zeros(1, shape, 1), video)
    fork = cache.fork()
    fork.attend(0, q, k, k)
    # A layer in the middle: the first makes what all share.
    fork.layers.insert(1, fork.layers[1])
    return lambda: fork.attend(1, q, k, k)


def on_cpu() -> None:
    print("| one row behind | a step's plan, once | call | kernel | beside |\n| --- | ---: | ---: | ---: | ---: |")
    for name, layout in layouts().items():
        first, steps = layout.length, text_steps(layout, 1, "cpu")
        keys = first + 64
        q, k = rows(HEADS), rows(KV_HEADS, keys)
        plan = steps.at(first + 3)
        moved = median(lambda steps=steps, first=first: steps.at(first + 3))
        show(name, moved, lambda q=q, k=k, plan=plan: block_sparse_attention(q, k, k, plan))
    show("VST memory", None, vst())


def show(name: str, moved: float | None, call: Callable[[], Any]) -> None:
    whole, kernel = median(call), median(kernels_of(call))
    print(
        f"| {name} | {'-' if moved is None else f'{moved:.0f} us'} | {whole:.0f} us | {kernel:.0f} us | {whole - kernel:.0f} us |"
    )


Calls = dict[str, Callable[[], Any]]


def triton_calls() -> tuple[Calls, Calls]:
    """By op, a step of decoding as it is called and its host function alone; tests/ops/test_decode_host.py counts the former."""
    from longreel.triton_kernels import block_sparse_attention as bsa
    from longreel.triton_kernels import vst_append_, vst_attention, vst_rotate

    half, plan = torch.bfloat16, VideoLayout.causal(1).to("cpu", tile=(128, 64))
    video = VideoLayout.voco(frames=9, vision=144, voco=3, text=61, prefix=7, mode="causal")
    last = video.rows(video.queries - 1, video.queries).to("cpu", tile=(128, 64))
    q, k = torch.empty(1, 1, 28, 128, dtype=half), torch.empty(1, 1, 4, 128, dtype=half)
    memory, other = (torch.empty(1, 4, 20000, 128, dtype=half) for _ in range(2))
    length, table = torch.empty(1, dtype=torch.int32), torch.empty(20000, 64)
    text, keys = torch.empty(1, 2048, 4, 128, dtype=half), torch.empty(1, video.length, 4, 128, dtype=half)
    angles, tile = table[None, :1], (plan.bounds, plan.tiles, plan.order, *plan.tile, 0.1)
    planned = ("global_index", "start", "bounds", "tiles", "order", "kv_blocks", "query_ranges", "kv_order")
    host: Calls = {
        "vst_rotate": lambda: vst_rotate.vst_rotate(q, k, k, angles, angles, plan.bounds),
        "vst_append_": lambda: vst_append_.vst_append_(memory, other, length, k, k, table, table),
        "vst_attention": lambda: vst_attention.vst_attention(q, text, text, memory, other, length, None, length, *tile),
        "block_sparse_attention": lambda: bsa.block_sparse_attention(
            q, keys, keys, None, None, *(getattr(last, name) for name in planned), *last.tile, 0.1
        ),
    }
    public: Calls = {
        "vst_rotate": lambda: longreel.vst_rotate(q, k, k, angles, angles, plan),
        "vst_append_": lambda: longreel.vst_append_(memory, other, length, k, k, table, table),
        "vst_attention": lambda: longreel.vst_attention(q, text, text, memory, other, length, plan, k_before=length),
        "block_sparse_attention": lambda: block_sparse_attention(q, keys, keys, last),
    }
    return public, host


@contextmanager
def as_on_a_card(ops: Iterable[str]) -> Iterator[list[Any]]:
    """Kernels are bound as on a card and not run: the host does all that it does up to Triton's launcher, of every launch."""
    from longreel.triton_kernels.common.aot import recorded
    from longreel.triton_kernels.common.card import LARGE_SHARED, Card

    # the CPU has another kernel first
    chosen = {(op, torch.device("cpu"), torch.bfloat16): "triton" for op in ops}
    with (
        mock.patch.dict(backends.CHOSEN, chosen),
        torch.inference_mode(),
        recorded(Card(50 << 20, LARGE_SHARED, 132, wgmma=True), bound=True) as launches,
    ):
        yield launches


def on_triton() -> None:
    public, host = triton_calls()
    print("| one row of 28 heads over 4 of 128 | call | of it the host function |\n| --- | ---: | ---: |")
    with as_on_a_card(host):
        for name in host:
            print(f"| {name} | {median(public[name]):.0f} us | {median(host[name]):.0f} us |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triton", action="store_true")
    torch.set_num_threads(1)
    with torch.inference_mode():
        on_triton() if parser.parse_args().triton else on_cpu()


if __name__ == "__main__":
    main()
