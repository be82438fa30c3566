"""What README and docs/ tell a user to type, typed: the lines of a page in a row, on a clip of two seconds and small presets."""

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from encoded import Encode
from PIL import Image
from test_run import call
from test_run_video_llama import SMALL as VIDEO_LLAMA
from test_run_video_xl import SMALL as VIDEO_XL
from test_run_voco import SMALL as VOCO

from longreel.models import llama_vid, video_llama, video_xl, voco_llama
from longreel.models.llama_vid import Preset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_docs import IDS, PAGES, commands

# What is not typed, and why.
LEFT_OUT = {
    r"longreel bench|longreel report": "minutes at the sizes that are printed; tests/bench runs it on small ones",
    r"python |make ": "minutes; its name and options are looked up by tests/test_docs.py",
    r"--checkpoint DIR": "released weights; tests/models/test_released_folders.py has folders of them",
    r"longreel compress ": "a model's folder; tests/cli/test_compress.py makes some",
    r"\.cache/|hour\.safetensors": "an hour of video, which `make demo` makes",
    r"longreel run cached\.safetensors": "what a run on that hour leaves",
    r"--preset needle": "trained weights; tests/models/test_needle_preset.py",
    r"--compare": "every path; tests/cli/test_run.py, test_run_voco.py, test_run_video_xl.py",
    r"longreel plan .*--hours": "seconds of search; tests/cli/test_plan.py",
    r"video-llama --question": "two answers; tests/cli/test_run_video_llama.py",
    r"longreel profile": "a process a frame count; tests/cli/test_profile.py",
}
FILES = {"VIDEO": "clip.mp4", "CLIP": "clip.mp4", "IMAGE": "picture.png", "PICTURE": "picture.png", "DIR": "CLIPS"}


def left_out(line: str) -> bool:
    return any(re.search(pattern, line) for pattern in LEFT_OUT)


def typed(page: Path) -> list[list[str]]:
    lines = [words for words in commands(page) if not left_out(shlex.join(words))]
    return [
        [FILES.get(word, "what?" if word == "..." else word) for word in words[1:] if word not in ("[IMAGE", "...]")]
        for words in lines
    ]


@pytest.fixture
def _place(tmp_path: Path, encode: Encode, small: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with what the commands name, and small presets under the name of the default one."""
    # Enough tokens a frame for a ratio of 8.
    xl = replace(VIDEO_XL, tower=replace(VIDEO_XL.tower, image=112), window=48)
    for module, preset in ((llama_vid, small), (voco_llama, VOCO), (video_xl, xl), (video_llama, VIDEO_LLAMA)):
        monkeypatch.setitem(module.PRESETS, "tiny", replace(preset, name="tiny"))
    video = encode("typed.mp4", audio=True)
    (tmp_path / "CLIPS").mkdir()
    for name in ("clip.mp4", "CLIPS/a.mp4", "CLIPS/b.mp4"):
        (tmp_path / name).symlink_to(video)
    Image.new("RGB", (64, 48), "gray").save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_place")
@pytest.mark.parametrize("page", [page for page in PAGES if typed(page)], ids=lambda page: page.stem)
def test_every_line(page: Path) -> None:
    for words in typed(page):
        result = call(*words)
        assert result.exit_code == 0, (shlex.join(words), result.output[-600:])


def test_nothing_else_is_left_out() -> None:
    lines = [shlex.join(words) for page in PAGES for words in commands(page)]
    assert {pattern for pattern in LEFT_OUT if not any(re.search(pattern, line) for line in lines)} == set()
    pages = {name: len(typed(page)) for name, page in zip(IDS, PAGES, strict=True)}
    assert sum(pages.values()) >= 24
    assert min(pages[f"docs/{name}.md"] for name in ("quickstart", "run", "scale_out", "video_llama", "video_xl")) >= 2
