"""An hour of real video through LLaMA-VID on this machine: where the time goes, and what longreel changes.

    python benchmarks/hour.py [--seconds 3600] [--chunk 64] [--cache DIR] [--json FILE]

Frames stream from decoding to two tokens each, in chunks, so memory does not grow with the length beyond those tokens.
Every chunk is compressed three times on the same patches: in the released order of operations, with the projections
folded but in plain PyTorch, and by longreel. All are held against a float64 run of the same maths. Weights are random:
the language model's ids are shown, no answer.
"""

import argparse
import copy
import itertools
import json
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import longreel
import torch
from longreel.bench import machine
from longreel.bench.check import ErrorSum, Verdict, judge
from longreel.data import FrameStream, MediaError, frames
from longreel.data.clips import hour_clip
from longreel.models.llama_vid import TINY, LlamaVid, byte_ids
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

QUESTION = "What does the cyclist pass on the way?"
STAGES = {
    "decode": "decode (what computing did not hide)",
    "tower": "vision tower",
    "query": "Q-Former (question -> text queries)",
    "compress": "compress (longreel)",
    "language": "language model",
}
RELEASED, FOLDED, OURS = "released order", "folded, plain PyTorch", "longreel"
MEMORY_MARK = 900
WIDTH = 100


@dataclass
class Hour:
    """Everything that one run found; times in seconds, memory in bytes by frames done."""

    frames: int = 0
    patches: int = 0
    tokens: int = 0
    stages: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    versions: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    backend: str | None = None
    memory: dict[int, int] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=lambda: Verdict(0.0, None))
    ids: list[int] = field(default_factory=list)
    released_ids: list[int] = field(default_factory=list)
    logits_difference: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.stages.values())

    def total_with(self, version: str) -> float:
        """The hour if this version had compressed it."""
        return self.total - self.versions[OURS] + self.versions[version]

    @property
    def passed(self) -> bool:
        return self.verdict.why is None and self.ids == self.released_ids

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.stages[name] += time.perf_counter() - start


class Compare:
    """Compresses a chunk by every version, a different one first each time, and gathers errors against float64."""

    def __init__(self, model: LlamaVid) -> None:
        adapter, folded = model.adapter, copy.deepcopy(model.adapter)
        folded.attention.backend = "reference"
        self._versions: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
            RELEASED: lambda queries, features: adapter.compress(queries, features, ops="reference"),
            FOLDED: lambda queries, features: folded.compress(queries, features),
            OURS: lambda queries, features: adapter.compress(queries, features),
        }
        self._exact = copy.deepcopy(model.adapter).double()
        self._errors: dict[str, ErrorSum] = defaultdict(ErrorSum)
        self._dtype = getattr(torch, model.preset.dtype)
        self._order = itertools.cycle(itertools.permutations(self._versions))

    def __call__(
        self, queries: torch.Tensor, features: torch.Tensor, seconds: dict[str, float]
    ) -> dict[str, torch.Tensor]:
        tokens = {}
        for name in next(self._order):
            start = time.perf_counter()
            tokens[name] = self._versions[name](queries, features)
            seconds[name] += time.perf_counter() - start
        truth = self._exact.compress(queries.double(), features.double(), ops="reference")
        for name, value in tokens.items():
            self._errors[name].add(value, truth)
        return tokens

    def verdict(self) -> Verdict:
        """longreel's error over all chunks, with the released order as the yardstick."""
        return judge({"tokens": self._errors[OURS]}, {"tokens": self._errors[RELEASED]}, self._dtype)


@torch.inference_mode()
def run(model: LlamaVid, stream: FrameStream, question: str, console: Console) -> Hour:
    """Streams the video through the model; the tokens kept are all that grows."""
    hour, ids, compare = Hour(), byte_ids([question]), Compare(model)
    kept: dict[str, list[torch.Tensor]] = {OURS: [], RELEASED: []}
    with stream, _progress(console) as progress:
        task = progress.add_task("frames", total=stream.expected)
        while True:
            with hour.stage("decode"):
                chunk = next(stream, None)
            if chunk is None:
                break
            with hour.stage("tower"):
                features = model.encode(chunk.pixels)
            with hour.stage("query"):
                queries = model.query(ids, features)
            tokens = compare(queries, features, hour.versions)
            for name, parts in kept.items():
                parts.append(tokens[name][0])
            hour.backend = hour.backend or backend_of(model, features)
            hour.frames += len(features)
            hour.patches += features.shape[0] * features.shape[1]
            progress.update(task, completed=hour.frames)
            if hour.frames // MEMORY_MARK > (hour.frames - len(features)) // MEMORY_MARK:
                hour.memory[hour.frames] = peak_memory()
                if not console.is_terminal:
                    console.print(f"{hour.frames:>6,} frames, peak memory {hour.memory[hour.frames] / 2**20:,.0f} MiB")
    hour.stages["compress"] = hour.versions[OURS]
    visual = torch.cat(kept[OURS])
    with hour.stage("language"):
        chosen, logits = model.answer(visual, ids[0])
    hour.memory[hour.frames] = peak_memory()
    released_chosen, released_logits = model.answer(torch.cat(kept[RELEASED]), ids[0])
    hour.tokens, hour.verdict = len(visual), compare.verdict()
    hour.ids, hour.released_ids = chosen.tolist(), released_chosen.tolist()
    hour.logits_difference = float((logits - released_logits).abs().max() / released_logits.abs().max())
    return hour


def backend_of(model: LlamaVid, features: torch.Tensor) -> str | None:
    """Which backend longreel chooses for this model's chunks."""
    attention, size = model.adapter.attention, model.preset.qformer
    query = features.new_empty(1, features.shape[0], size.queries, features.shape[-1])
    pooling = {**attention.pooling, "num_prefix_tokens": attention.num_prefix_tokens}
    return longreel.explain("compress_frames", query, features, **pooling).chosen


def peak_memory() -> int:
    """Bytes of resident memory at this process's peak so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"), BarColumn(None), MofNCompleteColumn(), TextColumn("elapsed"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal, transient=True,
    )  # fmt: skip


def show(hour: Hour, console: Console) -> None:
    """The total and each stage's share of it first, then what compression and hour gain, then tokens and memory."""
    stages = Table(title=f"{hour.frames:,} frames in {hour.total:.1f} s", title_justify="left", width=WIDTH)
    stages.title_style = "bold"
    for name in ("", "seconds", "ms a frame", "share"):
        stages.add_column(name, justify="right" if name else "left", no_wrap=True)
    stages.add_column("", width=25)
    stages.add_row("total", *_figures(hour, hour.total), style="bold", end_section=True)
    for name, label in STAGES.items():
        stages.add_row(label, *_figures(hour, hour.stages[name]), style="green" if name == "compress" else "")
    console.print(stages)

    versions = Table(width=WIDTH)
    for name in ("compress", "seconds", "longreel is faster by", "end to end", "the hour is faster by"):
        versions.add_column(name, justify="left" if name == "compress" else "right", no_wrap=True)
    for name in (RELEASED, FOLDED, OURS):
        seconds, total = hour.versions[name], hour.total_with(name)
        ratios = (f"{seconds / hour.versions[OURS]:.2f} x", f"{total / hour.total:.3f} x") if name != OURS else ("", "")
        label = f"{name}, backend {hour.backend}" if name == OURS else name
        versions.add_row(
            label, f"{seconds:.2f}", ratios[0], f"{total:.1f}", ratios[1], style="green" if name == OURS else ""
        )
    console.print(versions)

    console.print(f"same numbers  {_agreement(hour)}")
    console.print(f"tokens kept   {hour.tokens:,} of {hour.patches:,}")
    marks = dict.fromkeys((min(hour.memory), max(hour.memory)))
    peaks = ", ".join(f"{hour.memory[count] / 2**20:,.0f} MiB after {count:,} frames" for count in marks)
    console.print(f"peak memory   {peaks} (all versions and the check together)")
    console.print(f"ids           {hour.ids}: the weights are random, so this is no answer")


def _agreement(hour: Hour) -> str:
    if hour.verdict.why is not None:
        return f"[red]NO[/]: {hour.verdict.why}"
    if hour.ids != hour.released_ids:
        return f"[red]NO[/]: the released order leads to ids {hour.released_ids}"
    return (
        f"yes: all chunks at {hour.verdict.error:.2f} of the error budget, "
        f"first logits within {hour.logits_difference:.0e}, same ids"
    )


def _figures(hour: Hour, seconds: float) -> tuple[str, str, str, str]:
    share = seconds / hour.total
    return f"{seconds:.2f}", f"{1e3 * seconds / hour.frames:.2f}", f"{share:.1%}", "█" * round(25 * share)


def record(hour: Hour, seconds: int) -> dict[str, object]:
    """One JSON line: the figures, and the machine they were measured on."""
    return {
        "benchmark": "hour",
        "system": "llama-vid",
        "preset": TINY.name,
        "video_seconds": seconds,
        "frames": hour.frames,
        "tokens": hour.tokens,
        "total_s": hour.total,
        "stages_s": dict(hour.stages),
        "compress_s": dict(hour.versions),
        "compress_backend": hour.backend,
        "compress_ratio": hour.versions[RELEASED] / hour.versions[OURS],
        "end_to_end_ratio": hour.total_with(RELEASED) / hour.total,
        "peak_memory_bytes": hour.memory,
        "error_over_budget": hour.verdict.error,
        "passed": hour.passed,
        **machine.describe(torch.device("cpu")),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="An hour of real video through LLaMA-VID, random weights.")
    parser.add_argument("--seconds", type=int, default=3600, help="length of the video (3600)")
    parser.add_argument("--chunk", type=int, default=TINY.chunk, help=f"frames at a time ({TINY.chunk})")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder that keeps the made video (.cache)")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--json", type=Path, help="append the figures to this file as one line of JSON")
    args = parser.parse_args()

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    start = time.perf_counter()
    try:
        clip = hour_clip(args.cache, args.seconds)
        stream = frames(clip, "fps:1", size=TINY.tower.image, chunk=args.chunk)
    except MediaError as error:
        console.print(f"[red]{error}[/]")
        return 1
    made = time.perf_counter() - start
    console.print(f"video         {clip}, {clip.stat().st_size / 2**20:.0f} MiB, ready in {made:.1f} s")
    model = LlamaVid(TINY)
    console.print(f"model         LLaMA-VID, preset {TINY.name}, random weights, {TINY.dtype}, this CPU")
    console.print(f"question      {args.question}")
    hour = run(model, stream, args.question, console)
    show(hour, console)
    if args.json:
        with args.json.open("a") as lines:
            lines.write(json.dumps(record(hour, args.seconds)) + "\n")
    return 0 if hour.passed else 1


if __name__ == "__main__":
    sys.exit(main())
