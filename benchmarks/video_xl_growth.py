"""How Video-XL's language model grows with the video: a + b F + c F^2, beside what its FLOPs and the ops' rates say.

    python benchmarks/video_xl_growth.py [--preset tiny] [--frames 3600] [--step 450] [--seconds 200]

One pass: windows of visual tokens into the memory. The times of windows from the first step on are fitted by least squares of
relative errors: what is off in one is in no other, as it would be in sums. Rates of the ops, at this shape and over the
memory that there is, are measured at every step of the same pass, so that both meet the same machine. The memory's pages are
touched before, so that what was planned does not look like growth. Then a question on all of it, from the memory and its file.
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

from longreel import VideoLayout, vst_attention, vst_rotate
from longreel.cache import VSTCache
from longreel.layout import visible_pairs
from longreel.layout.part import planned_vst_rows
from longreel.measure.machine import describe
from longreel.measure.memory import PeakMeter
from longreel.models.video_xl import PRESETS, VideoXL
from longreel.rotary import rotary_tables

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
    """Seconds a FLOP of each part, medians over all rounds; parts take turns, and layers with their memories, as in the pass:
    each finds in the caches what another left there."""

    def __init__(self, model: VideoXL, ratio: int, cache: VSTCache) -> None:
        self.decoder, self.cache, size = model.decoder, cache, model.preset.language
        window, dtype = model.preset.window, model.dtype
        self.layout = VideoLayout.vst(visual=window, ratio=[(window, ratio)]).grouped()
        self.rows, self.vst = self.layout.length, self.layout.length - window
        self.layers = size.layers
        self.pair = 4 * size.head * size.heads
        own = size.heads * size.head
        kv = 2 * size.kv_heads * size.head
        self.linear = 2 * size.width * (2 * own + kv + 3 * size.mlp)
        # Of the two last layers: keys and values, then queries, output and MLP of VST rows.
        self.last = 2 * size.width * (kv * self.rows + (2 * own + 3 * size.mlp + kv) * self.vst)
        self.q = torch.randn(1, self.rows, size.heads, size.head, dtype=dtype)
        self.k = torch.randn(1, self.rows, size.kv_heads, size.head, dtype=dtype)
        self.vst_plan, self.plan = planned_vst_rows(self.layout, "cpu"), self.layout.to("cpu")
        self.tables = rotary_tables(self.decoder.inv_freq, torch.arange(self.rows))
        self.x = torch.randn(1, self.rows, size.width, dtype=dtype)
        self.seconds: dict[str, list[float]] = {
            name: [] for name in ("linear", "own", "rotate", "memory", "vst_memory")
        }

    def measure(self, rounds: int = 3) -> None:
        """Over the memory as it is."""
        for turn in range(rounds + 1):
            found = self.round(turn % (self.layers - 2))
            for name in self.seconds if turn else ():
                self.seconds[name].append(found[name])

    def round(self, layer: int) -> dict[str, float]:
        size, last = self.cache.tokens, self.layers - 2
        some = self.decoder.language.get_decoder().layers[layer : layer + 1]
        own, over = timed(lambda: self.attend(layer, 0)), timed(lambda: self.attend(layer, size))
        linear = timed(lambda: self.decoder._through(some, self.x, Linear(self.rows - self.vst)))
        rotate = timed(lambda: vst_rotate(self.q, self.k, self.k, *self.tables, self.plan))
        short, long = timed(lambda: self.attend(last, 0, vst=True)), timed(lambda: self.attend(last, size, vst=True))
        return {
            "own": own / (self.pair * visible_pairs(self.layout)),
            "memory": (over - own) / (self.pair * self.rows * size),
            "linear": linear / (self.linear * self.rows),
            # Of a call, not a FLOP.
            "rotate": rotate,
            "vst_memory": (long - short) / (self.pair * self.vst * size),
        }

    def attend(self, layer: int, entries: int, vst: bool = False) -> Tensor:
        length, memory = torch.tensor([entries], dtype=torch.int32), self.cache.layers[layer]
        q, plan = (self.q[:, -self.vst :], self.vst_plan) if vst else (self.q, self.plan)
        before = torch.zeros(1, dtype=torch.int32) if vst else None
        out: Tensor = vst_attention(q, self.k, self.k, memory.keys, memory.values, length, plan, k_before=before)
        return out

    def predicted(self, frames_a_window: float) -> tuple[float, float]:
        """b and c: seconds a frame, and a frame squared."""
        rate = {name: statistics.median(values) for name, values in self.seconds.items()}
        whole = self.layers - 2
        pairs = visible_pairs(self.layout)
        vst_pairs = int(self.vst_plan.bounds[0, :, 1].sum())
        b = rate["linear"] * (whole * self.linear * self.rows + self.last) + rate["rotate"] * (whole + 1)
        b += rate["own"] * self.pair * (whole * pairs + vst_pairs)
        # Window w attends to w times its VST tokens.
        c = self.pair * self.vst / 2 * (whole * self.rows * rate["memory"] + self.vst * rate["vst_memory"])
        return b / frames_a_window, c / frames_a_window**2


def fitted(windows: np.ndarray, seconds: np.ndarray, frames_a_window: float) -> tuple[float, float]:
    """b and c of windows [n] that took `seconds` [n]: the w-th takes b F1 + c F1^2 (2 w + 1), with F1 frames a window."""
    one = frames_a_window
    said = np.stack([np.full(len(windows), one), one**2 * (2 * windows + 1)], 1)
    b, c = np.linalg.lstsq(said / seconds[:, None], np.ones(len(seconds)), rcond=None)[0]
    return float(b), float(c)


def touch(cache: VSTCache) -> None:
    """Every page of its keys and values, so that they are in memory from the start."""
    for layer in cache.layers:
        for part in (layer.keys, layer.values):
            flat = torch.empty(0, dtype=part.dtype).set_(part.untyped_storage())
            flat[:: 1024 // flat.itemsize].mul_(1)


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


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
    windows = int(args.frames / each)
    cache = model.decoder.cache(1 + vst * windows, text_capacity=64)
    model.decoder.encode(tokens[:0], prefix=[1], cache=cache)
    touch(cache)
    rates = Rates(model, args.ratio, cache)
    meter = PeakMeter(torch.device("cpu"))
    spent, peaks, taken, start = 0.0, list[int](), list[float](), time.perf_counter()
    for window in range(windows):
        begin = time.perf_counter()
        with meter("longreel"):
            model.decoder.encode(tokens, cache=cache)
        taken.append(time.perf_counter() - begin)
        spent += taken[-1]
        frames = round((window + 1) * each)
        if frames % args.step == 0:
            peaks.append(meter.take()["longreel"])
            print(
                f"{frames:>6,} frames {spent:8.2f} s {frames / spent:7.1f} a second, peak {peaks[-1] / 2**20:,.1f} MiB",
                flush=True,
            )
            rates.measure()
        if time.perf_counter() - start > args.seconds:
            break
    if len(peaks) < LEAST_POINTS:
        raise SystemExit(
            f"{len(peaks)} steps were reached, a fit takes {LEAST_POINTS}: give more --seconds, or a shorter --step"
        )
    first = round(args.step / each)
    b, c = fitted(np.arange(first, len(taken)), np.array(taken[first:]), each)
    for name, found, said in zip("bc", (b, c), rates.predicted(each), strict=True):
        print(f"{name}: fitted {found:.3e} s, predicted {said:.3e} s, ratio {said / found:.2f}")
    whole = each * len(taken)
    print(f"a: {spent - b * whole - c * whole**2:.2f} s, of {spent:.2f} s that all windows took")
    flat, held = max(peaks) / min(peaks) - 1, cache.allocated / 2**20
    print(f"peak: within {flat:.2%} from {args.step:,} frames on; {held:.1f} MiB of it is the cache")
    question = torch.arange(4, 24)
    asked = timed(lambda: model.decoder.answer(cache, question, length=8))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.safetensors"
        cache.save(path)
        again = timed(lambda: model.decoder.answer(model.decoder.load(path, text_capacity=64), question, length=8))
    print(f"a question: {asked:.3f} s, from the file {again:.3f} s, {again / spent:.2%} of compressing")
    print(describe(torch.device("cpu")))


if __name__ == "__main__":
    main()
