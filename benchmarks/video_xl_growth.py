"""How Video-XL's language model grows with the video: a + b F + c F^2, beside what its FLOPs and the ops' rates say.

    python benchmarks/video_xl_growth.py [--preset tiny] [--frames 3600] [--step 450] [--seconds 200]

One pass: windows of visual tokens into the memory, the time so far at every step, fitted by least squares; the rates of the ops,
at this shape, are measured in the same run. Then a question on all of it, from the memory and from its file.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from longreel import VideoLayout, vst_attention
from longreel.layout import visible_pairs
from longreel.layout.part import planned_vst_rows
from longreel.measure.machine import describe
from longreel.measure.memory import PeakMeter
from longreel.models.video_xl import PRESETS, VideoXL

# Steps that a fit of three numbers takes.
LEAST_POINTS = 5


class Linear:
    """Rows of which no attention is computed: what is left of a layer."""

    constant_vst = -1

    def __init__(self, n_raw: int) -> None:
        self.n_raw = n_raw

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q


class Rates:
    """Seconds a FLOP of each part, medians; measured before and after the pass."""

    def __init__(self, model: VideoXL, ratio: int, memory: int) -> None:
        self.decoder, size = model.decoder, model.preset.language
        window = model.preset.window
        self.layout = VideoLayout.vst(visual=window, ratio=[(window, ratio)]).grouped()
        self.rows, self.vst = self.layout.length, self.layout.length - window
        self.layers = size.layers
        self.pair = 4 * size.head * size.heads
        own = size.heads * size.head
        kv = 2 * size.kv_heads * size.head
        self.linear = 2 * size.width * (2 * own + kv + 3 * size.mlp)
        # Of the two last layers: keys and values, then queries, output and MLP of VST rows.
        self.last = 2 * size.width * (kv * self.rows + (2 * own + 3 * size.mlp + kv) * self.vst)
        shape = (1, self.rows, size.heads, size.head)
        dtype = model.dtype
        self.q = torch.randn(shape, dtype=dtype)
        self.k = torch.randn(1, self.rows, size.kv_heads, size.head, dtype=dtype)
        self.mem = torch.randn(1, size.kv_heads, memory, size.head, dtype=dtype)
        self.vst_plan, self.plan = planned_vst_rows(self.layout, "cpu"), self.layout.to("cpu")
        self.x = torch.randn(1, self.rows, size.width, dtype=dtype)
        self.seconds: dict[str, list[float]] = {name: [] for name in ("linear", "own", "memory", "vst_memory")}

    def measure(self) -> None:
        size = self.mem.shape[2]
        first, rows = self.decoder.language.model.layers[:1], Linear(self.rows - self.vst)  # type: ignore[union-attr, index]
        linear = timed(lambda: self.decoder._through(first, self.x, rows))
        self.seconds["linear"].append(linear / (self.linear * self.rows))
        own = timed(lambda: self.attend(0))
        self.seconds["own"].append(own / (self.pair * visible_pairs(self.layout)))
        self.seconds["memory"].append((timed(lambda: self.attend(size)) - own) / (self.pair * self.rows * size))
        short = timed(lambda: self.attend(0, vst=True))
        self.seconds["vst_memory"].append(
            (timed(lambda: self.attend(size, vst=True)) - short) / (self.pair * self.vst * size)
        )

    def attend(self, entries: int, vst: bool = False) -> Tensor:
        length, none = torch.tensor([entries], dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
        q = self.q[:, -self.vst :] if vst else self.q
        given = {"k_before": none} if vst else {}
        plan = self.vst_plan if vst else self.plan
        out: Tensor = vst_attention(q, self.k, self.k, self.mem, self.mem, length, plan, **given)
        return out

    def predicted(self, frames_a_window: float) -> tuple[float, float]:
        """b and c: seconds a frame, and a frame squared."""
        rate = {name: statistics.median(values) for name, values in self.seconds.items()}
        whole = self.layers - 2
        pairs = visible_pairs(self.layout)
        vst_pairs = int(self.vst_plan.bounds[0, :, 1].sum())
        b = rate["linear"] * (whole * self.linear * self.rows + self.last)
        b += rate["own"] * self.pair * (whole * pairs + vst_pairs)
        # Window w sees w times its VST tokens.
        c = self.pair * self.vst / 2 * (whole * self.rows * rate["memory"] + self.vst * rate["vst_memory"])
        return b / frames_a_window, c / frames_a_window**2


def timed(call: Callable[[], object], repeats: int = 3) -> float:
    call()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="Growth of Video-XL's language model with the video, random weights.")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--ratio", type=int, default=8)
    parser.add_argument("--frames", type=int, default=3600)
    parser.add_argument("--step", type=int, default=450)
    parser.add_argument("--seconds", type=float, default=200.0, help="stop at the step that is reached by then")
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    model = VideoXL(preset, ratio=args.ratio).eval()
    each = preset.window / preset.frame
    vst = preset.window // args.ratio
    tokens = torch.randn(preset.window, preset.language.width, dtype=model.dtype) * 0.5
    rates = Rates(model, args.ratio, vst * 90)
    rates.measure()
    cache = model.decoder.cache(1 + vst * int(args.frames / each), text_capacity=64)
    model.decoder.encode(tokens[:0], prefix=[1], cache=cache)
    meter = PeakMeter(torch.device("cpu"))
    spent, points, start = 0.0, [], time.perf_counter()
    for window in range(int(args.frames / each)):
        begin = time.perf_counter()
        with meter("longreel"):
            model.decoder.encode(tokens, cache=cache)
        spent += time.perf_counter() - begin
        frames = round((window + 1) * each)
        if frames % args.step == 0:
            points.append((frames, spent, meter.take()["longreel"]))
            peak = points[-1][2] / 2**20
            print(
                f"{frames:>6,} frames {spent:8.2f} s {frames / spent:7.1f} a second, peak {peak:,.1f} MiB", flush=True
            )
        if time.perf_counter() - start > args.seconds:
            break
    rates.measure()
    if len(points) < LEAST_POINTS:
        raise SystemExit(
            f"{len(points)} steps were reached, a fit takes {LEAST_POINTS}: give more --seconds, or a shorter --step"
        )
    frames, seconds = (np.array([p[i] for p in points]) for i in (0, 1))
    c, b, a = np.polyfit(frames, seconds, 2)
    for name, fitted, said in zip("bc", (b, c), rates.predicted(each), strict=True):
        print(f"{name}: fitted {fitted:.3e} s, predicted {said:.3e} s, ratio {said / fitted:.2f}")
    print(f"a: {a:.2f} s; cache {cache.allocated / 2**20:.1f} MiB, all of it from the start")
    question = torch.arange(4, 24)
    asked = timed(lambda: model.decoder.answer(cache, question, length=8), 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.safetensors"
        cache.save(path)
        again = timed(lambda: model.decoder.answer(model.decoder.load(path, text_capacity=64), question, length=8), 1)
    print(f"a question: {asked:.3f} s, from the file {again:.3f} s, {again / spent:.2%} of compressing")
    print(describe(torch.device("cpu")))


if __name__ == "__main__":
    main()
