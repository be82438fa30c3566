"""VideoMemory: a video that goes on, and questions about it in between."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longreel.data import MediaError
from longreel.models.inputs import Input
from longreel.models.memory import described, dtype_in, made_by, open_memory
from longreel.models.setup import Setup, device_of, setup_of
from longreel.models.system import Chunk, InputFacts, LiveSession


@dataclass(frozen=True)
class Said:
    """An answer: its ids, and its text where the weights have a vocabulary (else None)."""

    ids: list[int]
    text: str | None


class VideoMemory:
    """Frames go in as they come, what is cached of them grows, and never beyond its cap; questions change nothing.

    ::

        memory = VideoMemory(name, max_bytes=64 << 20)
        memory.append(frames)               # uint8 RGB [F, image, image, 3]
        memory.ask("What is happening?")
        memory.save("hour.safetensors")     # also for `longreel ask hour.safetensors`
        memory = VideoMemory.load("hour.safetensors")

    Args:
        system: one that keeps a memory, by its name. preset, checkpoint, device, backend: as of `longreel run`.
        options: of the system, by name.
        max_bytes: that keys and values cached of the video may take, buffers and the text of a question included; None: as
            much as there is.
        dtype: "float32" or "bfloat16"; None: the preset's.

    Raises:
        ValueError: an unknown name, or a system that keeps nothing. ImportError: without transformers.
    """

    def __init__(
        self,
        system: str,
        preset: str = "tiny",
        *,
        checkpoint: Path | None = None,
        options: Mapping[str, Any] | None = None,
        max_bytes: int | None = None,
        device: str | None = None,
        backend: str | None = None,
        dtype: str | None = None,
    ) -> None:
        self._setup: Setup = setup_of(
            system, preset, checkpoint, device, options, backend=backend, save=True, dtype=dtype
        )
        # Only what stands before the video is taken of it.
        prompts = self._setup.system.prompts(self._setup.preset, ["?"], None, self._setup.checkpoint)
        self._model = self._setup.model(Input(InputFacts(self._setup.prefix, False, None)), prompts)
        self._session: LiveSession = self._setup.system.live(self._model, prompts, max_bytes=max_bytes)
        self.max_bytes, self.frames = max_bytes, 0

    @property
    def image(self) -> int:
        """The side of a frame."""
        side: int = self._setup.preset.tower.image
        return side

    @property
    def nbytes(self) -> int:
        """Bytes of what is cached."""
        return self._session.nbytes

    @torch.inference_mode()
    def append(self, frames: Tensor) -> None:
        """The next frames, uint8 RGB [F, image, image, 3].

        Raises:
            MemoryError: they do not fit `max_bytes`. ValueError: the language model has no positions for them. The memory is then
                as it was.
        """
        if not len(frames):
            return
        self._session.append(Chunk(self._model.encode(frames)))
        self.frames += len(frames)

    @torch.inference_mode()
    def ask(self, question: str, *, tokens: int | None = None) -> Said:
        """The answer, of at most `tokens`, to a question about all frames so far; what is cached stays as it is.

        Raises:
            ValueError: there are no frames yet, or no positions for the question.
        """
        if not self.frames:
            raise ValueError("the memory is empty: append frames before a question is asked")
        prompts = self._setup.prompts([question], tokens)
        ids = self._session.ask(prompts).ids.tolist()
        return Said(ids, None if prompts.decode is None else prompts.decode(ids))

    @torch.inference_mode()
    def save(self, path: str | Path) -> None:
        """A file as `longreel run --save-memory` writes it: the video as if it ended here; more may be appended afterwards."""
        setup = self._setup
        about = made_by(setup.system.name, setup.preset, setup.weights) | {"options": asdict(setup.options)}
        patches = self.frames * setup.preset.tower.patches
        self._session.save(Path(path), {**about, "frames": self.frames, "patches": patches})

    @classmethod
    @torch.inference_mode()
    def load(
        cls,
        path: str | Path,
        *,
        checkpoint: Path | None = None,
        max_bytes: int | None = None,
        device: str | None = None,
        backend: str | None = None,
    ) -> "VideoMemory":
        """What `save`, or `longreel run --save-memory`, wrote; the file says which system, preset and options made it.

        Raises:
            MediaError: it is no such file, was cut short, or was made by other weights. MemoryError: it takes more than
                `max_bytes`.
        """
        path = Path(path)
        about = described(path)
        kinds = {"system": str, "preset": str, "options": dict}
        if about is None or not all(isinstance(about.get(name), kind) for name, kind in kinds.items()):
            raise MediaError(f"{path}: no saved memory that says its system, preset and options")
        # A GPU has one dtype.
        dtype = dtype_in(path) or None if device_of(device).type == "cpu" else None
        memory = cls(
            about["system"], about["preset"], checkpoint=checkpoint, options=about["options"], max_bytes=max_bytes,
            device=device, backend=backend, dtype=dtype,
        )  # fmt: skip
        setup = memory._setup
        saved = open_memory(path, setup.system.name, setup.preset, setup.weights)
        assert saved is not None
        memory._session.load(path, saved.frames)
        memory.frames = saved.frames
        return memory
