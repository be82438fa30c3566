"""VideoMemory of every system that keeps one: what a run gives, whenever it is asked, within its cap."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_stages import LANGUAGE, TOWER
from test_video_xl import TINY as XL
from torch import Tensor

from longreel.models import VideoMemory, video_xl, voco_llama
from longreel.models.system import LiveSession
from longreel.models.video_xl.presets import qwen2

VOCO = voco_llama.VoCoPreset(name=XL.name, tower=TOWER, language=LANGUAGE)
OPTIONS: dict[str, dict[str, Any]] = {"voco-llama": {"voco": 2}, "video-xl": {"ratio": 2}}
each_system = pytest.mark.parametrize("system", OPTIONS)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(video_xl.PRESETS, XL.name, XL)
    monkeypatch.setitem(voco_llama.PRESETS, VOCO.name, VOCO)


def made(system: str, **given: Any) -> VideoMemory:
    return VideoMemory(system, XL.name, options=OPTIONS[system], **given)


def frames(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 56, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


@each_system
def test_asked_in_between_and_saved(tmp_path: Path, system: str) -> None:
    """Five frames in one go, or one by one with questions and files in between: the same answers."""
    video, whole, live = frames(5), made(system), made(system)
    with pytest.raises(ValueError, match="the memory is empty"):
        live.ask("why?")
    whole.append(video)
    for i in range(5):
        live.append(video[i : i + 1])
        live.ask("what?", tokens=3)
        live.save(tmp_path / f"{i}.safetensors")
    said = [memory.ask(text, tokens=6).ids for memory in (whole, live) for text in ("why?", "what is it?")]
    assert said[:2] == said[2:]
    assert whole.nbytes == live.nbytes
    part = made(system)
    part.append(video[:4])
    loaded = VideoMemory.load(tmp_path / "3.safetensors")
    assert (loaded.frames, loaded.ask("why?").ids) == (4, part.ask("why?").ids)


def test_a_video_goes_on_behind_a_file(tmp_path: Path) -> None:
    """At the end of a window: behind it the file's memory and the first one are the same."""
    video, memory = frames(6), made("video-xl")
    memory.append(video[:3])
    memory.save(tmp_path / "m.safetensors")
    loaded = VideoMemory.load(tmp_path / "m.safetensors")
    for one in (memory, loaded):
        one.append(video[3:])
    assert loaded.ask("why?") == memory.ask("why?")
    assert (loaded.frames, loaded.nbytes) == (6, memory.nbytes)


@each_system
def test_the_cap_is_hard(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is refused whole, and leaves the memory as it was; text has its share."""
    monkeypatch.setattr(LiveSession, "TEXT", 40)
    size = (XL if system == "video-xl" else VOCO).language
    each = 2 * size.layers * size.kv_heads * size.head * 4
    # The prefix stays with Video-XL's memory, and with the first frame of VoCo-LLaMA's it goes.
    cap = (1 + 12 + 40 if system == "video-xl" else 12 + 40) * each
    memory, free = made(system, max_bytes=cap), made(system)
    for some in (frames(5), frames(1)):
        memory.append(some)
        free.append(some)
    answer = memory.ask("why?")
    assert answer == free.ask("why?")
    before = memory.nbytes
    for more in (3, 4):
        with pytest.raises(MemoryError):
            memory.append(frames(more))
        assert (memory.frames, memory.nbytes) == (6, before)
        assert memory.ask("why?") == answer


def test_refused(tmp_path: Path) -> None:
    from longreel.data import MediaError

    with pytest.raises(ValueError, match=r"an option of .*, this run is llama-vid"):
        VideoMemory("llama-vid")
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(MediaError, match="no saved memory"):
        VideoMemory.load(tmp_path / "x.safetensors")
    memory = made("video-xl")
    memory.append(frames(1))
    memory.save(tmp_path / "m.safetensors")
    changed = {XL.name: video_xl.VideoXLPreset(**{**_fields(XL), "language": _wider()})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(video_xl.PRESETS, XL.name, changed[XL.name])
        with pytest.raises(MediaError, match="made with language"):
            VideoMemory.load(tmp_path / "m.safetensors")


def _fields(preset: Any) -> dict[str, Any]:
    return {name: getattr(preset, name) for name in preset.__dataclass_fields__}


def _wider() -> Any:
    return qwen2(width=32, layers=2, heads=4, kv_heads=2, mlp=48, vocabulary=260, positions=512)
