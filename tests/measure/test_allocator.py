"""While figures are taken, memory that a call gives back stays with the process."""

import subprocess
import sys

import pytest
import torch

from longreel.measure.allocator import memory_reused

pytestmark = pytest.mark.fast

_FAULTS = """
import resource
import torch
from longreel.measure.allocator import memory_reused

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        b"1" * 2**26  # malloc; an aligned tensor may not fit its place again
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

default = faults()
with memory_reused(torch.device("cpu")) as how:
    b"1" * 2**26
    kept = faults()
print(default, kept, faults(), how)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's mallopt")
def test_results_take_the_same_pages_again() -> None:
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    default, reused, after, how = done.stdout.strip().split(" ", 3)
    if "mallopt" not in how:
        pytest.skip(how)
    # 4 results of 64 MiB: 65,536 pages of 4 KiB, fewer where pages are larger.
    assert int(reused) * 10 < int(default)
    assert int(reused) * 10 < int(after)


def test_a_library_in_its_place_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so.2")
    with memory_reused(torch.device("cpu")) as how:
        assert how == "as libjemalloc.so.2 gives it"
