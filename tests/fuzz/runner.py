"""Mutated inputs in processes of their own, forked from one that has everything imported: a crash, a hang and memory that grows
are seen, with the number of the input."""

import os
import random
import resource
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

# Seconds of the processor's for one input; of a process that waits for something, as seconds on the clock, as many more as a
# machine that is shared may need.
HANGS_AFTER, WAITS_AFTER = 20.0, 120.0
_MORE_MEMORY = 4 << 30
_IMPORTED = ["targets", "longreel.models.setup", "longreel.cache", "transformers.models.llama.modeling_llama"]


@dataclass(frozen=True)
class Result:
    """taken: inputs that were accepted; refused: those with one line. faults: a line each."""

    taken: int
    refused: int
    faults: list[str]


def run(
    target: str, folder: Path, seed: int, count: int, hangs_after: float = HANGS_AFTER, waits_after: float = WAITS_AFTER
) -> Result:
    server = get_context("forkserver")
    server.set_forkserver_preload(_IMPORTED)
    log, first, faults = folder / "log.txt", 0, list[str]()
    log.touch()
    while first < count:
        process = server.Process(target=_work, args=(target, str(folder), seed, first, count))
        process.start()
        at, since, spent, began = log.stat().st_size, time.monotonic(), 0.0, False
        while process.exitcode is None:
            process.join(0.2)
            reached, now = log.stat().st_size, _cpu_seconds(process.pid)
            if reached != at:
                at, since, spent, began = reached, time.monotonic(), now, True
            # What the target imports and makes first takes its time.
            longer = 1 if began else 10
            if now - spent > longer * hangs_after or time.monotonic() - since > longer * waits_after:
                process.kill()
                process.join()
        assert began, f"{target} takes no input at all"
        done = sum(line[:1] in "+-!" for line in log.read_text().splitlines())
        if done < count:
            faults.append(f"{target} {seed} {done}: ended with {process.exitcode}")
            with log.open("a") as file:
                file.write("!\n")
        first = done + 1
    lines = log.read_text().splitlines()
    faults += [line[1:] for line in lines if line.startswith("!") and len(line) > 1]
    return Result(sum(line == "+" for line in lines), sum(line == "-" for line in lines), faults)


def _work(target: str, folder: str, seed: int, first: int, count: int) -> None:
    import torch
    from planted import planted
    from targets import ALLOWED, TARGETS

    from longreel.measure.memory import no_room

    torch.set_num_threads(1)
    place = Path(folder, f"from-{first}")
    place.mkdir()
    take = (TARGETS | {"planted": planted})[target](place)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MORE_MEMORY, resource.RLIM_INFINITY))
    with Path(folder, "log.txt").open("a", buffering=1) as log:
        log.write("made\n")
        for number in range(first, count):
            name = f"{target} {seed} {number}"
            try:
                take(random.Random(name))
                said = "+"
            except ALLOWED as error:
                long = "\n" in str(error) or len(str(error)) > 1000
                said = f"!{name}: more than a line: {str(error)[:300]!r}" if long else "-"
                if no_room(error) is not None:
                    said = f"!{name}: takes more than 4 GiB in {_where(error)}"
            except BaseException as error:
                said = f"!{name}: {type(error).__name__}: {str(error)[:300]!r} in {_where(error)}"
            log.write(said + "\n")


def _cpu_seconds(process: int | None) -> float:
    """Of all its threads; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _where(error: BaseException) -> str:
    trace, places = error.__traceback__, list[str]()
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " ".join(places[-4:])


if __name__ == "__main__":
    import tempfile

    sys.path.insert(0, str(Path(__file__).parent))
    for name in sys.argv[3:]:
        with tempfile.TemporaryDirectory() as scratch:
            result = run(name, Path(scratch), int(sys.argv[1]), int(sys.argv[2]))
        print(name, result.taken, "taken", result.refused, "refused", *result.faults, sep="\n  ")
