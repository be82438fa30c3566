"""What a file is, by its bytes and not its name: a still picture, a picture that moves, or a video."""

import itertools
import re
from enum import Enum
from pathlib import Path

import av
from PIL import Image, UnidentifiedImageError

from longreel.data.container import open_container
from longreel.data.errors import MediaError

# What Pillow reads; anything else is asked of FFmpeg.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF", "JPEG2000", "AVIF")
# What Pillow plays. GIFs are FFmpeg's, which is quicker.
_MOVING = ("WEBP", "PNG", "AVIF")
HEIF_STILLS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"avif")
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class Kind(Enum):
    """Stills are frames by their place, whatever the spec; the others have a clock."""

    STILL = "still"
    FFMPEG_STILL = "still that FFmpeg reads"
    ANIMATION = "animation"
    VIDEO = "video"


def kind(path: Path) -> Kind:
    """A damaged file keeps the kind that its first bytes tell; reading it says what is wrong."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            moves = image.format != "MPO" and getattr(image, "is_animated", False)
            if image.format == "GIF":
                return Kind.VIDEO if moves else Kind.STILL
            if moves and image.format in _MOVING:
                return Kind.ANIMATION
            return Kind.VIDEO if _goes_on(path, image.format) else Kind.STILL
    except UnidentifiedImageError:
        return _asked_of_ffmpeg(path)
    except Exception:
        # Pillow's readers fail in many ways on damaged bytes.
        return Kind.STILL


def is_heif(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in HEIF_STILLS


def _asked_of_ffmpeg(path: Path) -> Kind:
    if is_heif(path):
        return Kind.FFMPEG_STILL
    try:
        with open_container(path) as container:
            one = container.format.name.endswith("_pipe") and not _holds_two(container)
    except MediaError:
        return Kind.VIDEO
    return Kind.FFMPEG_STILL if one else Kind.VIDEO


def _holds_two(container: av.container.InputContainer) -> bool:
    whole = (packet for packet in container.demux(video=0) if packet.size)
    try:
        return len(list(itertools.islice(whole, 2))) == 2
    except av.error.FFmpegError:
        return False


def _goes_on(path: Path, name: str | None) -> bool:
    """Whether another picture follows right behind the first, as in a camera's stream."""
    if name == "PPM":
        with open_container(path) as container:
            return _holds_two(container)
    if name not in ("JPEG", "PNG"):
        return False
    data = path.read_bytes()
    end = _jpeg_end(data) if name == "JPEG" else _png_end(data)
    return end is not None and data[end : end + 4096].lstrip(b"\0")[:3] == data[:3]


def _jpeg_end(data: bytes) -> int | None:
    """Behind the end-of-image marker of the first picture; a preview within its headers is skipped with them."""
    place = 2
    while (match := _MARKER.search(data, place)) is not None:
        code, place = data[match.start() + 1], match.end()
        if code == 0xD9:
            return place
        if code != 0x01:
            place += int.from_bytes(data[place : place + 2], "big")
    return None


def _png_end(data: bytes) -> int | None:
    place = 8
    while place + 12 <= len(data):
        name = data[place + 4 : place + 8]
        place += 12 + int.from_bytes(data[place : place + 4], "big")
        if name == b"IEND":
            return place
    return None
