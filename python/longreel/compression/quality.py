"""What fewer video tokens cost and save: one table, with the model's own run for comparison."""

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from longreel import _transformers
from longreel.compression.prompt import CompressedInputs, VideoCut, VideoPrompt, counts_of, read
from longreel.compression.video import check_options

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class CutQuality:
    """One method at one share.

    tokens: video tokens that stayed. divergence: KL(model's own || cut) in nats, the mean over the words behind the videos.
    last: the same at the last word of each row, where the answer begins. agreement: share of those words at which both find the
    same token likeliest. recall: share of the planted frames' tokens that stayed, None if none were named. scoring, first_token:
    seconds, to choose and move tokens, and of the decoder up to the first token. cuts: what stayed of each video.
    """

    method: str
    keep: float
    tokens: int
    divergence: float
    last: float
    agreement: float
    recall: float | None
    scoring: float
    first_token: float
    cuts: tuple[VideoCut, ...] = field(repr=False)


@dataclass(frozen=True)
class QualityReport:
    """Printing it gives the table. tokens, frames: of all videos together; tower: seconds; full: the decoder's without a cut."""

    model: str
    frames: int
    tokens: int
    tower: float
    full: float
    rows: tuple[CutQuality, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.model}: {self.frames} frames, {self.tokens} video tokens; tower {self.tower:.3f} s"
            f" ({self.frames / self.tower:.1f} frames/s), first token {self.full:.3f} s of the whole",
            "",
            "| method | keep | tokens | KL | KL, last | same top-1 | planted kept | scoring s | first token s |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row.method} | {row.keep:g} | {row.tokens} | {row.divergence:.2e} | {row.last:.2e} | {row.agreement:.0%} |"
            f" {'' if row.recall is None else f'{row.recall:.0%}'} | {row.scoring:.4f} | {row.first_token:.3f} |"
            for row in self.rows
        ]
        return "\n".join(lines)


@torch.no_grad()
def compression_quality(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    methods: Iterable[str] = ("evs", "vidcom2", "context", "merge", "pool"),
    keep: Iterable[float] = (0.5, 0.25),
    planted: Sequence[Iterable[int]] | None = None,
    query: Tensor | Sequence[Tensor] | None = None,
    chunk_frames: int = 64,
) -> QualityReport:
    """Each method at each share against the run with all tokens; the tower is run once.

    Args:
        model, inputs, query, chunk_frames: as in `longreel.compress_video`.
        methods, keep: what is compared, each with each.
        planted: for each video the numbers of frames (of the tower's time step) that must not be lost, as those asked for.

    Raises:
        ImportError, ValueError: as `longreel.compress_video`; or planted frames that are not there.
    """
    _transformers.require("compression_quality")
    wanted = [(method, float(share)) for method in methods for share in keep]
    for method, share in wanted:
        check_options(method, share, None, query if method == "context" else None)
    tower, prompt = _timed(lambda: read(model, inputs, chunk_frames))
    frames = [video.frames.shape[0] for video in prompt.videos]
    named = _planted(planted, frames)
    everything = [video.total for video in prompt.videos]
    # What a first call sets up is timed with nothing.
    _words(prompt, prompt.inputs(prompt.cuts("evs", [1 for _ in everything])))
    full, own = _timed(lambda: _words(prompt, prompt.inputs(prompt.cuts("evs", everything))))
    rows = []
    for method, share in wanted:
        counts = counts_of(prompt.videos, prompt.rows, share, None)
        scoring, short = _timed(lambda: prompt.inputs(prompt.cuts(method, counts, query)))  # noqa: B023, called at once
        first, words = _timed(lambda: _words(prompt, short))  # noqa: B023
        apart = torch.nn.functional.kl_div(
            words.log_softmax(-1), own.log_softmax(-1), log_target=True, reduction="none"
        ).sum(-1)
        last = prompt.behind.sum(1).cumsum(0) - 1
        rows.append(
            CutQuality(
                method, share, sum(len(one.kept) for one in short.cuts), float(apart.mean()), float(apart[last.cpu()].mean()),
                float((words.argmax(-1) == own.argmax(-1)).float().mean()), _recall(short, named), scoring, first, short.cuts,
            )
        )  # fmt: skip
    return QualityReport(type(model).__name__, sum(frames), sum(everything), tower, full, tuple(rows))


@torch.no_grad()
def keep_all_difference(model: Any, inputs: Mapping[str, Any], *, chunk_frames: int = 64, last: int = 1) -> float:
    """The largest difference of the logits of the `last` tokens where all is kept from the model's own; 0: bit for bit."""
    shorter = {"logits_to_keep": last} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    own = model(**{**inputs, "use_cache": False}, **shorter).logits[:, -last:]
    kept = read(model, inputs, chunk_frames)
    short = kept.inputs(kept.cuts("evs", [video.total for video in kept.videos]))
    logits = model(**short | {"use_cache": False}, **shorter).logits[:, -last:]
    return 0.0 if torch.equal(own, logits) else float((own - logits).abs().max())


def _timed(call: Callable[[], Answer]) -> tuple[float, Answer]:
    """Seconds by the clock on the wall, with what was queued on a device finished."""
    _wait()
    start = time.perf_counter()
    answer = call()
    _wait()
    return time.perf_counter() - start, answer


def _wait() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _words(prompt: VideoPrompt, inputs: CompressedInputs) -> Tensor:
    """Logits [words, V] in float64 on the CPU, of the words behind the videos, row by row."""
    ids, many = inputs["input_ids"], prompt.behind.sum(1)
    mask = inputs.get("attention_mask", torch.ones_like(ids)).bool()
    # The last so many attended tokens of each row.
    words = mask & (mask.flip(1).cumsum(1).flip(1) <= many[:, None])
    begin = int(words.any(0).nonzero()[0])
    known = inspect.signature(prompt.model.forward).parameters
    shorter = {"logits_to_keep": ids.shape[1] - begin} if "logits_to_keep" in known else {}
    logits = prompt.model(**inputs | {"use_cache": False} | shorter).logits
    return logits[:, -(ids.shape[1] - begin) :][words[:, begin:]].double().cpu()


def _planted(planted: Sequence[Iterable[int]] | None, frames: list[int]) -> list[list[int]] | None:
    if planted is None:
        return None
    named = [sorted(set(numbers)) for numbers in planted]
    fit = len(named) == len(frames) and all(
        0 <= i < t for numbers, t in zip(named, frames, strict=True) for i in numbers
    )
    if not fit or not any(named):
        raise ValueError(f"planted must name frames of each video, which have {frames} frames; given {named}")
    return named


def _recall(inputs: CompressedInputs, named: list[list[int]] | None) -> float | None:
    if named is None:
        return None
    kept = total = 0
    for one, numbers in zip(inputs.cuts, named, strict=True):
        tokens = one.shape[1]
        kept += int(torch.isin(one.kept // tokens, torch.tensor(numbers, dtype=torch.int64)).sum())
        total += tokens * len(numbers)
    return kept / total
