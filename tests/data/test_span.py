"""A span of the frames: those of the whole, whatever is decoded for it."""

from pathlib import Path

import pytest
import torch
from encoded import Encode, bars, numbers

from longreel.data import FeatureStream, FeatureWriter, frames
from longreel.data import segments as segments_of

SPANS = [(0, 7), (7, 7), (7, 30), (30, None), (39, None), (45, None), (0, None)]


@pytest.mark.parametrize("span", SPANS, ids=str)
@pytest.mark.parametrize("name", ["a.mp4", "reordered.mp4", "a.mkv"])
@pytest.mark.parametrize("spec", ["fps:10", "uniform:40", "keys"])
def test_of_a_video(encode: Encode, name: str, spec: str, span: tuple[int, int | None]) -> None:
    path = encode(name, frames=100, make=bars, coder={"bf": "2" if name == "reordered.mp4" else "0"})
    with frames(path, spec, chunk=4) as stream:
        whole = [
            (number, time)
            for chunk in stream
            for number, time in zip(numbers(chunk.pixels), chunk.times.tolist(), strict=True)
        ]
    assert len(whole) == (10 if spec == "keys" else 40)
    with frames(path, spec, chunk=4) as stream:
        stream.only(*span)
        part = [
            (number, time)
            for chunk in stream
            for number, time in zip(numbers(chunk.pixels), chunk.times.tolist(), strict=True)
        ]
    assert part == whole[slice(*span)]


def test_what_is_not_needed_is_not_decoded(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode("a.mp4", frames=100, make=bars, coder={"bf": "0"})
    planned, plan = [], segments_of.plan

    def noted(*given, **named):  # type: ignore[no-untyped-def]
        planned.append(plan(*given, **named))
        return planned[-1]

    monkeypatch.setattr(segments_of, "plan", noted)
    with frames(path, "fps:10", workers=1) as stream:
        stream.only(16, 20)
        assert numbers(torch.cat([chunk.pixels for chunk in stream])) == [40, 42, 45, 47]
    # Groups of ten pictures: the one of pictures 40 to 49, and what may be shown late of those beside it.
    (segments,) = planned
    assert segments is not None
    assert 0 < sum(((one.end or 100 * 512) - one.begin) for one in segments) < 60 * 512


def test_of_a_feature_file(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    with FeatureWriter(path, 2, 3, torch.float32, {}) as writer:
        writer.add(torch.arange(10.0)[:, None, None].expand(10, 2, 3), torch.arange(10).double())
    for first, stop in ((0, 4), (4, 9), (9, None), (3, 3), (12, None)):
        with FeatureStream(path, chunk=3) as stream:
            stream.only(first, stop)
            found = [int(value) for chunk in stream for value in chunk.features[:, 0, 0]]
            assert found == list(range(10))[first:stop]
