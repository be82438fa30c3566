"""Sound in step with the frames: samples that say when they are heard."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from longreel.data import MediaWarning, frames
from longreel.data.audio import open_audio

RATE = 8000


def film(
    path: Path,
    *,
    seconds: int = 3,
    sound_at: float = 0.0,
    channels: int = 1,
    pictures_at: float = 0.0,
    hole: tuple[int, int] = (0, 0),
) -> Path:
    """Grey pictures, and sound whose samples are 1,000 in its first tenth of a second, 2,000 in the second, ...

    hole: tenths of a second of which there is no sound.
    """
    with av.open(str(path), "w") as out:
        pictures = out.add_stream("ffv1", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 16, 16, "yuv420p"
        pictures.codec_context.time_base = Fraction(1, 1000)
        sound = out.add_stream("pcm_s16le", rate=RATE, layout="mono" if channels == 1 else "stereo")
        for index in range(10 * seconds):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 128, np.uint8), "rgb24")
            frame.pts, frame.time_base = 100 * index + round(1000 * pictures_at), Fraction(1, 1000)
            out.mux(pictures.encode(frame))
        out.mux(pictures.encode(None))
        steps = np.repeat(np.arange(1, 10 * seconds + 1, dtype=np.int16) * 1000, RATE // 10)
        for tenth in range(10 * seconds):
            first = tenth * RATE // 10
            if hole[0] <= tenth < hole[1]:
                continue
            part = np.repeat(steps[first : first + RATE // 10], channels)[None]
            wave = av.AudioFrame.from_ndarray(part, "s16", "mono" if channels == 1 else "stereo")
            wave.sample_rate, wave.pts, wave.time_base = RATE, first + round(RATE * sound_at), Fraction(1, RATE)
            out.mux(sound.encode(wave))
        out.mux(sound.encode(None))
    return path


def levels(samples: torch.Tensor) -> list[list[int]]:
    """Of every tenth of a second of each clip [A, n], in thousands."""
    tenths = samples.unflatten(1, (-1, samples.shape[1] * RATE // (RATE * 5)))  # clips of half a second
    return [[round(value) for value in clip] for clip in (tenths.mean(2) * 32.768).tolist()]


def clips(path: Path, *times: float, rate: int = RATE) -> list[list[int]]:
    sound = open_audio(path, rate=rate, seconds=0.5)
    assert sound is not None
    found = list[list[int]]()
    for time in times:
        given = sound.until(time)
        assert given.times.tolist() == [0.5 * (len(found) + index) for index in range(len(given.times))]
        found += levels(given.samples)
    sound.close()
    return found


ALL = [list(range(first, first + 5)) for first in range(1, 31, 5)]


@pytest.mark.parametrize("times", [(9.0,), (0.0, 0.4, 0.5, 1.7, 1.7, 2.5, 60.0)])
@pytest.mark.parametrize("channels", [1, 2])
def test_clips_follow_each_other(tmp_path: Path, times: tuple[float, ...], channels: int) -> None:
    path = film(tmp_path / "a.mkv", channels=channels)
    assert clips(path, *times) == ALL
    assert clips(path, 0.6) == ALL[:2]


def test_another_rate(tmp_path: Path) -> None:
    found = clips(film(tmp_path / "a.mkv"), 9.0, rate=RATE // 2)
    assert np.abs(np.array(found) - np.array(ALL)).max() <= 1


def test_sound_that_begins_later_is_silent_before(tmp_path: Path) -> None:
    shifted = [0, 0, 0, *range(1, 31), 0, 0]
    assert clips(film(tmp_path / "a.mkv", sound_at=0.3), 9.0) == [shifted[i : i + 5] for i in range(0, 35, 5)]


def test_sound_before_the_first_picture_is_left_out(tmp_path: Path) -> None:
    later = [*range(4, 31), 0, 0, 0]
    assert clips(film(tmp_path / "a.mkv", pictures_at=0.3), 9.0) == [later[i : i + 5] for i in range(0, 30, 5)]


@pytest.mark.parametrize("hole", [(7, 12), (1, 2)])
def test_a_hole_is_silent_and_what_follows_keeps_its_time(tmp_path: Path, hole: tuple[int, int]) -> None:
    kept = [0 if hole[0] <= tenth < hole[1] else tenth + 1 for tenth in range(30)]
    assert clips(film(tmp_path / "a.mkv", hole=hole), 9.0) == [kept[i : i + 5] for i in range(0, 30, 5)]
    early = [*kept[3:], 0, 0, 0]
    path = film(tmp_path / "b.mkv", hole=hole, pictures_at=0.3)
    assert clips(path, 9.0) == [early[i : i + 5] for i in range(0, 30, 5)]


def test_sound_counts_from_the_first_picture_that_can_be_shown(tmp_path: Path) -> None:
    """A recording cut between key frames: white from 2 s on, and loud from there."""
    path = tmp_path / "a.ts"
    with av.open(str(path), "w") as out:
        pictures, sound = out.add_stream("mpeg2video", rate=25), out.add_stream("mp2", rate=16000, layout="mono")
        pictures.width, pictures.height, pictures.pix_fmt, pictures.gop_size = 64, 48, "yuv420p", 25
        for index in range(75):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 235 if index >= 50 else 20, np.uint8), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(pictures.encode(frame))
            wave = av.AudioFrame.from_ndarray(np.full((1, 640), 16000 * (index >= 50), np.int16), "s16", "mono")
            wave.sample_rate, wave.pts, wave.time_base = 16000, 640 * index, Fraction(1, 16000)
            out.mux(sound.encode(wave))
        out.mux(pictures.encode(None))
        out.mux(sound.encode(None))
    data = path.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    # All but the tables at the start, up to some way into the first second.
    path.write_bytes(b"".join(packets[:3] + packets[len(packets) // 6 :]))
    (pixels, times), *_ = frames(path, "fps:25")
    white = times[(pixels.float().mean((1, 2, 3)) > 128).nonzero()[0, 0]].item()
    assert white == pytest.approx(1.0, abs=0.01)
    heard = open_audio(path, rate=16000, seconds=0.5)
    assert heard is not None
    loud = (heard.until(9.0).samples.flatten() > 0.25).nonzero()[0, 0].item() / 16000
    assert loud == pytest.approx(white, abs=0.05)


def test_no_sound_is_said_once(clip: Path) -> None:
    with pytest.warns(MediaWarning, match="has no sound"):
        assert open_audio(clip, rate=RATE, seconds=0.5) is None
