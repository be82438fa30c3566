"""What a figure was measured on: a flat record that travels with every result."""

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch

from longreel import _native

Record = dict[str, str | int | float | None]


def describe(device: torch.device) -> Record:
    """Device, versions, threads, source revision, date and the load that was there before the run."""
    from longreel import __version__

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "cpu_isa": cpu_isa(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "longreel": __version__,
        "git": revision(Path(__file__)),
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def cpu_isa() -> str:
    """The instruction set our kernels take here; without them, the one that torch takes."""
    isas = _native.cpu_isas()
    return os.environ.get("LONGREEL_CPU_ISA") or (isas[-1] if isas else torch.backends.cpu.get_cpu_capability().lower())


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
