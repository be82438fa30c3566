"""plan(): memory and time of a run, before anything is run and without weights."""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from longreel.measure.memory import resident
from longreel.models.cost import Setting, StageCost, SystemCost
from longreel.models.inputs import pieces
from longreel.models.prompts import Prompts
from longreel.models.setup import Setup, flag, setup_of
from longreel.models.sizes import computed_in
from longreel.models.system import InputFacts

# What decoding takes beside its pictures, and the C library beside tensors: measured with H.264 of 640 x 272, on two cores.
DECODER = 100 << 20
# As good as no end: six months at a frame a second.
_MOST = 1 << 24


class Rates(Protocol):
    """bandwidth: bytes a second. matrix: FLOP a second."""

    @property
    def bandwidth(self) -> float: ...
    @property
    def matrix(self) -> float: ...


@dataclass(frozen=True)
class Change:
    """flag: an option and its value, as they are typed. fits: whether the frames asked for do with it. most: frames that do, None
    where there is no end."""

    flag: str
    fits: bool
    most: int | None


@dataclass(frozen=True)
class Plan:
    """Memory in bytes.

    ::

        weights, cost: see `SystemCost`. process: of a CPU run, the libraries, the decoder and pictures that wait; 0 on a GPU,
        whose memory is meant as torch allocates it.
        room: what there is, None where that is not known. most: frames that fit; None: there is no end. why: what ends it.
        changes: where the frames do not fit, what to change.
        roof: of the device, None where none was given.
    """

    system: str
    preset: str
    frames: int
    chunk: int
    dtype: str
    gpu: bool
    weights: int
    process: int
    cost: SystemCost
    room: int | None
    most: int | None
    why: str
    changes: tuple[Change, ...]
    roof: Rates | None = None

    @property
    def peak(self) -> int:
        return self.process + self.weights + self.cost.live

    @property
    def fits(self) -> bool:
        return self.most is None or self.frames <= self.most

    def seconds(self, stage: StageCost) -> float | None:
        """No run of this stage is faster than the roof allows."""
        return None if self.roof is None else max(stage.flops / self.roof.matrix, stage.bytes / self.roof.bandwidth)

    @property
    def total(self) -> float | None:
        """Seconds of all stages, at the roof."""
        each = [self.seconds(stage) for stage in self.cost.stages]
        return None if self.roof is None else sum(seconds or 0.0 for seconds in each)


def plan(
    system: str,
    preset: str = "tiny",
    *,
    frames: int,
    memory: int | None = None,
    gpu: bool = False,
    checkpoint: Path | None = None,
    options: Mapping[str, Any] | None = None,
    questions: Sequence[str] | None = None,
    answer_tokens: int | None = None,
    chunk: int | None = None,
    dtype: str | None = None,
    roof: Rates | None = None,
) -> Plan:
    """Tokens, keys and values, peak memory and time of a run of `frames` frames: by formula, weights are counted on meta.

    Args:
        system, preset, checkpoint, options, chunk: as of `longreel run`.
        memory: bytes that there are, of the GPU where `gpu`; None: not limited.
        gpu: on a GPU, in bfloat16; else on a CPU, in the preset's dtype. dtype: another, "float32" or "bfloat16".
        questions, answer_tokens: that are asked; None: the preset's own question.
        roof: of the device: without one there is no time.

    Raises:
        ValueError: an unknown name, an option that such a run is refused with, or a system without formulas.
    """
    if frames < 1:
        raise ValueError(f"frames={frames}: must be at least 1")
    if gpu and dtype not in (None, "bfloat16"):
        raise ValueError(f"--dtype {dtype}: on a GPU everything is computed in bfloat16")
    setup = setup_of(system, preset, checkpoint, "cpu", options, dtype="bfloat16" if gpu else dtype)
    prompts = setup.prompts(questions, answer_tokens)
    sizes = model_size(setup, prompts)
    asked = _Asked(
        setup, prompts, sizes, _resident(gpu), chunk or setup.preset.chunk, computed_in(setup.preset, setup.device), gpu
    )
    cost = asked.cost(frames)
    most, why = asked.most(memory)
    changes: tuple[Change, ...] = ()
    if most is not None and frames > most:
        changes = tuple(_changes(asked, frames, memory))
    return Plan(
        system, preset, frames, asked.chunk, str(asked.dtype).removeprefix("torch."), gpu, asked.weights,
        asked.process(frames), cost, memory, most, why, changes, roof,
    )  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """A run, but for its frames. sizes: as `model_size`. resident: bytes of this process on a CPU."""

    setup: Setup
    prompts: Prompts
    sizes: tuple[int, int]
    resident: int
    chunk: int
    dtype: torch.dtype
    gpu: bool

    def setting(self, frames: int, held: int, done: int) -> Setting:
        prompts = self.prompts
        after = max(len(after) for _, after in prompts.prompts)
        before = prompts.longest - after - prompts.length
        return Setting(
            frames, held, done, self.dtype.itemsize, self.gpu, before, after, prompts.length, len(prompts.between),
            len(prompts.texts),
        )  # fmt: skip

    def cost(self, frames: int) -> SystemCost:
        """With the memory of the largest chunk: a whole one behind others, or of two the first or the second."""
        chunk, setup = self.chunk, self.setup
        places = [(chunk, frames - chunk)] if frames >= 2 * chunk else [(min(frames, chunk), 0)]
        if chunk < frames < 2 * chunk:
            places.append((frames - chunk, chunk))
        costs = [setup.system.cost(setup.preset, setup.options, self.setting(frames, *place)) for place in places]
        return functools.reduce(SystemCost.or_more, costs)

    @property
    def weights(self) -> int:
        parameters, buffers = self.sizes
        return parameters * self.dtype.itemsize + buffers

    def process(self, frames: int) -> int:
        if self.gpu:
            return 0
        # Of the optional PyAV, as is `_resident`.
        from longreel.data.segments import AHEAD, default_workers

        # Pieces that wait, one that is filled, one that is computed with; and what the decoding threads are ahead of these.
        piece, ahead = pieces(self.chunk, gpu=False)
        pictures = min(frames, (ahead + 2) * piece + AHEAD * default_workers())
        return self.resident + DECODER + pictures * 3 * self.setup.preset.tower.image**2

    def most(self, memory: int | None) -> tuple[int | None, str]:
        """The largest number of frames, None where there is no end, and what ends it."""

        def ends(frames: int) -> str | None:
            try:
                cost = self.cost(frames)
            except ValueError as error:
                return str(error)
            if cost.positions > cost.limit:
                return f"the language model has {cost.limit:,} positions"
            return "memory" if memory is not None and self.weights + self.process(frames) + cost.live > memory else None

        return _last(ends)

    def with_option(self, name: str, value: Any) -> "_Asked":
        given = {**self.setup.given, name: value}
        return replace(self, setup=replace(self.setup, options=self.setup.system.Options(**given), given=given))


def _last(ends: Callable[[int], str | None]) -> tuple[int | None, str]:
    """The last number that nothing ends, of those up to which nothing does; and what ends the next."""
    why = ends(1)
    if why is not None:
        return 0, why
    low, high = 1, 2
    while (why := ends(high)) is None:
        low, high = high, 2 * high
        if high > _MOST:
            return None, ""
    while high - low > 1:
        middle = (low + high) // 2
        said = ends(middle)
        low, high, why = (middle, high, why) if said is None else (low, middle, said)
    return low, why


def _changes(asked: _Asked, frames: int, memory: int | None) -> Iterator[Change]:
    """Of every option the mildest value with which the frames fit, or else the one with which the most do."""
    system, setup = asked.setup.system, asked.setup
    for name, values in system.changes(setup.preset, setup.options).items():
        yield from _best(
            frames, memory, [(f"{flag(name)} {value}", asked.with_option(name, value)) for value in values]
        )
    chunks = [asked.chunk >> halvings for halvings in range(1, asked.chunk.bit_length())]
    yield from _best(frames, memory, [(f"--chunk {chunk}", replace(asked, chunk=chunk)) for chunk in chunks])
    if asked.dtype.itemsize > 2:
        yield from _best(frames, memory, [("--dtype bfloat16", replace(asked, dtype=torch.bfloat16))])


def _best(frames: int, memory: int | None, choices: list[tuple[str, _Asked]]) -> Iterator[Change]:
    best: Change | None = None
    for typed, asked in choices:
        most = asked.most(memory)[0]
        fits = most is None or frames <= most
        if best is None or fits or (best.most is not None and most is not None and most > best.most):
            best = Change(typed, fits, most)
        if fits:
            break
    if best is not None:
        yield best


def model_size(setup: Setup, prompts: Prompts) -> tuple[int, int]:
    """Parameters of the model, and bytes of its buffers, which keep their dtype. Nothing is drawn or loaded."""
    facts = InputFacts(setup.prefix, False, 1)
    model = setup.system.build(setup.preset, setup.options, facts, prompts, device=torch.device("meta"))
    return sum(p.numel() for p in model.parameters()), sum(b.nbytes for b in model.buffers())


def _resident(gpu: bool) -> int:
    """Of this process with the libraries that every run on a CPU has."""
    if gpu:
        return 0
    importlib.import_module("av")
    return resident()


def json_plan(made: Plan) -> dict[str, Any]:
    """A plan as one line of JSON; bytes, seconds."""
    cost = made.cost
    stages = [dataclasses.asdict(stage) | {"seconds": made.seconds(stage)} for stage in cost.stages]
    return {
        "command": "plan", "system": made.system, "preset": made.preset, "frames": made.frames, "chunk": made.chunk,
        "dtype": made.dtype, "gpu": made.gpu, "tokens": cost.tokens, "tokens_bytes": cost.cached, "tokens_read": cost.read,
        "positions": cost.positions, "positions_limit": cost.limit, "weights_bytes": made.weights, "live_bytes": cost.live,
        "process_bytes": made.process, "peak_memory_bytes": made.peak, "room_bytes": made.room, "fits": made.fits,
        "most_frames": made.most, "ended_by": made.why or None, "changes": [dataclasses.asdict(c) for c in made.changes],
        "stages": stages, "total_s": made.total,
    }  # fmt: skip
