"""The command line in a process of its own, forked from one that has everything imported: its end, crashes too, is seen."""

import os
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from longreel.models.llama_vid import Preset

_IMPORTED = [
    "longreel.cli.main", "longreel.models.setup", "longreel.models.llama_vid.model", "longreel.models.weights",
    "longreel.report.run_table", "longreel.parity.agreement", "transformers.models.llama.modeling_llama", "av",
]  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a command runs: what stdout is ("file", "closed", "full", "unread", or an encoding), limits in bytes, variables."""

    stdout: str = "file"
    file_size: int | None = None
    more_memory: int | None = None
    variables: tuple[tuple[str, str], ...] = ()
    stderr: str = "err.txt"


@dataclass(frozen=True)
class End:
    code: int
    out: str
    said: list[str]


def start(folder: Path, preset: Preset, arguments: Sequence[object], place: Place) -> BaseProcess:
    server = get_context("forkserver")
    server.set_forkserver_preload(_IMPORTED)
    process = server.Process(target=_run, args=(str(folder), preset, [str(one) for one in arguments], place))
    process.start()
    return process


def end(process: BaseProcess, folder: Path, seconds: float = 240) -> End:
    process.join(seconds)
    assert process.exitcode is not None, "it hangs"
    out = (folder / "out.txt").read_bytes().decode("utf-8", "replace")
    return End(process.exitcode, out, (folder / "err.txt").read_text().splitlines())


def call(folder: Path, preset: Preset, *arguments: object, place: Place = Place()) -> End:
    return end(start(folder, preset, arguments, place), folder)


class Launched:
    """Two processes under torchrun's own agent, which starts both again once, each time in folders of their own; `ended` is
    what torchrun would end with, by rank.

    group: they are in a gloo group of their own before the command begins.
    """

    def __init__(self, folder: Path, preset: Preset, arguments: Sequence[object], group: bool = False) -> None:
        get_context("forkserver").set_forkserver_preload(_IMPORTED)
        self.folder, self.ended, self._faults = folder, dict[int, int](), list[BaseException]()
        given = (str(folder), preset, [str(one) for one in arguments], group)
        self._agent = threading.Thread(target=self._launch, args=given)
        self._agent.start()

    def _launch(self, *given: object) -> None:
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=2, max_restarts=1, start_method="forkserver", run_id="none",
            rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="127.0.0.1", monitor_interval=0.1,
        )  # fmt: skip
        try:
            elastic_launch(config, _run_launched)(*given)
        except ChildFailedError as error:
            self.ended |= {rank: failure.exitcode for rank, failure in error.failures.items()}
        except BaseException as error:
            self._faults.append(error)

    def is_alive(self) -> bool:
        return self._agent.is_alive()

    def kill(self, rank: int) -> None:
        os.kill(int((self.folder / f"rank-{rank}-start-0/pid").read_text()), signal.SIGKILL)

    def join(self) -> list[str]:
        """What the two printed after they were started again."""
        self._agent.join(240)
        assert not self.is_alive(), "it hangs"
        assert self._faults == []
        return [(self.folder / f"rank-{rank}-start-1/out.txt").read_text() for rank in range(2)]


def _run_launched(folder: str, preset: Preset, arguments: list[str], group: bool) -> None:
    here = Path(folder, f"rank-{os.environ['RANK']}-start-{os.environ['TORCHELASTIC_RESTART_COUNT']}")
    here.mkdir()
    (here / "pid").write_text(str(os.getpid()))
    if group:
        import torch.distributed as dist

        dist.init_process_group("gloo")
    try:
        _run(str(here), preset, arguments, Place())
    except SystemExit as end:
        # The agent waits for what a function gives.
        if end.code:
            raise


def _run(folder: str, preset: Preset, arguments: list[str], place: Place) -> None:
    os.environ.update(place.variables)
    import torch

    from longreel.cli.main import main
    from longreel.models.llama_vid import PRESETS

    # As in a terminal, also where the tests run in the background or under nohup.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    torch.set_num_threads(1)
    PRESETS[preset.name] = preset
    _redirect("out.txt" if place.stdout != "full" else "/dev/full", 1, Path(folder))
    _redirect("err.txt", 2, Path(folder))
    _redirect(place.stderr, 2, Path(folder))
    Path(folder, "out.txt").touch()
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if place.stdout == "unread":
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(reader)
    known = place.stdout in ("file", "full", "unread", "closed")
    sys.stdout = open(1, "w", encoding="utf-8" if known else place.stdout, closefd=False)  # noqa: SIM115
    if place.stdout == "closed":
        os.close(1)
        sys.stdout = None  # type: ignore[assignment]
    if place.file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (place.file_size, resource.RLIM_INFINITY))
    if place.more_memory is not None:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + place.more_memory, resource.RLIM_INFINITY))
    sys.argv = ["longreel", *arguments]
    main()


def _redirect(name: str, number: int, folder: Path) -> None:
    handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, number)
    os.close(handle)
