"""However a command ends, nothing is half-written and one line says why: signals, streams, full disks, memory."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from forked import Place, call, end, start
from rich.console import Console

from longreel.cli.console import progress
from longreel.cli.ends import Ended, ended_by_signals
from longreel.files.output import OutputFile
from longreel.models.inputs import feature_writer
from longreel.models.llama_vid import Preset


@pytest.fixture(autouse=True)
def signals_of_a_terminal() -> Iterator[None]:
    """Also where the tests run in the background or under nohup, which ignore some."""
    numbers = [
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGXCPU,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
    ]
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def features(tmp_path: Path, small: Preset) -> Path:
    path = tmp_path / "in.safetensors"
    with feature_writer(path, "llama-vid", small, {"kind": "video"}, num_prefix_tokens=0) as writer:
        writer.add(torch.randn(6, small.tower.patches, small.tower.width), torch.arange(6.0))
    return path


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        (signal.SIGHUP, 129, "ended by SIGHUP"),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_an_interrupted_extract_leaves_nothing(
    tmp_path: Path, small: Preset, clip: Path, number: int, code: int, said: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    options = ["--preset", "tiny", "--frames", "fps:1000", "--chunk", 2, "--out", out / "a.safetensors"]
    process = start(tmp_path, small, ["extract", clip, *options], Place())
    deadline = time.monotonic() + 240
    while not list(out.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.002)  # a fast machine writes the whole file in a third of a second
    assert process.pid is not None
    os.kill(process.pid, number)
    ended = end(process, tmp_path)
    assert (ended.code, ended.said) == (code, [said]), "\n".join(ended.said)
    assert list(out.iterdir()) == []


@pytest.mark.fast
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU", "SIGUSR1", "SIGUSR2", "SIGALRM"])
def test_a_signal_ends_as_an_exception_does(tmp_path: Path, name: str) -> None:
    """Those that batch systems send before they kill too."""
    number = getattr(signal, name)
    before = signal.getsignal(number)

    def work() -> None:
        with ended_by_signals(), OutputFile(tmp_path / "a.txt"):
            os.kill(os.getpid(), number)
            # Sent to the process, and taken by this thread a moment later.
            time.sleep(5)

    with pytest.raises(Ended) as ended:
        work()
    assert ended.value.code == 128 + number
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == before


@pytest.mark.fast
@pytest.mark.parametrize(("name", "raised"), [("SIGINT", KeyboardInterrupt), ("SIGTERM", Ended)])
def test_a_signal_that_a_library_swallowed_ends_with_the_next_frame(name: str, raised: type[BaseException]) -> None:
    frames = list[int]()

    def work() -> None:
        with ended_by_signals(), progress(Console(stderr=True), 9) as told:
            for frame in range(9):
                told(frame)
                frames.append(frame)
                if frame == 3:
                    with contextlib.suppress(BaseException), ended_by_signals():
                        os.kill(os.getpid(), getattr(signal, name))
                        time.sleep(5)

    with pytest.raises(raised):
        work()
    assert frames == [0, 1, 2, 3]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with ended_by_signals(), progress(Console(stderr=True), 9) as told:
        told(1)


@pytest.mark.parametrize(
    ("stdout", "code", "said"),
    [
        ("ascii", 0, []),
        ("closed", 0, []),
        ("full", 2, ["longreel: [Errno 28] No space left on device"]),
        ("unread", 1, []),
    ],
)
def test_the_result_is_not_lost_to_stdout(
    tmp_path: Path, small: Preset, features: Path, stdout: str, code: int, said: list[str]
) -> None:
    lines = tmp_path / "run.jsonl"
    question = ["--question", "Où est le café, 日本?"]
    run = ["run", features, "--preset", small.name, "--json", lines, *question]
    ended = call(tmp_path, small, *run, place=Place(stdout))
    assert (ended.code, ended.said) == (code, said)
    assert json.loads(lines.read_text())["frames"] == 6
    if stdout == "ascii":
        assert "6 frames in" in ended.out
        assert r"O\xf9 est le caf\xe9, \u65e5\u672c?" in ended.out
        assert ended.out.isascii()


def test_a_full_disk_is_one_line(tmp_path: Path, small: Preset, clip: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    extract = ["extract", clip, "--preset", small.name, "--frames", "fps:50", "--out", out / "a.safetensors"]
    ended = call(tmp_path, small, *extract, place=Place(file_size=20_000))
    assert ended.code == 2
    assert len(ended.said) == 1
    assert "cannot be written (File too large)" in ended.said[0]
    assert "a.safetensors" in ended.said[0]
    assert list(out.iterdir()) == []


def test_a_run_that_does_not_fit_is_one_line(tmp_path: Path, small: Preset, clip: Path) -> None:
    """As on a GPU: exit code 3."""
    ended = call(tmp_path, small, "run", clip, "--preset", "7b", place=Place(more_memory=1 << 28))
    assert ended.code == 3, ended
    assert len(ended.said) == 1
    assert ended.said[0].startswith("longreel: out of memory")


def test_instructions_that_are_not_there(tmp_path: Path, small: Preset, features: Path) -> None:
    place = Place(variables=(("LONGREEL_CPU_ISA", "abacus"),))
    ended = call(tmp_path, small, "run", features, "--preset", small.name, place=place)
    assert (ended.code, len(ended.said)) == (2, 1), ended.said
    assert "LONGREEL_CPU_ISA=abacus cannot run here; available: " in ended.said[0]


def test_a_mistake_that_cannot_be_said(tmp_path: Path, small: Preset) -> None:
    """Nowhere: the exit code is the same."""
    assert call(tmp_path, small, "run", tmp_path / "none", place=Place(stderr="/dev/full")).code == 2


@pytest.mark.parametrize("megabytes", [5, 20, 60, 120, 135])
def test_wherever_memory_ends(tmp_path: Path, small: Preset, clip: Path, megabytes: int) -> None:
    """While something is imported, while threads begin, while a decoder opens, in a model: none is damage of the file's."""
    place = Place(more_memory=megabytes << 20)
    given = ["--preset", "tiny", "--frames", "uniform:64", "--dtype", "float32"]
    ended = call(tmp_path, small, "run", clip, *given, place=place)
    assert ended.code == 3, ended
    assert len(ended.said) == 1
    assert "memory" in ended.said[0]


def test_it_begins_without_modules_of_unix() -> None:
    code = "import sys; sys.modules.update(resource=None, fcntl=None); import longreel.cli.main, longreel.models.setup"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
