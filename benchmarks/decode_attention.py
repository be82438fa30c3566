"""Attention of few query rows over a long cache, against SDPA in its best form.

    python benchmarks/decode_attention.py
    python benchmarks/decode_attention.py --layers 28 --heads 28 --kv-heads 4 --keys 18432 --rows 1

The second is a step of Video-XL. The cache is [1, Hkv, S, D], as transformers keeps it; every form runs through those of all
layers, one behind the other, as a step does; by default they hold more than a last cache does. SDPA runs with enable_gqa and with
the heads that share keys folded into rows; `bound` is the time to read keys and values at the bandwidth of the same run, over as
many bytes as all layers have.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel import VideoLayout, block_sparse_attention
from longreel.bench.roof import RoofMeter
from longreel.measure.clock import HostClock
from longreel.testing.budget import PEER_BUDGETS, Errors, allowed, check_within, errors

WIDTH = 128
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Case:
    """`rows` query rows of `heads` behind `keys`, in each of `layers`."""

    keys: int
    rows: int
    heads: int
    kv_heads: int
    layers: int

    def tensors(self, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        """q [1, H, rows, D] and [k, v] [2, 1, Hkv, keys, D] of every layer."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, self.keys if len(shape) > 2 else self.rows, WIDTH, generator=generator).to(dtype)

        return normal(1, self.heads), [normal(2, 1, self.kv_heads) for _ in range(self.layers)]


def forms(case: Case, q: Tensor, layers: list[Tensor]) -> dict[str, Callable[[], Tensor]]:
    """Each gives [1, H, rows, D], of the next layer."""
    group, rows, keys = case.heads // case.kv_heads, case.rows, case.keys
    plan = VideoLayout.causal(keys).rows(keys - rows, keys).to("cpu")
    folded = q.reshape(1, case.kv_heads, group * rows, WIDTH)
    mask = None
    if rows > 1:
        mask = torch.zeros(rows, keys, dtype=q.dtype)
        mask[:, keys - rows :] = torch.full((rows, rows), -torch.inf).triu(1)
    folded_mask = None if mask is None else mask.repeat(group, 1)
    sdpa = F.scaled_dot_product_attention

    def ours(k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = block_sparse_attention(*(t.transpose(1, 2) for t in (q, k, v)), plan, backend="cpu")
        return out.transpose(1, 2)

    def through(form: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
        caches = itertools.cycle(layers)
        return lambda: form(*next(caches))

    return {
        "ours": through(ours),
        "SDPA, enable_gqa": through(lambda k, v: sdpa(q, k, v, attn_mask=mask, enable_gqa=True)),
        "SDPA, folded": through(lambda k, v: sdpa(folded, k, v, attn_mask=folded_mask).reshape(q.shape)),
    }


def check(case: Case, q: Tensor, layers: list[Tensor]) -> None:
    """Ours within the error budget, whose yardstick is SDPA; its other form within that of code that is not ours."""
    calls = forms(case, q, layers[:1])
    truth = forms(case, q.double(), [layers[0].double()])["SDPA, enable_gqa"]()
    limit = allowed(errors(calls["SDPA, enable_gqa"](), truth), q.dtype)
    check_within("ours", calls["ours"](), truth, limit)
    folded = Errors(PEER_BUDGETS * limit.max_rel, PEER_BUDGETS * limit.rms_rel)
    check_within("SDPA, folded", calls["SDPA, folded"](), truth, folded)


def measured(case: Case, dtype: torch.dtype, repeats: int) -> list[float]:
    """Seconds a call of every form, then to read its keys and values."""
    q, layers = case.tensors(dtype)
    check(case, q, layers)
    clock, calls = HostClock(), forms(case, q, layers)
    meter = RoofMeter(torch.device("cpu"), dtype, size=sum(layer.nbytes for layer in layers), side=16)
    times: dict[str, list[float]] = {form: [] for form in calls}
    for _ in range(repeats):
        for form, call in calls.items():
            times[form].append(clock.sample(call, case.layers))
        meter.sample(clock)
    return [*map(statistics.median, times.values()), layers[0].nbytes / meter.roof().bandwidth]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--keys", type=int, nargs="+", default=[8192, 100_000])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--layers", type=int, help="caches that calls go through (as many as hold 1 GiB)")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    print(
        "| dtype | layers | keys | rows | ours | SDPA, enable_gqa | SDPA, folded | over the best | bound | ours over it |"
    )
    print("| --- | ---: | ---: | ---: |" + " ---: |" * 6)
    for name, keys, rows in itertools.product(options.dtype or DTYPES, options.keys, options.rows):
        dtype, cache = DTYPES[name], 2 * options.kv_heads * keys * WIDTH
        layers = options.layers or -(-(2**30) // (cache * dtype.itemsize))
        case = Case(keys, rows, options.heads, options.kv_heads, layers)
        ours, *theirs, bound = measured(case, dtype, options.repeats)
        cells = [name, str(layers), f"{keys:,}", str(rows), *(f"{1e3 * t:.2f} ms" for t in (ours, *theirs))]
        cells += [f"{min(theirs) / ours:.2f}x", f"{1e3 * bound:.2f} ms", f"{ours / bound:.2f}x"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
