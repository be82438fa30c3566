"""The tokens of all frames, on disk: an hour of them is read once a layer of the video Q-Former, and memory does not grow."""

import math
import tempfile
from collections.abc import Iterator

import torch
from torch import Tensor

# Frames that are read at a time.
_PART = 64


class FrameSpool:
    """Frames [f, M, E], written as they come, in an unnamed file of the temporary folder that goes when this does."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115, lives as long as this
        self._frames, self._like = 0, torch.empty(0)

    def __len__(self) -> int:
        return self._frames

    @property
    def nbytes(self) -> int:
        return self._frames * math.prod(self._like.shape[1:]) * self._like.element_size()

    def add(self, tokens: Tensor) -> None:
        """Of shape, dtype and device of those before."""
        if not self._frames:
            self._like = tokens.new_empty(0, *tokens.shape[1:])
        left = _bytes(tokens.cpu().contiguous())
        self._file.seek(self.nbytes)
        while left:
            left = left[self._file.write(left) :]
        self._frames += len(tokens)

    def parts(self) -> Iterator[Tensor]:
        """All frames in order, [at most 64, M, E]."""
        for first in range(0, self._frames, _PART):
            part = self._like.new_empty(min(_PART, self._frames - first), *self._like.shape[1:], device="cpu")
            self._file.seek(first * math.prod(self._like.shape[1:]) * self._like.element_size())
            left = _bytes(part)
            while left:
                count = self._file.readinto(left)
                if not count:
                    raise OSError("the temporary file of the frames' tokens ends early")
                left = left[count:]
            yield part.to(self._like.device)


def _bytes(tensor: Tensor) -> memoryview:
    """Of a contiguous tensor of the CPU."""
    return tensor.view(-1).view(torch.uint8).numpy().data.cast("B")
