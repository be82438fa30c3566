"""The one writer: whole under its name or not at all, whatever ends it; what was left of a name is removed, no other file is."""

import ast
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from longreel.files.output import OutputFile, OutputFolder, append_line, remove_unfinished, write_text

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("older")
    with OutputFile(path) as out:
        out.file.write(b"newer")
        assert path.read_text() == "older"
        assert len(names(tmp_path)) == 2
    assert path.read_text() == "newer"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path: Path, end: type[BaseException]) -> None:
    def fail() -> None:
        with OutputFile(tmp_path / "a.txt") as out:
            out.file.write(b"half")
            raise end

    with pytest.raises(end):
        fail()
    assert names(tmp_path) == []


@pytest.mark.parametrize("moment", ["_lock", "OutputFile.__enter__"])
def test_an_end_before_its_with_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    def end(*given: object, **named: object) -> None:
        assert len([*tmp_path.iterdir()]) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(f"longreel.files.output.{moment}", end)
    with pytest.raises(KeyboardInterrupt), OutputFile(tmp_path / "a"):
        pass
    remove_unfinished()
    assert [*tmp_path.iterdir()] == []


def test_a_forked_child_leaves_it(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "a") as out:
        child = os.fork()
        if not child:
            remove_unfinished()
            os._exit(0)
        os.waitpid(child, 0)
        assert out.part.exists()
    assert [*tmp_path.iterdir()] == [tmp_path / "a"]


def test_rights_are_the_users(tmp_path: Path) -> None:
    """As of any new file; those of a file that is there stay."""
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    (tmp_path / "new").chmod(0o600)
    write_text(tmp_path / "new", "y")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/a")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "disk/a").read_text() == "x"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.slow
def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    """And nothing else: a run that still writes, and files of the user's, stay."""
    code = (
        "import sys; from longreel.files.output import OutputFile; out = OutputFile(sys.argv[1]);"
        "print(out.part, flush=True); sys.stdin.read()"
    )
    path = tmp_path / "a.bin"
    killed = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert killed.stdout is not None
    part = Path(killed.stdout.readline().decode().strip())
    mine = [".a.bin-notes.part", "a.bin.part", ".b.bin-0a1b2c3d.part", ".a.bin-0a1b2c3d.part.old"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    with OutputFile(path):
        assert part.exists()
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert part.exists()
    write_text(path, "x")
    assert names(tmp_path) == sorted(["a.bin", *mine])


def test_two_writers_of_one_name(tmp_path: Path) -> None:
    path, both = tmp_path / "a.txt", threading.Barrier(2)

    def write(letter: str) -> None:
        both.wait()
        for _ in range(50):
            write_text(path, letter * 5000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in ("a" * 5000, "b" * 5000)
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "make",
    [
        lambda tmp: tmp / "none" / "a.txt",
        lambda tmp: tmp,
        lambda tmp: Path("/proc/a.txt"),
        lambda tmp: Path("/dev/full"),
        lambda tmp: tmp / ("n" * 300),
    ],
    ids=["no folder", "a folder", "read-only", "a device", "a name too long"],
)
def test_where_nothing_can_be_written(tmp_path: Path, make: object) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    with pytest.raises(OSError, match="cannot be written") as refused:
        OutputFile(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert names(tmp_path) == []


def test_a_name_of_the_longest_kind(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 250), "x")
    assert names(tmp_path) == ["n" * 250]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    def fill() -> None:
        with OutputFile(tmp_path / "a.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\).*a\.txt"):
        fill()
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\).*full"):
        append_line("/dev/full", "x")


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    with pytest.raises(OSError, match="cannot be written"):
        append_line(tmp_path / "p", "x")
    reader = os.open(tmp_path / "p", os.O_RDONLY | os.O_NONBLOCK)
    append_line(tmp_path / "p", "x")
    assert os.read(reader, 9) == b"x\n"
    os.close(reader)


def test_an_error_of_another_file_is_not_ours(tmp_path: Path) -> None:
    def read() -> None:
        with OutputFile(tmp_path / "a.txt"):
            (tmp_path / "none").read_text()

    with pytest.raises(FileNotFoundError, match="none"):
        read()


def test_lines_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_line(path, "one")
    with path.open("a") as file:
        file.write("half of a li")
    threads = [threading.Thread(target=append_line, args=(path, letter * 9000)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, half, *rest = path.read_text().split("\n")
    assert (first, half) == ("one", "half of a li")
    assert sorted(rest) == ["", *(letter * 9000 for letter in "abcd")]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with OutputFolder(tmp_path / "a") as out:
        write_text(out.part / "one", "x")
        assert [*(tmp_path / "a").iterdir()] == []
    assert names(tmp_path / "a") == ["one"]
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt])
def test_of_a_folder_an_exception_leaves_nothing(tmp_path: Path, end: type[BaseException]) -> None:
    (tmp_path / ".a.part").mkdir()  # somebody's own

    def fail() -> None:
        with OutputFolder(tmp_path / "a") as out:
            write_text(out.part / "one", "x")
            raise end

    with pytest.raises(end):
        fail()
    assert names(tmp_path) == [".a.part"]


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "mine")

    def over() -> None:
        with OutputFolder(tmp_path / "a"):
            pass

    with pytest.raises(OSError, match="cannot be written") as refused:
        over()
    assert str(tmp_path / "a") in str(refused.value)
    assert names(tmp_path) == ["a"]


@pytest.mark.slow
def test_of_a_folder_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import sys; from longreel.files.output import OutputFolder; out = OutputFolder(sys.argv[1]);"
        "(out.part / 'x').mkdir(); print(flush=True); sys.stdin.read()"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "a"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert killed.stdout is not None
    killed.stdout.readline()
    with OutputFolder(tmp_path / "a"):
        # The other still writes, as this one does.
        assert len(names(tmp_path)) == 2
    (tmp_path / "a").rmdir()
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert len(names(tmp_path)) == 1
    with OutputFolder(tmp_path / "a"):
        pass
    assert names(tmp_path) == ["a"]


def writers(path: Path) -> list[str]:
    """Calls of a file that open one to write it, by themselves."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = [
            str(a.value) for a in (*node.args[:2], *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)
        ]
        writes = name == "open" and any(word[:1] in "wax" and len(word) <= 3 for word in words if word)
        if writes or name in ("write_text", "write_bytes", "save_file", "mkstemp", "NamedTemporaryFile"):
            own = isinstance(node.func, ast.Name) and name == "write_text"
            found += [] if own else [f"{path.relative_to(ROOT)}:{node.lineno}: {name}"]
    return found


def test_there_is_no_other_writer() -> None:
    files = [*ROOT.glob("python/longreel/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    found = [line for path in files for line in writers(path) if path.name != "output.py"]
    allowed = (
        "python/longreel/cli/streams.py", "python/longreel/measure/memory.py",
        # The name of a thread, which the system takes as a file.
        "python/longreel/measure/cpu.py",
        # Written through the one writer's `part`, or into a folder of their own that goes with the run.
        "python/longreel/data/clips.py", "benchmarks/end_to_end_inputs.py", "benchmarks/soak.py",
    )  # fmt: skip
    assert [line for line in found if not line.startswith(allowed)] == []
