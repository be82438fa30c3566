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
from longreel.data.errors import MediaError, MediaWarning, check_room

if TYPE_CHECKING:
    from av import AudioFrame
    from av.container import InputContainer

# Seconds between one block of samples and the next that are no rounding of stamps.
_GAP = 0.05


class Clips(NamedTuple):
    """samples [A, n] float32 in -1 .. 1; times [A] float64, where each begins, in seconds since the first frame."""

    samples: Tensor
    times: Tensor


class AudioBlocks(Iterator[Tensor]):
    """Samples [channels, n] float32 in -1 .. 1, block by block, from the first frame of the video on.

    Holes are silent, and what follows keeps its time; damage ends the sound with one MediaWarning.
    """

    def __init__(self, container: "InputContainer", path: Path, rate: int) -> None:
        self._container, self._path, self._rate = container, path, rate
        self._sound = container.streams.audio[0]
        self._first = _first_shown(path)
        self._blocks = self._decode()

    def __next__(self) -> Tensor:
        return next(self._blocks)

    def close(self) -> None:
        self._container.close()

    def length(self) -> int:
        """Samples to come, by the header, else by the stamps of the packets, which are counted; nothing is decoded."""
        end, base, first = self._sound.duration, self._sound.time_base, self._sound.start_time or 0
        if base is None:
            return 0
        seconds = (first + end) * base if end else _end_by_packets(self._path)
        return max(0, round((float(seconds) - self._first) * self._rate))

    def _decode(self) -> Iterator[Tensor]:
        from av import AudioResampler
        from av.error import FFmpegError

        from longreel.data.container import Flags

        breaks = Flags.ts_discont in Flags(self._container.format.flags)
        longest = GAP_OF_A_BREAKING_CLOCK if breaks else LONGEST_STILL
        resampler, late, end = AudioResampler("fltp", rate=self._rate), None, 0.0
        try:
            for frame in self._container.decode(self._sound):
                time = end if frame.time is None else frame.time
                blocks = [_samples(each) for each in resampler.resample(frame)]
                channels = frame.layout.nb_channels
                if late is None:
                    late = round((time - self._first) * self._rate)
                    if late > 0:
                        yield torch.zeros(channels, late)
                elif _GAP < time - end <= longest:
                    # What is missing is silent, and what follows keeps its time.
                    blocks.insert(0, torch.zeros(channels, round((time - end) * self._rate)))
                end = time + frame.samples / frame.sample_rate
                for samples in blocks:
                    skipped = min(max(-late, 0), samples.shape[1])
                    late += skipped
                    yield samples[:, skipped:]
            with contextlib.suppress(FFmpegError):
                for each in resampler.resample(None):
                    yield _samples(each)
        except FFmpegError as error:
            check_room(error)
            warnings.warn(
                MediaWarning(f"{self._path}: its sound is damaged, and silent from there on ({error.strerror})"),
                stacklevel=2,
            )


class AudioClips:
    """What `open_audio` returns. The last clip is filled with silence; damage ends the sound with one MediaWarning."""

    def __init__(self, blocks: AudioBlocks, rate: int, seconds: float) -> None:
        self._blocks, self._seconds = blocks, seconds
        self._size, self._given, self._ended = round(rate * seconds), 0, False
        self._held = torch.empty(0)

    def until(self, time: float) -> Clips:
        """The clips not given before that begin at `time` or earlier."""
        parts, first = list[Tensor](), self._given
        while self._given * self._seconds <= time and (clip := self._next()) is not None:
            parts.append(clip)
            self._given += 1
        samples = torch.stack(parts) if parts else torch.empty(0, self._size)
        return Clips(samples, torch.arange(first, self._given, dtype=torch.float64) * self._seconds)

    def close(self) -> None:
        self._blocks.close()

    def _next(self) -> Tensor | None:
        while not self._ended and len(self._held) < self._size:
            block = next(self._blocks, None)
            self._ended = block is None
            # The mean of all channels.
            self._held = self._held if block is None else torch.cat([self._held, block.mean(0)])
        if not len(self._held):
            return None
        clip = torch.zeros(self._size)
        part = self._held[: self._size]
        clip[: len(part)], self._held = part, self._held[self._size :]
        return clip


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


def _end_by_packets(path: Path) -> float:
    """Where the first audio track ends, in seconds of its own clock."""
    from longreel.data.container import open_container

    with open_container(path) as container:
        ends = (
            float((packet.pts + (packet.duration or 0)) * packet.time_base)
            for packet in container.demux(container.streams.audio[0])
            if packet.pts is not None
        )
        return max(ends, default=0.0)


def _samples(frame: "AudioFrame") -> Tensor:
    return torch.from_numpy(frame.to_ndarray())


def open_blocks(path: str | os.PathLike[str], *, rate: int) -> AudioBlocks | None:
    """All channels of the first audio track at `rate` Hz; None, and one MediaWarning, without one."""
    from longreel.data.container import open_container

    source = Path(path)
    if rate < 1:
        raise MediaError(f"a rate of {rate} Hz holds no sound")
    container = open_container(source)
    if not container.streams.audio:
        container.close()
        warnings.warn(MediaWarning(f"{source}: has no sound"), stacklevel=2)
        return None
    return AudioBlocks(container, source, rate)


def open_audio(path: str | os.PathLike[str], *, rate: int, seconds: float) -> AudioClips | None:
    """Clips of `seconds` at `rate` Hz of the first audio track, one after the other; None, and one MediaWarning, without one."""
    if seconds <= 0:
        raise MediaError(f"clips of {seconds} s at {rate} Hz hold no sound")
    blocks = open_blocks(path, rate=rate)
    return None if blocks is None else AudioClips(blocks, rate, seconds)
