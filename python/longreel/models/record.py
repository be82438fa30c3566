"""What one run of a system found: the same record for every system, so that all are shown and compared alike."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from longreel.measure.cpu import SHARED, CpuLedger
from longreel.measure.ranges import named
from longreel.models.system import Answer, Cached

Ops = Literal["longreel", "reference"]
OURS, REFERENCE, EXACT = "longreel", "reference", "float64"
_ASIDE = "aside"


@dataclass
class RunRecord:
    """Times in seconds, memory in bytes. A path is OURS, REFERENCE or EXACT, the float64 truth (never timed).

    Stages that all paths share were run once and stand under "shared". Seconds are those of the wall clock; CPU seconds
    are those of all threads, and decoding that runs beside other stages is charged to itself.
    """

    system: str
    preset: str
    questions: tuple[str, ...]
    paths: tuple[str, ...] = (OURS,)
    """What was run and timed; the first is what is shown where nothing is compared."""
    frames: int = 0
    patches: int = 0
    tokens: int = 0
    """Cached of one question, or for all of them, as the system has it."""
    tokens_bytes: int = 0
    """Of what is cached of the frames."""
    rows: int = 0
    """Tokens of the frames that the language model read where it did not keep all of them; 0: there are none such."""
    weights: str = "random"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: str = ""
    """What the model computes in, on every path but float64's."""
    steps: int = 1
    """Ops one after the other on the paths that are compared: layers of the text decoder, and the compression."""
    backend: str | None = None
    startup: float = 0.0
    """The first call of everything, on one black frame; in no stage."""
    seconds: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    """By stage, in order, then by path."""
    aside: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds in no stage, by what they went to."""
    elapsed: float = 0.0
    """Seconds of the whole run: stages of every path, what has no name of its own ("other") among them, and what is aside."""
    ledger: CpuLedger = field(default_factory=CpuLedger)
    """The CPU seconds of all this, from the record's making on."""
    memory: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    """Frames done, and the peak of memory of each path while the last chunk ran (see `measure.memory.PeakMeter`)."""
    ids: dict[str, list[list[int]]] = field(default_factory=dict)
    """By path, the ids chosen for each question."""
    answers: tuple[str, ...] = ()
    """Of each question, where the weights mean something and a vocabulary is there."""
    answer_seconds: list[float] = field(default_factory=list)
    """Of each question, after the frames were encoded."""
    first_id: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By path, of each question: seconds from where the language model was asked to the first id."""
    id_rate: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By path, of each question with more than one id: ids a second after the first."""
    logits: dict[str, list[Tensor]] = field(default_factory=dict)
    """By path, of each question [T, vocabulary]: after every id of the question."""
    visual: dict[str, Tensor] = field(default_factory=dict)
    """By path, what was cached of the frames: where paths are compared, they are compared in it."""

    def __post_init__(self) -> None:
        self._began = self.now()

    def stage(self, name: str, path: str | None = None) -> float:
        """Seconds of a stage on a path, by default the first."""
        spent = self.seconds.get(name, {})
        return spent.get(SHARED, 0.0) + spent.get(path or self.paths[0], 0.0)

    def total(self, path: str | None = None) -> float:
        return sum(self.stage(name, path) for name in self.seconds)

    @property
    def stages(self) -> list[str]:
        """Those that took time of either kind, in order."""
        first, *others = self.seconds
        return [
            first,
            *(name for name, whose in self.ledger.spent if whose != _ASIDE and name not in self.seconds),
            *others,
        ]

    def cpu(self, name: str, path: str | None = None) -> float:
        """CPU seconds of a stage on a path, by default the first; once the record is closed."""
        spent = self.ledger.spent
        return spent.get((name, SHARED), 0.0) + spent.get((name, path or self.paths[0]), 0.0)

    def total_cpu(self, path: str | None = None) -> float:
        return sum(self.cpu(name, path) for name in self.stages)

    @property
    def aside_cpu(self) -> dict[str, float]:
        """CPU seconds of what is aside."""
        return {name: spent for (name, whose), spent in self.ledger.spent.items() if whose == _ASIDE}

    def close(self) -> None:
        """The run is over: what had no name is a stage of its own, "other"."""
        self.ledger.close()
        self.elapsed = self.now() - self._began
        named = sum(sum(spent.values()) for spent in self.seconds.values()) + sum(self.aside.values())
        self.seconds["other"][SHARED] = max(self.elapsed - named, 0.0)

    def until_first_id(self, path: str | None = None) -> float | None:
        """Seconds from the start to the first id of the first question; None where none was asked."""
        waited = self.first_id.get(path or self.paths[0])
        return self.total(path) - self.stage("language", path) + waited[0] if waited else None

    def ingest_rate(self, path: str | None = None) -> float | None:
        """Frames a second until the language model is asked; None where nothing was ingested, as from a saved memory."""
        spent = self.total(path) - self.stage("language", path)
        return self.frames / spent if spent and "load" not in self.seconds else None

    def peak(self, path: str | None = None) -> int:
        return max((peaks.get(path or self.paths[0], 0) for _, peaks in self.memory), default=0)

    def take(self, cached: Cached) -> None:
        """What is cached on the first path."""
        self.tokens, self.tokens_bytes, self.rows = cached.tokens, cached.nbytes, cached.tokens_read

    def answer(self, path: str, ask: Callable[[Callable[[], None]], Answer]) -> Answer:
        """What `ask` gives, timed; it calls what it is given as soon as it has the first id."""
        start, marks = self.now(), list[float]()
        answer = ask(lambda: marks.append(self.now()))
        self.first_id[path].append(marks[0] - start)
        if len(answer.ids) > 1:
            self.id_rate[path].append((len(answer.ids) - 1) / (self.now() - marks[0]))
        return answer

    @contextmanager
    def clock(self, name: str, path: str = SHARED) -> Iterator[None]:
        with self.ledger.at((name, path)), named(f"longreel: {name}", self.device):
            start = self.now()
            yield
            self.seconds[name][path] += self.now() - start

    @contextmanager
    def beside(self, what: str) -> Iterator[None]:
        """What runs is no stage's."""
        with self.ledger.at((what, _ASIDE)):
            start = self.now()
            yield
            self.aside[what] += self.now() - start

    def now(self) -> float:
        """Seconds, when all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
