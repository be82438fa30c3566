"""What `longreel plan` says a process takes, beside what `longreel run` took: every system, preset and number of frames.

    python benchmarks/plan_memory.py VIDEO [--preset tiny --count 64 256 640] [--system video-xl] [--runs 1]

Systems that have no such preset are left out. Each run is a process of its own, from the video at a frame a second. `off`:
measured over planned, less 1. The exit code is 1 where one is off by more than 5 %.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from longreel.bench.tables import text_table
from longreel.models.registry import SYSTEMS, find

OFF = 0.05
# Without this the system refuses more than 32 frames.
MORE = {"video-llama": ["--interpolate"]}


def peak(command: str, words: list[str]) -> int:
    """Bytes, of what the command writes with --json."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "line.jsonl"
        subprocess.run(
            [sys.executable, "-m", "longreel", command, *words, "--json", out], check=True, capture_output=True
        )
        found = json.loads(out.read_text().splitlines()[-1])["peak_memory_bytes"]
        return int(found["longreel"] if isinstance(found, dict) else found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of runs, planned and measured.")
    parser.add_argument("video", type=Path)
    parser.add_argument("--system", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--count", type=int, nargs="+", default=[64, 256, 640])
    parser.add_argument("--runs", type=int, default=1, help="the median of so many is shown")
    args = parser.parse_args()
    rows, worst = [], 0.0
    for system in (name for name in args.system if args.preset in find(name).presets):
        for count in args.count:
            words = ["--system", system, "--preset", args.preset, "--count", str(count), *MORE.get(system, [])]
            said = peak("plan", [*words, "--roof", "none"])
            video = [str(args.video), "--frames", "fps:1"]
            took = statistics.median(peak("run", [*video, *words]) for _ in range(args.runs))
            worst = max(worst, abs(took / said - 1))
            rows.append(
                [system, f"{count:,}", f"{said / 2**20:,.0f}", f"{took / 2**20:,.0f}", f"{took / said - 1:+.1%}"]
            )
            print(" ".join(rows[-1]), flush=True)
    print(text_table(["system", "frames", "planned, MiB", "measured", "off"], rows))
    sys.exit(int(worst > OFF))


if __name__ == "__main__":
    main()
