"""Attention of few query rows over a long cache, against SDPA in its best form: `python benchmarks/decode_attention.py`.

32 heads of 128 over 8 key heads; the cache is [1, Hkv, S, D], as transformers keeps it. SDPA runs with enable_gqa and with the
heads that share keys folded into rows; `bound` is the time to read keys and values at the bandwidth of the same run.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel import VideoLayout, block_sparse_attention
from longreel.bench.roof import RoofMeter
from longreel.measure.clock import HostClock
from longreel.testing.budget import PEER_BUDGETS, Errors, allowed, check_within, errors

HEADS, KV_HEADS, WIDTH = 32, 8, 128
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def forms(
    keys: int, rows: int, dtype: torch.dtype, computed_in: torch.dtype | None = None
) -> dict[str, Callable[[], Tensor]]:
    """Each gives [1, H, rows, D] of the same inputs, which are rounded to `dtype`."""
    group, computed_in = HEADS // KV_HEADS, computed_in or dtype
    generator = torch.Generator().manual_seed(0)

    def normal(heads: int, length: int) -> Tensor:
        return torch.randn(1, heads, length, WIDTH, generator=generator).to(dtype).to(computed_in)

    q, k, v = normal(HEADS, rows), normal(KV_HEADS, keys), normal(KV_HEADS, keys)
    plan = VideoLayout.causal(keys).rows(keys - rows, keys).to("cpu")
    q_rows, k_rows, v_rows = (t.transpose(1, 2) for t in (q, k, v))
    folded = q.reshape(1, KV_HEADS, group * rows, WIDTH)
    mask = None
    if rows > 1:
        mask = torch.zeros(rows, keys, dtype=computed_in)
        mask[:, keys - rows :] = torch.full((rows, rows), -torch.inf).triu(1)
    folded_mask = None if mask is None else mask.repeat(group, 1)
    sdpa = F.scaled_dot_product_attention
    return {
        "ours": lambda: block_sparse_attention(q_rows, k_rows, v_rows, plan, backend="cpu").transpose(1, 2),
        "SDPA, enable_gqa": lambda: sdpa(q, k, v, attn_mask=mask, enable_gqa=True),
        "SDPA, folded": lambda: sdpa(folded, k, v, attn_mask=folded_mask).reshape(q.shape),
    }


def check(calls: dict[str, Callable[[], Tensor]], truth: Tensor, dtype: torch.dtype) -> None:
    """Ours within the error budget, whose yardstick is SDPA; its other form within that of code that is not ours."""
    yardstick = errors(calls["SDPA, enable_gqa"](), truth)
    limit = allowed(yardstick, dtype)
    check_within("ours", calls["ours"](), truth, limit)
    folded = Errors(PEER_BUDGETS * limit.max_rel, PEER_BUDGETS * limit.rms_rel)
    check_within("SDPA, folded", calls["SDPA, folded"](), truth, folded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--keys", type=int, nargs="+", default=[8192, 100_000])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    clock = HostClock()
    print("| dtype | keys | rows | ours | SDPA, enable_gqa | SDPA, folded | over the best | bound | ours over it |")
    print("| --- | ---: | ---: |" + " ---: |" * 6)
    for name in options.dtype or DTYPES:
        dtype = DTYPES[name]
        for keys in options.keys:
            size = 2 * keys * KV_HEADS * WIDTH * dtype.itemsize
            meter = RoofMeter(torch.device("cpu"), dtype, size=size, side=16)
            for rows in (1, 4, 16):
                calls = forms(keys, rows, dtype)
                check(calls, forms(keys, rows, dtype, computed_in=torch.float64)["SDPA, enable_gqa"](), dtype)
                times: dict[str, list[float]] = {form: [] for form in calls}
                for _ in range(options.repeats):
                    for form, call in calls.items():
                        times[form].append(clock.sample(call, 1))
                    meter.sample(clock)
                ours, *theirs = (statistics.median(samples) for samples in times.values())
                bound = size / meter.roof().bandwidth
                cells = [name, f"{keys:,}", str(rows), *(f"{1e3 * t:.2f} ms" for t in (ours, *theirs))]
                cells += [f"{min(theirs) / ours:.2f}x", f"{1e3 * bound:.2f} ms", f"{ours / bound:.1f}x"]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
