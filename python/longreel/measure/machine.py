"""What a figure was measured on: a flat record that travels with every result."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch

from longreel import _native

Record = dict[str, str | int | float | None]


def describe(device: torch.device) -> Record:
    """Device, versions, threads, source revision, date and the load that was there before the run."""
    from longreel._version import __version__

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "cpu_isa": cpu_isa(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "longreel": __version__,
        "git": revision(Path(__file__)),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


class Neighbours:
    """How much of the machine other processes took since this was made."""

    def __init__(self) -> None:
        self._start = _cpu_seconds()

    def share(self) -> float | None:
        """Their part of all cores' time, 0 to 1; None where the system does not say."""
        now = _cpu_seconds()
        if now is None or self._start is None:
            return None
        total, busy, own = (after - before for after, before in zip(now, self._start, strict=True))
        return min(1.0, max(0.0, busy - own) / total) if total > 0 else 0.0


def _cpu_seconds() -> tuple[float, float, float] | None:
    """(time of all cores, their busy time, this process's own) since boot."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal
    ticks = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:9]]
    per_second, own = os.sysconf("SC_CLK_TCK"), os.times()
    return sum(ticks) / per_second, (sum(ticks) - ticks[3] - ticks[4]) / per_second, own.user + own.system


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def last_level_cache() -> int | None:
    """Bytes of the CPU's largest cache, None where the system does not say."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    found = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    sizes = [int(text[:-1]) * units[text[-1]] for text in found if text[-1:] in units]
    return max(sizes, default=None)


def cpu_isa() -> str:
    """The instruction set our kernels take here; without them, the one that torch takes."""
    isas = _native.cpu_isas()
    return os.environ.get("LONGREEL_CPU_ISA") or (isas[-1] if isas else torch.backends.cpu.get_cpu_capability().lower())


def multiplies_bf16() -> bool:
    """Whether this CPU has instructions that multiply bfloat16, which torch uses."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16"))


def revision(source: Path) -> str | None:
    """Commit of the checkout that holds `source`, "+" when the tree differs; None where git does not know it."""

    def git(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(source.parent), *args], capture_output=True, text=True, timeout=10)

    try:
        if git("ls-files", "--error-unmatch", source.name).returncode:
            return None
        head = git("rev-parse", "--short=12", "HEAD")
        if head.returncode:
            return None
        return head.stdout.strip() + ("+" if git("status", "--porcelain", "-uno").stdout.strip() else "")
    except (OSError, subprocess.TimeoutExpired):
        return None
