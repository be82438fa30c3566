"""What a system is, and how a path goes through one: one driver runs them all, the command line makes its flags of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from longreel.models.cost import Setting, SystemCost
from longreel.models.options import option as option
from longreel.models.prompts import IDS, QUESTION, Prompts, by_bytes
from longreel.models.sizes import Preset

if TYPE_CHECKING:
    from longreel.models.checkpoint import Released

Clock = Callable[[str], AbstractContextManager[None]]
"""Times a stage by its name; on a path that is not timed it does nothing."""


@dataclass(frozen=True)
class Stage:
    """A part of a run that is timed.

    ours: longreel's own ops compute it; shown with the backend that did. compared: each path has its own code for it; else it is
    the same code on every path, and timed once.
    """

    name: str
    label: str
    ours: bool = False
    compared: bool = True


LANGUAGE = Stage("language", "language model")
SHARED_LANGUAGE = Stage("language", "language model", compared=False)
_COMMON = (
    Stage("decode", "decode (what is not hidden)", compared=False),
    Stage("resize", "resize, in decoding threads", compared=False),
    Stage("read", "read features", compared=False),
    Stage("tower", "vision tower", compared=False),
    Stage("audio", "audio encoder", compared=False),
    Stage("write", "write features", compared=False),
    Stage("load", "read saved memory", compared=False),
    Stage("save", "write saved memory"),
    Stage("gather", "wait for other processes", compared=False),
    Stage("other", "everything else", compared=False),
    Stage("untold", "threads not told apart here", compared=False),
)


class Chunk(NamedTuple):
    """What a session takes at a time, encoded: frames [F, N (+ 1), C] of the vision tower; audio [A, ...] of the audio encoder,
    the clips that begin no later than the last of these frames, None where there are none. Clips that begin behind the last frame
    of a whole input come at its end, where frames may be none."""

    frames: Tensor
    audio: Tensor | None = None


class Encoded(NamedTuple):
    """What `Session.part` makes of a chunk of `frames` frames, to be taken here or in another process."""

    frames: int
    tensors: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class AudioSpec:
    """Audio as a model takes it: clips of `seconds`, one after the other, mono at `rate` Hz, float32 in -1 .. 1."""

    rate: int
    seconds: float


@dataclass(frozen=True)
class InputFacts:
    """What a model may depend on: prefix tokens (CLS) of the features, whether they are of images, and the expected frames and
    clips of sound; None where that is not known."""

    prefix: int
    still: bool
    expected: int | None
    clips: int | None = None


@dataclass(frozen=True)
class Cached:
    """What is cached of the frames, of one question or for all of them as the system has it: tokens, and their bytes.

    tokens_read: that the language model read of the frames where not all are cached; 0: there are none such. backend: that ran
    the system's own stage.
    """

    tokens: int
    nbytes: int
    tokens_read: int = 0
    backend: str | None = None


# By its name until 0.1.0.
Kept = Cached


class Answer(NamedTuple):
    """ids int64 [at most length]; logits [T, vocabulary] after every id of the question, the last of which chose the first id."""

    ids: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Part:
    """The first `frames` of an input, and why no more."""

    frames: int
    why: str


class Model(Protocol):
    """What every system's model has. One with audio also has `encode_audio`: clips [A, samples] -> [A, ...]."""

    @property
    def preset(self) -> Preset: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [F, image, image, 3] -> [F, N (+ 1), C]."""


class Session(ABC):
    """One path's way through one input: chunks, then the answers. Made before anything is decoded, so that it can refuse."""

    @abstractmethod
    def consume(self, chunk: Chunk, clock: Clock) -> None:
        """The next chunk; ValueError where the language model has no room for it."""

    def part(self, chunk: Chunk, clock: Clock) -> Encoded:
        """All of `consume` that no other chunk takes part in: computed in any process, and given to `take` in order. Default:
        nothing of it."""
        return Encoded(len(chunk.frames), chunk)

    def take(self, part: Encoded, clock: Clock) -> None:
        """The rest of `consume`."""
        frames, audio = part.tensors
        assert frames is not None
        self.consume(Chunk(frames, audio), clock)

    @abstractmethod
    def finish(self, clock: Clock) -> Cached:
        """After the last chunk; what stood waiting for more is computed now."""

    def prepare(self, index: int, clock: Clock) -> None:  # noqa: B027, most have nothing to prepare
        """What a question costs before the language model's stage."""

    @abstractmethod
    def answer(self, index: int, on_first: Callable[[], None]) -> Answer:
        """The answer to a question; `on_first` is called once its first id is chosen."""

    @abstractmethod
    def compared(self) -> Tensor:
        """What is cached, as a tensor in which paths are compared; asked for after the answers."""

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write what is cached; `about` goes with it. Of systems with `memory`."""
        raise NotImplementedError

    def load(self, path: Path, frames: int) -> Cached:
        """In place of every chunk, what `save` wrote after `frames` frames."""
        raise NotImplementedError


class LiveSession(Session):
    """One that goes on: its memory may have a cap in bytes, and it answers questions that come while frames do.

    TEXT: tokens of a question and its answer that the cap leaves room for.
    """

    TEXT: ClassVar[int] = 2048

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of what is cached."""

    @abstractmethod
    def append(self, chunk: Chunk) -> None:
        """As `consume`, untimed; MemoryError beyond the cap, ValueError without positions: all is then as it was."""

    @abstractmethod
    def ask(self, prompts: Prompts) -> Answer:
        """The answer to the first of these questions, about all frames so far; what is cached stays as it is."""


class System(ABC):
    """A published system: one object, of which `longreel run`, `extract`, `profile` and the benchmarks know nothing else.

    ::

        name: of --system. presets: by name. Options: a frozen dataclass whose fields are made by `option`.
        stages: its own ones, in order, the language model's last.
        frames: which of a video are taken where nothing is said. fit: how they are made square, as in `longreel.data.frames`.
        audio: as the model takes it, None where it hears nothing.
        memory: what a saved memory holds, None where what is cached depends on the question.
        streams: the reference path takes chunk by chunk too, so that every length fits that path.
        training: of each source, "paper" and "released", the stages: what trains, as regular expressions of parameter names.
        long: flags of `longreel run` with which an hour goes through whole. long_video: those besides, where it is a video and
        no feature file, of which all was chosen before.
        comparable_frames: that ours, the reference path and float64 take beside each other at true size.
    """

    name: ClassVar[str]
    Options: ClassVar[type[Any]]
    stages: ClassVar[tuple[Stage, ...]]
    frames: ClassVar[str] = "fps:1"
    fit: ClassVar[Literal["crop", "stretch"]] = "crop"
    audio: ClassVar[AudioSpec | None] = None
    memory: ClassVar[str | None] = None
    streams: ClassVar[bool] = True
    training: ClassVar[Mapping[str, tuple[tuple[str, ...], ...]]] = {}
    long: ClassVar[tuple[str, ...]] = ()
    long_video: ClassVar[tuple[str, ...]] = ()
    comparable_frames: ClassVar[int] = 16

    @property
    @abstractmethod
    def presets(self) -> Mapping[str, Any]: ...

    def sized(self, preset: Any, folder: Path) -> Any:
        """The preset with the sizes of a checkpoint."""
        raise ValueError(f"--checkpoint {folder}: {self.name} has no released weights")

    def recognises(self, folder: Path) -> bool:
        """Whether a folder of weights is this system's, by what is in it."""
        return False

    def released(self, model: Any, folder: Path) -> "Released":
        """What `build` reads of a checkpoint's `folder`, and whether it fits the model."""
        raise ValueError(f"{folder}: {self.name} has no released weights")

    def weights(self, preset: str) -> Path | None:
        """The folder of a preset's own checkpoint, None where it has none."""
        return None

    def question(self, preset: str) -> str:
        """What a preset is asked where nothing else is."""
        return QUESTION

    def prefix(self, options: Any) -> int:
        """Prefix tokens (CLS) of the features that the tower makes."""
        return 0

    def sound(self, path: Path, preset: Any, options: Any) -> Any:
        """The sound of a video as a `longreel.data.audio.AudioClips` or its like; None, and one MediaWarning, without any.

        Raises:
            ValueError: an option that this sound has no use for. MediaError: the file cannot be read.
        """
        from longreel.data.audio import open_audio

        return None if self.audio is None else open_audio(path, rate=self.audio.rate, seconds=self.audio.seconds)

    def cut(self, preset: Any, options: Any) -> Callable[[Tensor], Tensor] | None:
        """How a picture that comes alone is cut: uint8 [h, w, 3] -> frames [T, image, image, 3]; None: it is one frame."""
        return None

    def prompts(self, preset: Any, texts: list[str], length: int | None, folder: Path | None) -> Prompts:
        """In the vocabularies of a checkpoint's `folder` where it has them, else as bytes; answers of at most `length` ids."""
        return by_bytes(texts, length or IDS)

    @abstractmethod
    def build(
        self,
        preset: Any,
        options: Any,
        given: InputFacts,
        prompts: Prompts | None,
        *,
        device: torch.device,
        checkpoint: Path | None = None,
        backend: str | None = None,
    ) -> Any:
        """The `Model` with its weights, for this input; without `prompts` only for its encoders."""

    @abstractmethod
    def session(self, model: Any, prompts: Prompts, path: str, *, expected: int | None, compare: bool) -> Session:
        """path: OURS, REFERENCE or EXACT of `longreel.models.record`. expected: frames that will come, by what the header says.

        Raises:
            ValueError: too many positions for the language model. MemoryError: the path does not fit.
        """

    def live(self, model: Any, prompts: Prompts, *, max_bytes: int | None) -> LiveSession:
        """longreel's path for a video that goes on; prompts say what stands before the frames. Of systems with `memory`."""
        raise ValueError(f"{self.name}: does not take a video that goes on")

    def steps(self, preset: Any) -> int:
        """Ops one after the other on the paths that are compared: their errors add up like a random walk."""
        return 1

    def comparable(self, model: Any, prompts: Prompts, expected: int | None) -> Part | None:
        """The first frames that the reference path can take, where it cannot take all that are expected."""
        return None

    def cost(self, preset: Any, options: Any, setting: Setting) -> SystemCost:
        """What longreel's path takes, by formula; ValueError for options that such an input is refused with."""
        raise ValueError(f"{self.name}: has no formula of what it takes")

    def changes(self, preset: Any, options: Any) -> Mapping[str, Sequence[Any]]:
        """By option, other values with which less is cached, the mildest first."""
        return {}

    def stage(self, name: str) -> Stage:
        """By name, of its own and those that all have; ValueError where there is none."""
        found = next((stage for stage in (*self.stages, *_COMMON) if stage.name == name), None)
        if found is None:
            raise ValueError(f"{self.name} has no stage {name!r}")
        return found
