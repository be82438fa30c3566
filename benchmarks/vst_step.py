"""A whole step of Video-XL, and the training pass over a group of chunks, at Qwen2-7B's layer shapes.

    python benchmarks/vst_step.py [step] [group] [--dtype bf16] [--repeats 5]

step: a chunk of 1,440 at ratio 8 behind 18,432 entries: rotate, append and attend from projected rows, beside
`block_sparse_attention` alone over as many keys, rotated and laid out in one cache before the clock starts.
group: four chunks in one pass, forward and backward, beside autograd through SDPA with the layout's mask, keys expanded over
heads. Its output and gradients are held to the error budget against float64 first.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel import VideoLayout, block_sparse_attention, vst_append_, vst_attention, vst_rotate
from longreel.measure.clock import HostClock
from longreel.rotary import rotary_tables
from longreel.testing.budget import allowed, check_within, errors

HEADS, KV_HEADS, WIDTH = 28, 4, 128
CHUNK, RATIO, ENTRIES, GROUP = 1440, 8, 18_432, 4
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Form = Callable[[], tuple[Tensor, ...]]


def normal(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def step_forms(dtype: torch.dtype) -> dict[str, Form]:
    """Each attends a chunk's rows to a memory and to one another."""
    layout = VideoLayout.vst(ratio=[(CHUNK, RATIO)])
    rows, added = layout.length, layout.length - CHUNK
    plan, behind = layout.to("cpu"), VideoLayout.causal(ENTRIES + rows).rows(ENTRIES, ENTRIES + rows).to("cpu")
    filled = torch.tensor([ENTRIES], dtype=torch.int32)
    q = normal(1, rows, HEADS, WIDTH, dtype=dtype, seed=0)
    k, v = (normal(1, rows, KV_HEADS, WIDTH, dtype=dtype, seed=seed) for seed in (1, 2))
    mem_k, mem_v = (normal(1, KV_HEADS, ENTRIES + added, WIDTH, dtype=dtype, seed=seed) for seed in (3, 4))
    cos, sin = rotary_tables(1e-6 ** (torch.arange(WIDTH // 2) * 2 / WIDTH), ENTRIES + rows)
    turned = vst_rotate(q, k, v, cos[ENTRIES:], sin[ENTRIES:], plan)
    cache = [
        torch.cat([memory[:, :, :ENTRIES].transpose(1, 2), own], 1)
        for memory, own in zip((mem_k, mem_v), turned[1:], strict=True)
    ]

    def step() -> tuple[Tensor, ...]:
        rotated = vst_rotate(q, k, v, cos[ENTRIES:], sin[ENTRIES:], plan)
        vst_append_(mem_k, mem_v, filled, k[:, CHUNK:], v[:, CHUNK:], cos, sin)
        return (vst_attention(*rotated, mem_k, mem_v, filled, plan),)

    return {"ours": step, "block_sparse_attention": lambda: (block_sparse_attention(turned[0], *cache, behind),)}


def group_forms(dtype: torch.dtype) -> dict[str, Form]:
    """Each gives the output [1, R, H, D] of a group, and the gradients of q, k and v."""
    layout = VideoLayout.vst(ratio=[(CHUNK, RATIO)] * GROUP)
    plan, mask = layout.to("cpu"), torch.from_numpy(layout.dense_mask())[0]
    rows, keys = mask.shape
    q, grad = (normal(1, rows, HEADS, WIDTH, dtype=dtype, seed=seed) for seed in (0, 1))
    k, v = (normal(1, keys, KV_HEADS, WIDTH, dtype=dtype, seed=seed) for seed in (2, 3))

    def through(form: Callable[[Tensor, Tensor, Tensor], Tensor], dtype: torch.dtype = dtype) -> tuple[Tensor, ...]:
        leaves = [t.detach().to(dtype).requires_grad_() for t in (q, k, v)]
        out = form(*leaves)
        return out.detach(), *torch.autograd.grad(out, leaves, grad.to(dtype))

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = [t.transpose(1, 2) for t in (q, *(t.repeat_interleave(HEADS // KV_HEADS, 2) for t in (k, v)))]
        return F.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2)

    ours = lambda q, k, v: block_sparse_attention(q, k, v, plan)  # noqa: E731
    truth = through(masked, torch.float64)
    for name, got, plain, true in zip(("out", "dq", "dk", "dv"), through(ours), through(masked), truth, strict=True):
        check_within(name, got, true, allowed(errors(plain, true), dtype))
    return {"ours": lambda: through(ours), "SDPA, masked": lambda: through(masked)}


FORMS = {"step": step_forms, "group": group_forms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # No default: some versions of argparse look for it among the choices; others look for the empty list.
    parser.add_argument("what", nargs="*", choices=[[], *FORMS])
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    clock = HostClock()
    print("| what | dtype | ours | beside | its time | over ours | quartiles |")
    print("| --- | --- | ---: | --- | ---: | ---: | --- |")
    for what in options.what or FORMS:
        for name in options.dtype or DTYPES:
            forms = FORMS[what](DTYPES[name])
            times: dict[str, list[float]] = {form: [] for form in forms}
            for _ in range(options.repeats):
                for form, call in forms.items():
                    times[form].append(clock.sample(call, 1))
            ours, (beside, theirs) = times.pop("ours"), next(iter(times.items()))
            ratios = [t / o for t, o in zip(theirs, ours, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            cells = [what, name, f"{1e3 * statistics.median(ours):.0f} ms", beside]
            cells += [f"{1e3 * statistics.median(theirs):.0f} ms", f"{middle:.2f}x", f"{low:.2f} to {high:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
