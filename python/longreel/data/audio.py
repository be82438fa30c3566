"""The sound of a video as clips of one length, mono at one rate, in step with its frames."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from longreel.data.clock import GAP_OF_A_BREAKING_CLOCK, LONGEST_STILL
from longreel.data.errors import MediaError, MediaWarning

if TYPE_CHECKING:
    from av import AudioFrame
    from av.container import InputContainer

# Seconds between one block of samples and the next that are no rounding of stamps.
_GAP = 0.05


class Clips(NamedTuple):
    """samples [A, n] float32 in -1 .. 1; times [A] float64, where each begins, in seconds since the first frame."""

    samples: Tensor
    times: Tensor


class AudioClips:
    """What `open_audio` returns. The last clip is filled with silence; damage ends the sound with one MediaWarning."""

    def __init__(self, container: "InputContainer", path: Path, rate: int, seconds: float) -> None:
        self._container, self._path, self._rate, self._seconds = container, path, rate, seconds
        self._size, self._given, self._ended = round(rate * seconds), 0, False
        self._held = torch.empty(0)
        self._blocks = self._decode()

    def until(self, time: float) -> Clips:
        """The clips not given before that begin at `time` or earlier."""
        parts, first = list[Tensor](), self._given
        while self._given * self._seconds <= time and (clip := self._next()) is not None:
            parts.append(clip)
            self._given += 1
        samples = torch.stack(parts) if parts else torch.empty(0, self._size)
        return Clips(samples, torch.arange(first, self._given, dtype=torch.float64) * self._seconds)

    def close(self) -> None:
        self._container.close()

    def _next(self) -> Tensor | None:
        while not self._ended and len(self._held) < self._size:
            block = next(self._blocks, None)
            self._ended = block is None
            self._held = self._held if block is None else torch.cat([self._held, block])
        if not len(self._held):
            return None
        clip = torch.zeros(self._size)
        part = self._held[: self._size]
        clip[: len(part)], self._held = part, self._held[self._size :]
        return clip

    def _decode(self) -> Iterator[Tensor]:
        """Samples from the first frame of the video on."""
        from av import AudioResampler
        from av.error import FFmpegError

        from longreel.data.container import Flags

        sound = self._container.streams.audio[0]
        breaks = Flags.ts_discont in Flags(self._container.format.flags)
        longest = GAP_OF_A_BREAKING_CLOCK if breaks else LONGEST_STILL
        resampler, late, end = AudioResampler("fltp", rate=self._rate), None, 0.0
        try:
            for frame in self._container.decode(sound):
                time = end if frame.time is None else frame.time
                blocks = [_mono(each) for each in resampler.resample(frame)]
                if late is None:
                    late = round((time - _first_shown(self._path)) * self._rate)
                    if late > 0:
                        yield torch.zeros(late)
                elif _GAP < time - end <= longest:
                    # What is missing is silent, and what follows keeps its time.
                    blocks.insert(0, torch.zeros(round((time - end) * self._rate)))
                end = time + frame.samples / frame.sample_rate
                for samples in blocks:
                    skipped = min(max(-late, 0), len(samples))
                    late += skipped
                    yield samples[skipped:]
            with contextlib.suppress(FFmpegError):
                for each in resampler.resample(None):
                    yield _mono(each)
        except FFmpegError as error:
            warnings.warn(
                MediaWarning(f"{self._path}: its sound is damaged, and silent from there on ({error.strerror})"),
                stacklevel=2,
            )


def _first_shown(path: Path) -> float:
    """The stamp in seconds of the first frame that can be shown, 0 where there is none: what times count from."""
    from av.error import FFmpegError

    from longreel.data.container import open_container, video_stream

    with contextlib.suppress(MediaError, FFmpegError, IndexError), open_container(path) as container:
        stream = video_stream(path, container)
        for packet in container.demux(stream):
            with contextlib.suppress(FFmpegError):
                for frame in stream.decode(packet):
                    if not frame.is_corrupt and frame.time is not None:
                        return frame.time
    return 0.0


def _mono(frame: "AudioFrame") -> Tensor:
    """The mean of all channels."""
    return torch.from_numpy(frame.to_ndarray()).mean(0)


def open_audio(path: str | os.PathLike[str], *, rate: int, seconds: float) -> AudioClips | None:
    """Clips of `seconds` at `rate` Hz of the first audio track, one after the other; None, and one MediaWarning, without one."""
    from longreel.data.container import open_container

    source = Path(path)
    container = open_container(source)
    if not container.streams.audio:
        container.close()
        warnings.warn(MediaWarning(f"{source}: has no sound"), stacklevel=2)
        return None
    if rate < 1 or seconds <= 0:
        raise MediaError(f"clips of {seconds} s at {rate} Hz hold no sound")
    return AudioClips(container, source, rate, seconds)
