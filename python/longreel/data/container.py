"""A video file as PyAV opens it: its picture stream, and how long it is."""

import contextlib
from fractions import Fraction
from pathlib import Path

import av

from longreel.data.errors import MediaError
from longreel.data.geometry import MAX_PIXELS

# Only local files: a playlist must not make us open a network address.
_CONTAINER_OPTIONS = {"protocol_whitelist": "file"}


def open_container(path: Path) -> av.container.InputContainer:
    """MediaError for anything that is not a video or an image."""
    try:
        container = av.open(str(path), options=_CONTAINER_OPTIONS, metadata_errors="replace")
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: not a video or image that can be read ({error.strerror or error})") from None
    if container.format.name == "tty":
        container.close()
        raise MediaError(f"{path}: not a video or image that can be read (a text file)")
    return container


def video_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The first stream of moving pictures, decoded by FFmpeg's threads; MediaError where there is none."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        others = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise MediaError(f"{path}: no video stream (it holds {others})")
    stream = streams[0]
    if stream.codec_context is None:
        raise MediaError(f"{path}: its video codec is not supported")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.thread_type = "AUTO"
    return stream


def header_duration(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction | None:
    """Seconds of video by the header, None where it does not say."""
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    # A container's duration covers its longest stream; it is the video's where that is the only one. Matroska counts
    # it from zero.
    if container.duration and len(container.streams) == 1:
        from_zero = "matroska" in container.format.name
        return Fraction(container.duration - (container.start_time or 0) * from_zero, av.time_base)
    return None


def scan_duration(path: Path, interval: Fraction) -> Fraction:
    """From undecoded packets: last minus first timestamp plus one frame; without timestamps, frames times interval."""
    stamps: list[Fraction] = []
    packets = 0
    with open_container(path) as container, contextlib.suppress(av.error.FFmpegError, IndexError):
        stream = video_stream(path, container)
        for packet in container.demux(stream):
            packets += packet.size > 0
            if packet.pts is not None and packet.time_base:
                stamp = packet.pts * packet.time_base
                stamps = [min(stamps[0], stamp), max(stamps[1], stamp)] if stamps else [stamp, stamp]
    return stamps[1] - stamps[0] + interval if stamps else max(packets, 1) * interval
