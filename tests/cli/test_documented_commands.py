"""What README and docs/ tell a user to type, typed: the lines of a page in a row, on a clip of two seconds and small presets."""

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

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
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integrations"))
import tiny_vlms
from test_docs import IDS, PAGES, ROOT, commands


class Elsewhere(NamedTuple):
    """Why a line is not typed here, and what holds it: a test, a file that a test reads, or the target of a workflow."""

    why: str
    held: str


SCRIPTS = "tests/bench/test_scripts.py"
LEFT_OUT = {
    r"longreel bench --compare": Elsewhere("files of two runs", "tests/bench/test_compared.py"),
    r"longreel bench --op .*--features": Elsewhere("peers of 257 patches", "tests/bench/test_feature_case.py"),
    r"longreel bench": Elsewhere("minutes at the sizes that are printed", "tests/bench/test_cases.py"),
    r"longreel report": Elsewhere("a folder of results", "tests/bench/test_result_page.py"),
    r"longreel profile": Elsewhere("a process a frame count", "tests/cli/test_profile.py"),
    r"longreel convert": Elsewhere("a released folder", "tests/models/test_convert.py"),
    r"longreel parity": Elsewhere("a model, or a function that makes one", "tests/parity/test_whole.py"),
    r"--checkpoint DIR": Elsewhere("released weights, 13 GB", "tests/models/test_released_folders.py"),
    r"--preset needle": Elsewhere("its own clip, of which a frame is asked", "tests/models/test_needle_preset.py"),
    r"python benchmarks/end_to_end\.py": Elsewhere("minutes", "tests/bench/test_end_to_end.py"),
    r"python benchmarks/headlines\.py": Elsewhere("minutes", "tests/bench/test_headlines.py"),
    r"python benchmarks/vst_step\.py": Elsewhere("minutes", "tests/bench/test_vst_step.py"),
    r"python benchmarks/executed_flops\.py": Elsewhere("half a minute", "tests/ops/test_executed_flops.py"),
    r"python benchmarks/hour\.py": Elsewhere("an hour of video; what it runs is run", "tests/cli/test_run.py"),
    r"python benchmarks/sweep_(models|towers)\.py": Elsewhere("minutes", "tests/integrations/test_sweep.py"),
    r"python benchmarks/sweep_blocks\.py": Elsewhere("what it judges", "tests/integrations/test_block_vlms.py"),
    r"python benchmarks/sweep_connectors\.py": Elsewhere("a part of the page", "tests/integrations/test_sweep.py"),
    r"python benchmarks/token_generation\.py": Elsewhere(
        "minutes; figures are made from its lines", "benchmarks/results"
    ),
    r"python benchmarks/": Elsewhere("minutes at the sizes that are printed", SCRIPTS),
    r"pytest benchmarks": Elsewhere("the same entries as longreel bench", "tests/bench/test_cases.py"),
    r"python -m longreel\.bench\.suite": Elsewhere("its budget, 5 minutes", "tests/measure/test_time_left.py"),
    r"python -m longreel\.parity\.golden": Elsewhere("stored files", "tests/models/test_golden.py"),
    r"python -m longreel\.parity MODULE": Elsewhere("a function that makes a model", "tests/parity/test_patched.py"),
    r"make figures": Elsewhere("what it writes is compared", "tests/bench/test_results_page.py"),
    r"make demo": Elsewhere("an hour of video; its parts are run", "tests/cli/test_run.py"),
    r"make wheel|python \.ci/wheel": Elsewhere("downloads torch twice", ".github/workflows/nightly.yml"),
    r"make (test|lint)": Elsewhere("it is what runs this", ".ci/run"),
    r"make check": Elsewhere("lint, and a part of the tests", ".ci/run"),
    r"make docs": Elsewhere("downloads mkdocs", ".github/workflows/tests.yml"),
    r"make (fuzz|sanitize)": Elsewhere("minutes", ".github/workflows/nightly.yml"),
    r"make matrix": Elsewhere("downloads torch and transformers", ".github/workflows/tests.yml"),
    r"python tests/budgets/update\.py": Elsewhere("compiles for minutes", "tests/ops/test_triton_aot.py"),
    r"make soak": Elsewhere("an hour", SCRIPTS),
    r"make gpu|python \.ci/gpu": Elsewhere("a card", "tests/packaging/test_gpu_command.py"),
    r"python \.ci/release": Elsewhere("it tags", "tests/packaging/test_habits.py"),
    r"pip install|uv pip": Elsewhere("an environment of its own", "tests/packaging/test_setup.py"),
    r"pre-commit install": Elsewhere("downloads its hooks", "tests/packaging/test_habits.py"),
}
FILES = {
    "VIDEO": "clip.mp4", "CLIP": "clip.mp4", "IMAGE": "picture.png", "PICTURE": "picture.png", "DIR": "CLIPS",
    "hour.safetensors": "F.safetensors", "NAME": "llama-vid", "S": "voco-llama", "F": "K.safetensors",
    "FOLDER": "Qwen2.5-VL-7B-Instruct",
}  # fmt: skip


def left_out(line: str) -> bool:
    return any(re.search(pattern, line) for pattern in LEFT_OUT)


def mentioned(words: list[str]) -> bool:
    """A command's name without what it takes, or the beginning of a message."""
    return (words[0] == "longreel" and (len(words) == 2 or words[1] == "needs")) or words[0] == "torchrun"


def typed(page: Path) -> list[list[str]]:
    if page.name == "CHANGELOG.md":
        # what was new, not what is typed
        return []
    lines = [words for words in commands(page) if not mentioned(words) and not left_out(shlex.join(words))]
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
    (tmp_path / ".cache").mkdir()
    hours = (".cache/bikes-3600s.mp4", ".cache/bigbuckbunny-3600s-sound.mp4")
    for name in ("clip.mp4", "CLIPS/a.mp4", "CLIPS/b.mp4", *hours):
        (tmp_path / name).symlink_to(video)
    Image.new("RGB", (64, 48), "gray").save(tmp_path / "picture.png")
    model, _ = tiny_vlms.made(tiny_vlms.qwen2_5_vl)
    model.save_pretrained(tmp_path / "Qwen2.5-VL-7B-Instruct")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_place")
@pytest.mark.parametrize("page", [page for page in PAGES if typed(page)], ids=lambda page: page.stem)
def test_every_line(page: Path) -> None:
    for words in typed(page):
        result = call(*words)
        assert result.exit_code == 0, (shlex.join(words), result.output[-600:])


def test_nothing_else_is_left_out() -> None:
    lines = [shlex.join(words) for page in PAGES for words in commands(page) if not mentioned(words)]
    assert {line for line in lines if not line.startswith("longreel ") and not left_out(line)} == set()
    assert {pattern for pattern in LEFT_OUT if not any(re.search(pattern, line) for line in lines)} == set()
    assert [where for _, where in LEFT_OUT.values() if not (ROOT / where).exists()] == []
    pages = {name: len(typed(page)) for name, page in zip(IDS, PAGES, strict=True)}
    assert sum(pages.values()) >= 40
    assert min(pages[f"docs/{name}.md"] for name in ("quickstart", "run", "scale_out", "video_llama", "video_xl")) >= 2


def test_every_script_that_pages_name_is_held() -> None:
    """By a row of its own here, or by a run in small."""
    held = (ROOT / SCRIPTS).read_text()
    named = {words[1] for page in PAGES for words in commands(page) if words[1:] and words[1].startswith("benchmarks/")}
    for script in named:
        first = next(elsewhere for pattern, elsewhere in LEFT_OUT.items() if re.search(pattern, f"python {script}"))
        assert first.held != SCRIPTS or f'"{script[len("benchmarks/") : -len(".py")]}"' in held, script
