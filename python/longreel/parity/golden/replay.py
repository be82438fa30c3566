"""Replaying golden cases and judging what came out, quantity by quantity."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import Tensor

from longreel.files.foreign import first_line
from longreel.parity.golden import (
    llama_vid_attention,
    llama_vid_token_generation,
    qformer_text,
    videollama_audio,
    videollama_branches,
    videoxl_decoder,
    videoxl_memory,
    voco_decoder,
    voco_mask,
)
from longreel.parity.golden.files import GoldenCase, GoldenFile
from longreel.testing.budget import Errors, errors

# Replays one case through the public API: (case, backend or None, dtype) -> results by the names of the file.
Replayer = Callable[[GoldenCase, str | None, torch.dtype], dict[str, Tensor]]

# By pattern of the file's name; the first match replays it.
REPLAYERS: dict[str, Replayer] = {
    "llama_vid_token_generation*": llama_vid_token_generation.replay,
    "llama_vid_attention*": llama_vid_attention.replay,
    "qformer_text*": qformer_text.replay,
    "voco_mask*": voco_mask.replay,
    "voco_decoder*": voco_decoder.replay,
    "videoxl_memory*": videoxl_memory.replay,
    "videoxl_decoder*": videoxl_decoder.replay,
    "videollama_video_branch*": videollama_branches.video,
    "videollama_audio_branch*": videollama_branches.audio,
    "videollama_audio_trunk*": videollama_audio.trunk,
    "videollama_audio_[cm]*": videollama_audio.waveforms,
}


@dataclass(frozen=True)
class Judged:
    """One quantity of one case. `budget` is the file's tolerance; `problem` says what is wrong, else None; `unknown`: it
    could not be compared."""

    name: str
    error: Errors | None
    budget: Errors | None
    problem: str | None
    unknown: bool = False

    @property
    def strain(self) -> float:
        """Error over budget, the worse norm: at most 1 passes."""
        if self.error is None or self.budget is None:
            return 0.0 if self.problem is None else torch.inf
        return max(self.error.max_rel / self.budget.max_rel, self.error.rms_rel / self.budget.rms_rel)


@dataclass(frozen=True)
class Replayed:
    """One case: every quantity that was compared, or why none was."""

    file: str
    case: str
    quantities: tuple[Judged, ...]
    problem: str | None = None

    @property
    def passed(self) -> bool:
        return self.problem is None and all(q.problem is None for q in self.quantities)

    @property
    def worst(self) -> Judged | None:
        """The quantity nearest to its budget, or furthest over it; one that is unknown before all."""
        return max(self.quantities, key=lambda q: (q.unknown, q.strain), default=None)

    @property
    def unknown(self) -> bool:
        """Whether something of the case could not be replayed or compared at all."""
        return self.problem is not None or any(q.unknown for q in self.quantities)

    @property
    def reason(self) -> str | None:
        """The first thing wrong, or None."""
        worst = self.worst
        return self.problem or (worst.problem if worst is not None else None)


def replayer(name: str) -> Replayer | None:
    """The replayer of a golden file, by its name."""
    return next((function for pattern, function in REPLAYERS.items() if fnmatch(name, pattern)), None)


def replay(file: GoldenFile, backend: str | None = None, dtype: torch.dtype = torch.float32) -> Iterator[Replayed]:
    """A verdict for every case of `file`. What cannot be replayed or compared is a failure, said in the verdict."""
    function = replayer(file.name)
    for case in file.cases.values():
        if function is None:
            yield Replayed(file.name, case.name, (), "no replayer for this file")
            continue
        try:
            results = function(case, backend, dtype)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            yield Replayed(file.name, case.name, (), f"{type(error).__name__}: {first_line(error)}")
            continue
        yield Replayed(file.name, case.name, tuple(judge(case, results, dtype)))


def judge(case: GoldenCase, results: dict[str, Tensor], dtype: torch.dtype) -> Iterator[Judged]:
    """Every quantity that the file stores or gives a tolerance for. One whose tolerances leave `dtype` out asks nothing in it,
    but a case must ask something."""
    tolerances = case.meta.get("suggested_tolerance", {})
    short, asked = str(dtype).removeprefix("torch."), False
    for name in dict.fromkeys([*tolerances, *case.outputs]):
        if name not in results:
            yield Judged(name, None, None, f"{name} is in the file and was not computed", unknown=True)
        elif name in case.meta.get("zero_gradient", {}):
            yield _vanishes(name, results[name], results, dtype)
        elif name in case.meta.get("exactly_zero", ()):
            yield Judged(name, None, None, f"{name} must be zero" if results[name].any() else None)
        elif not (truth := _part(case.truth(name.partition(" (")[0]), name)).is_floating_point():
            asked = True
            same = torch.equal(results[name].to(truth.dtype), truth)
            yield Judged(name, None, None, None if same else f"{name} differs, and is exact in the file")
        elif name not in tolerances:
            yield Judged(name, None, None, f"the file has no tolerance for {name}", unknown=True)
        elif short in tolerances[name]:
            asked = True
            yield _compare(name, results[name], truth, _budget(tolerances[name][short], truth))
    if not asked:
        yield Judged("", None, None, f"the file has no {short} tolerance for this case", unknown=True)


def _budget(tolerance: Mapping[str, float], truth: Tensor) -> Errors:
    """Where a file bounds the largest error itself (max_abs), it is set against the largest value."""
    if "max_rel" in tolerance:
        return Errors(**tolerance)
    return Errors(tolerance["max_abs"] / truth.abs().max().item(), tolerance["rms_rel"])


def _compare(name: str, got: Tensor, truth: Tensor, budget: Errors) -> Judged:
    if got.shape != truth.shape:
        return Judged(name, None, budget, f"{name} has shape {tuple(got.shape)}, the truth {tuple(truth.shape)}")
    error = errors(got, truth)
    return Judged(name, error, budget, None if error.within(budget) else f"{name} is over its budget")


def _part(tensor: Tensor, name: str) -> Tensor:
    """A quantity may be part of a stored tensor: context is the first token of each frame, content the rest."""
    if name.endswith(" (context only)"):
        return tensor[..., :1, :]
    return tensor[..., 1:, :] if name.endswith(" (content only)") else tensor


def _vanishes(name: str, got: Tensor, results: dict[str, Tensor], dtype: torch.dtype) -> Judged:
    """A gradient that is zero in real arithmetic: rounding noise beside the largest gradient at most."""
    largest = max((t.abs().max().item() for key, t in results.items() if key.startswith("grad.")), default=0.0)
    size, limit = got.abs().max().item(), 8 * torch.finfo(dtype).eps * largest
    return Judged(name, None, None, None if size <= limit else f"{name} must vanish, it reaches {size:.1e}")
