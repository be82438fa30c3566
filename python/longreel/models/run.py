"""One driver for every system: clocks, peaks of memory, warm-up, turns between the paths, float64, and the answers."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from longreel.data import FeatureWriter
from longreel.measure.memory import PeakMeter, return_free_memory
from longreel.models.chunks import chunks
from longreel.models.inputs import Input, Progress, expected_frames
from longreel.models.memory import SavedMemory
from longreel.models.processes import Processes
from longreel.models.prompts import Prompts
from longreel.models.record import EXACT, OURS, REFERENCE, Ops, RunRecord
from longreel.models.system import AudioSpec, Chunk, Clock, Encoded, Model, Session, System


@torch.inference_mode()
def run(
    system: System,
    model: Any,
    source: Input,
    prompts: Prompts,
    *,
    ops: Ops = "longreel",
    compare: bool = False,
    frames: int | None = None,
    writer: FeatureWriter | None = None,
    save: Path | None = None,
    about: Mapping[str, Any] | None = None,
    processes: Processes | None = None,
    progress: Progress = lambda done: None,
) -> RunRecord:
    """Every question in one pass: a frame is decoded and encoded once for all of them, and for every path.

    Args:
        model: what `system.build` made for this input and these questions.
        ops: the path to run. compare: both, chunk by chunk in turn, and float64. Stages that are the same code on every path are
            timed once.
        frames: stop after so many.
        writer: takes the features, for later questions. save: where what longreel's path keeps of the frames goes, with
            `about`.
        processes: that share the frames; this is the first of them, and takes what the others computed. None: it is alone.
        progress: told the frames done.

    Raises:
        MediaError: no frames, or as the input. ValueError: too many positions for the language model, or more asked of a saved
            memory than questions. MemoryError: a path that does not fit.
    """
    paths = (OURS, REFERENCE) if compare else (ops,)
    saved = source.saved
    if saved is not None and (paths != (OURS,) or writer or save or (frames or saved.frames) != saved.frames):
        raise ValueError(f"{saved.path}: keeps no frames, it answers questions about all {saved.frames:,} of them")
    record = RunRecord(system.name, model.preset.name, prompts.texts, paths, device=model.device)
    record.steps, record.dtype = system.steps(model.preset), _name(model.dtype)
    expected = expected_frames(source, frames)
    with record.beside("warm-up"):
        sessions = {
            path: system.session(model, prompts, path, expected=expected, compare=compare)
            for path in (*paths, *([EXACT] if compare else []))
        }
        _warm(system, model, prompts, paths)
    record.startup = record.aside["warm-up"]
    meter, clocks = PeakMeter(model.device), {path: _clock(system, record, path) for path in sessions}
    if saved is not None:
        _load(sessions[OURS], saved, record, meter)
    else:
        most = frames if processes is None else _span(processes, source, model.preset.chunk, frames)
        fed = chunks(model, source, record, meter, paths=paths, frames=most, writer=writer, progress=progress)
        _consume(sessions, record, fed, clocks, meter)
        if processes is not None:
            _take_others(sessions[paths[0]], processes, record, model.device, clocks[paths[0]], meter, progress)
        _finish(sessions, record, clocks, meter)
        if save is not None:
            with record.clock("save", OURS):
                counts = {"frames": record.frames, "patches": record.patches}
                sessions[OURS].save(save, {**(about or {}), **counts})
    return_free_memory()
    for path in list(sessions):
        # What a path held is given back before the next one answers.
        _answer(system, sessions.pop(path), path, prompts, record, meter, clocks[path])
    if prompts.decode is not None:
        record.answers = tuple(prompts.decode(chosen) for chosen in record.ids[paths[0]])
    peaks = meter.take()
    record.memory.append((record.frames, {path: peaks[path] for path in paths}))
    record.close()
    return record


@torch.inference_mode()
def give(
    system: System,
    model: Any,
    source: Input,
    prompts: Prompts,
    processes: Processes,
    *,
    ops: Ops = "longreel",
    frames: int | None = None,
) -> int:
    """A process's share of a run, for the first one, which calls `run`: frames that were computed.

    Raises:
        As `run`.
    """
    session = system.session(model, prompts, ops, expected=expected_frames(source, frames), compare=False)
    most = _span(processes, source, model.preset.chunk, frames)
    record = RunRecord(system.name, model.preset.name, prompts.texts, (ops,), device=model.device)
    parts = list[Encoded]()
    if most != 0:
        fed = chunks(model, source, record, PeakMeter(model.device), paths=(ops,), frames=most, none=True)
        for chunk in fed:
            parts.append(session.part(chunk, _untimed))
            processes.sign()
    processes.give(parts)
    return record.frames


def _span(processes: Processes, source: Input, chunk: int, frames: int | None) -> int | None:
    """The source gives this process's frames alone; how many these are at most, None: that is not known."""
    first, stop = processes.share(expected_frames(source, frames), source.chunk or chunk)
    if stop is None:
        stop = frames
    source.only(first, stop)
    return None if stop is None else max(stop - first, 0)


def _take_others(
    session: Session,
    processes: Processes,
    record: RunRecord,
    device: torch.device,
    clock: Clock,
    meter: PeakMeter,
    progress: Progress,
) -> None:
    """What the other processes computed, part by part."""
    parts, patches = processes.gathered(device), record.patches // record.frames
    while True:
        with meter(record.paths[0]):
            with record.clock("gather"):
                part = next(parts, None)
            if part is None:
                break
            session.take(part, clock)
        record.frames += part.frames
        record.patches += part.frames * patches
        record.memory.append((record.frames, meter.take()))
        progress(record.frames)


@torch.inference_mode()
def extract(
    system: System, model: Model, source: Input, writer: FeatureWriter, *, progress: Progress = lambda done: None
) -> RunRecord:
    """Writes what the encoders make of every frame, and of the sound."""
    record = RunRecord(system.name, model.preset.name, (), device=model.device, dtype=_name(model.dtype))
    for _ in chunks(model, source, record, PeakMeter(model.device), writer=writer, progress=progress):
        pass
    record.close()
    return record


def _clock(system: System, record: RunRecord, path: str) -> Clock:
    """Of a path: a stage that is the same code on every path is timed on the first, float64 never."""

    def clock(name: str) -> AbstractContextManager[None]:
        if path == EXACT:
            return contextlib.nullcontext()
        if system.stage(name).compared:
            return record.clock(name, path)
        return record.clock(name) if path == record.paths[0] else record.beside(f"{name} again")

    return clock


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _untimed(name: str) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def _measured(record: RunRecord, meter: PeakMeter, path: str) -> AbstractContextManager[None]:
    """The peak of a path; the float64 truth has none, its seconds are aside."""
    return record.beside("float64 truth") if path == EXACT else meter(path)


def _consume(
    sessions: Mapping[str, Session],
    record: RunRecord,
    fed: Iterator[Chunk],
    clocks: Mapping[str, Clock],
    meter: PeakMeter,
) -> None:
    timed = [path for path in sessions if path != EXACT]
    orders = itertools.cycle([timed, timed[::-1]])
    for chunk in fed:
        for path in (*next(orders), *([EXACT] if EXACT in sessions else [])):
            with _measured(record, meter, path):
                sessions[path].consume(chunk, clocks[path])
        # Not beside the next one, which is made before the name is taken again.
        del chunk


def _finish(sessions: Mapping[str, Session], record: RunRecord, clocks: Mapping[str, Clock], meter: PeakMeter) -> None:
    for path, session in sessions.items():
        with _measured(record, meter, path):
            cached = session.finish(clocks[path])
        if path == record.paths[0]:
            record.take(cached)
            record.backend = cached.backend if path == OURS else path


def _load(session: Session, saved: SavedMemory, record: RunRecord, meter: PeakMeter) -> None:
    with meter(OURS), record.clock("load"):
        cached = session.load(saved.path, saved.frames)
    record.take(cached)
    record.frames, record.patches = saved.frames, saved.patches


def _answer(
    system: System, session: Session, path: str, prompts: Prompts, record: RunRecord, meter: PeakMeter, clock: Clock
) -> None:
    answers = []
    for index in range(len(prompts.texts)):
        with _measured(record, meter, path):
            session.prepare(index, clock)
            with clock("language"):
                start = record.now()
                answers.append(record.answer(path, partial(session.answer, index)))
                if path == OURS and system.memory is not None:
                    # All that a question costs where nothing else depends on it.
                    record.answer_seconds.append(record.now() - start)
    record.ids[path] = [answer.ids.tolist() for answer in answers]
    record.logits[path] = [answer.logits for answer in answers]
    if len(record.paths) > 1:
        record.visual[path] = session.compared()


def _warm(system: System, model: Any, prompts: Prompts, paths: Sequence[str]) -> None:
    """One black frame, and a silent clip, through everything: what a first call sets up is no stage's time."""
    image, few = model.preset.tower.image, dataclasses.replace(prompts, length=min(prompts.length, 2))
    black = model.encode(torch.zeros(1, image, image, 3, dtype=torch.uint8))
    chunk = Chunk(black, None if system.audio is None else model.encode_audio(_silence(system.audio)))
    for path in paths:
        session = system.session(model, few, path, expected=1, compare=False)
        session.consume(chunk, _untimed)
        session.finish(_untimed)
        session.prepare(0, _untimed)
        session.answer(0, _nobody)


def _silence(spec: AudioSpec) -> torch.Tensor:
    return torch.zeros(1, round(spec.rate * spec.seconds))


_nobody: Callable[[], None] = lambda: None  # noqa: E731
