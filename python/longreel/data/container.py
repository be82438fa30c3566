"""A video file as PyAV opens it: its picture stream, how its clock ticks, and how long its header says it is."""

import contextlib
import mmap
import os
import re
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from longreel.data.clock import PacketClock, Timing
from longreel.data.errors import MediaError
from longreel.data.geometry import MAX_PIXELS
from longreel.measure.cpu import note_threads

# Playlists, scripts and numbered pictures name other files, and what is no picture is none of ours: neither opens.
_NEVER_OPENED = frozenset((
    "concat", "dash", "fbdev", "ffmetadata", "hls", "image2", "image2pipe", "imf", "kmsgrab", "lavfi", "rtp", "rtsp",
    "sap", "sdp", "tty", "video4linux2", "v4l2",
))  # fmt: skip
_FORMATS = ",".join(sorted(
    name for names in av.formats_available for name in names.split(",") if name not in _NEVER_OPENED
))  # fmt: skip
# Containers whose header counts from zero and not from the first packet.
_FROM_ZERO = ("matroska", "flv")
_THEORA_HEADER = 0x80
_FLV_HEADER = re.compile(rb"FLV\x01[\x00-\x05]\x00\x00\x00\x09")
_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")
_READ_SEGMENTS = 2
_FALLBACK_RATE = Fraction(25)
# How far behind the decoding time of the last frame in the index a header's end may be: seconds, or frames.
_CLOSE = 1
_REORDERED = 20

Disposition, Flags = av.stream.Disposition, av.format.Flags
# Streams that are no video of their own: covers, previews, tiles of a larger picture.
_ASIDE = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent | Disposition.still_image


def open_container(path: Path) -> av.container.InputContainer:
    """MediaError for anything that is not a video or an image. The path is that of a local file, whatever its name."""
    # Only local files: a file must not make us open a network address.
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    # The ending of a name helps with streams of bare pictures, and is no more than a hint. A percent sign is not the
    # place of a number.
    opened = None if "%" in path.name else _open(f"file:{path}", options)
    if not isinstance(opened, av.container.InputContainer):
        nameless = _open(_Nameless(path), options)
        opened = nameless if isinstance(nameless, av.container.InputContainer) else opened or nameless
    if not isinstance(opened, av.container.InputContainer):
        raise MediaError(f"{path}: not a video or image that can be read ({opened})")
    return opened


@contextlib.contextmanager
def reading(path: Path) -> Iterator[av.container.InputContainer]:
    """As `open_container`, closed behind the block; what its threads spent is noted before they end."""
    with open_container(path) as container:
        try:
            yield container
        finally:
            note_threads()


def _open(source: Any, options: dict[str, str]) -> av.container.InputContainer | str:
    """The container, or why not."""
    try:
        return av.open(source, "r", options=options, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)


class _Nameless:
    """A file whose name FFmpeg does not read; closed with its last reference, as containers keep no other."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)

    def read(self, size: int) -> bytes:
        return os.read(self._file, size)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._file, place, whence)

    def tell(self) -> int:
        return self.seek(0, os.SEEK_CUR)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            os.close(self._file)


def video_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The stream of moving pictures that the file marks as default, else the first; MediaError where there is none."""
    videos = container.streams.video
    streams = [stream for stream in videos if not stream.disposition & _ASIDE]
    if not streams:
        kinds = {"a cover picture" if stream in videos else stream.type for stream in container.streams}
        raise MediaError(f"{path}: no video stream (it holds {', '.join(sorted(kinds)) or 'nothing'})")
    stream = next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])
    if stream.codec_context is None:
        raise MediaError(f"{path}: its video codec is not supported")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.thread_type = "AUTO"
    if stream.codec_context.name == "h264" and stream.codec_context.has_b_frames:
        # A picture that another thread is still at does not say yet that it is damaged, so that what is shown would be chance.
        stream.codec_context.thread_count = 1
    return stream


def timing(container: av.container.InputContainer, stream: av.VideoStream) -> Timing:
    """How the stream's clock ticks."""
    base = stream.time_base or Fraction(1, av.time_base)
    flags = Flags(container.format.flags)
    # A stream without a container says its rate itself; the average is a guess there.
    bare = Flags.no_timestamps in flags and stream.duration is None
    rate = (stream.guessed_rate if bare else None) or stream.average_rate or stream.guessed_rate or _FALLBACK_RATE
    interval = max(int(1 / Fraction(rate) / base), 1)
    return Timing(
        base,
        interval,
        Flags.ts_discont in flags,
        container.format.name == "avi",
        bool(stream.codec_context.has_b_frames),
    )


def header_end(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction | None:
    """Where the video ends by the header, on its own clock in seconds; None where it does not say. A hint, no more."""
    base = stream.time_base
    if stream.duration and base:
        return (stream.start_time or 0) * base + stream.duration * base
    # A container's duration covers its longest stream; it is the video's where that is the only one.
    if container.duration and len(container.streams) == 1:
        from_zero = any(name in container.format.name for name in _FROM_ZERO)
        return Fraction(container.duration + (0 if from_zero else container.start_time or 0), av.time_base)
    return None


def lists_every_frame(stream: av.VideoStream) -> bool:
    """Whether the file's index names every frame: what it says of the length is what is there."""
    return bool(stream.frames) and len(stream.index_entries) == stream.frames


def end_by_index(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> Fraction | None:
    """The end where header and index agree on it, else None: the packets have to be counted."""
    end = header_end(container, stream)
    if end is None or not stream.time_base or not lists_every_frame(stream):
        return None
    entries = stream.index_entries
    last = entries[-1].timestamp * stream.time_base
    if not last < end <= last + max(Fraction(_CLOSE), _REORDERED / (stream.average_rate or 25)):
        return None
    # They are decoding times: of reordered pictures the last ones may stay for longer.
    return max(end, _end_of_last_group(path)) if stream.codec_context.has_b_frames else end


def _end_of_last_group(path: Path) -> Fraction:
    """Where the packets from the last key frame on end, by their presentation times; 0 where they have none.

    How long each lasts is said in the order decoded: only of the last one it is said of nothing else.
    """
    shown, lasts = 0, 0
    with open_container(path) as container, contextlib.suppress(av.error.FFmpegError, IndexError):
        stream = video_stream(path, container)
        last = max(entry.timestamp for entry in stream.index_entries if entry.is_keyframe)
        container.seek(last, stream=stream, backward=True)
        for packet in container.demux(stream):
            if packet.pts is not None and not packet.is_discard:
                shown, lasts = max(shown, packet.pts), packet.duration or 0
    return (shown + lasts) * (stream.time_base or Fraction(0))


def packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The stream's packets as the file gives them, without the headers that a joined recording repeats."""
    headers = stream.codec_context.name == "theora"
    try:
        for packet in container.demux(stream):
            if not (headers and packet.size and bytes(packet)[0] & _THEORA_HEADER):
                yield packet
    except IndexError:
        # PyAV flushes every stream at the end, and trips over one that the header did not announce.
        pass


def ends_early(path: Path, container: av.container.InputContainer) -> bool:
    """Whether a second recording stands behind the end of the first, where FFmpeg does not go."""
    if "mp4" in container.format.name:
        return _boxes(path).count(b"moov") > 1
    if "matroska" in container.format.name:
        # One that follows is read, none behind it.
        return _segments(path) > _READ_SEGMENTS
    if container.format.name != "flv":
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _FLV_HEADER.search(data, 9) is not None


def _boxes(path: Path) -> list[bytes]:
    """Names of the boxes that an MP4 file is made of."""
    place, names = 0, list[bytes]()
    with path.open("rb") as file:
        while len(head := file.read(16)) >= 8:
            size, name = struct.unpack_from(">I4s", head)
            names.append(name)
            if size == 1 and len(head) == 16:
                size = int.from_bytes(head[8:], "big")
            if size < 8:
                break
            place += size
            file.seek(place)
    return names


def _segments(path: Path) -> int:
    """How many recordings of known size stand one after the other in a Matroska file."""
    count, place = 0, 0
    with path.open("rb") as file:
        while len(head := file.read(12)) == 12 and head[:4] in (_EBML, _SEGMENT):
            width = 9 - head[4].bit_length()
            size = int.from_bytes(head[4 : 4 + width], "big") & ~(1 << 7 * width)
            count += head[:4] == _SEGMENT
            if size == (1 << 7 * width) - 1:
                break
            place += 4 + width + size
            file.seek(place)
    return count


class Span:
    """What all packets of a file say of its length, read without decoding, on the clock that decoding uses."""

    def __init__(self, path: Path) -> None:
        with open_container(path) as container, contextlib.suppress(av.error.FFmpegError):
            stream = video_stream(path, container)
            ticks = timing(container, stream)
            clock = PacketClock(packets(container, stream), ticks)
            with contextlib.suppress(av.error.FFmpegError):
                for _ in clock:
                    clock.times.clear()
            self._clock, self._base = clock, ticks.base

    def length(self, origin: int | None) -> Fraction:
        """Seconds from the frame stamped `origin` to the end; None: from the first packet."""
        clock = self._clock
        if clock.first is None:
            return clock.lead * self._base
        return (clock.end - clock.first + clock.lead if origin is None else clock.end - origin) * self._base
