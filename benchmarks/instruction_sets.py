"""Ops on the instruction sets below this machine's best, against PyTorch held to the same set.

    python benchmarks/instruction_sets.py --op compress_frames --set avx2 --set avx512_bf16 -- --backward none

Each set is a process of its own, since libraries read their switches once: ours LONGREEL_CPU_ISA, ATen's ATEN_CPU_CAPABILITY,
oneDNN's ONEDNN_MAX_CPU_ISA, and MKL's MKL_ENABLE_INSTRUCTIONS, which the first two do not hold. Inside it runs
`longreel bench`, with the options behind `--`; peers and bars are those of its table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from longreel._native import cpu_isas

# ours: ATen's, oneDNN's, MKL's
SETS = {
    "avx2": ("avx2", "AVX2", "AVX2"),
    "avx512": ("avx512", "AVX512_CORE", "AVX512"),
    "avx512_bf16": ("avx512", "AVX512_CORE_BF16", "AVX512"),
    "amx_bf16": ("avx512", "DEFAULT", "AVX512"),
}


def held_to(name: str) -> dict[str, str]:
    """The environment of a process that uses this set and no later one."""
    aten, one_dnn, mkl = SETS[name]
    # The machine's own set is not named: ours chooses within it, as for a user.
    ours = "" if name == cpu_isas()[-1] else name
    held = {"LONGREEL_CPU_ISA": ours, "ATEN_CPU_CAPABILITY": aten}
    return os.environ | held | {"ONEDNN_MAX_CPU_ISA": one_dnn, "MKL_ENABLE_INSTRUCTIONS": mkl}


def measured(name: str, arguments: list[str]) -> list[dict[str, Any]]:
    """The records of one `longreel bench` under that set."""
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "records.jsonl"
        command = [sys.executable, "-m", "longreel", "bench", *arguments, "--json", str(records)]
        done = subprocess.run(command, env=held_to(name), capture_output=True, text=True)
        if not records.exists():
            raise SystemExit(f"{name}: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return [json.loads(line) for line in records.read_text().splitlines()]


def rows(name: str, records: list[dict[str, Any]]) -> list[str]:
    """A line of the table for each of our records, over each peer that was timed beside it."""
    lines = []
    for ours in (r for r in records if r["variant"] == "cpu" and r["seconds"]):
        for peer, ratio in ours["speedup_over"].items():
            quartiles = f"{ratio['median']:.2f}x ({ratio['low']:.2f}-{ratio['high']:.2f})"
            share = f"{100 * ours['share_of_roof']:.0f} % of {ours['roof']['bound']}"
            time = f"{1e3 * ours['seconds']['median']:.1f} ms"
            lines.append(
                f"| {name} | {ours['dtype']} | {ours['pass']} | {time} | {peer} | {quartiles} | {share}"
                f" | {100 * (ours['taken_by_others'] or 0):.0f} % |"
            )
        if not ours["speedup_over"]:
            lines.append(f"| {name} | {ours['dtype']} | {ours['pass']} | no peer was timed |")
    lines += [f"| {name} | {r['dtype']} | {r['variant']}: {r['why']} |" for r in records if r["why"]]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", default="compress_frames")
    parser.add_argument("--set", action="append", choices=SETS, help="default: every one that this machine runs")
    parser.add_argument("--dtype", action="append", choices=("fp32", "bf16"), help="default: both")
    parser.add_argument("--peer", action="append", help="default: strong")
    parser.add_argument("options", nargs="*", help="of `longreel bench`, behind --")
    given = parser.parse_args()
    here = [name for name in SETS if name in cpu_isas()]
    print("| set | dtype | pass | ours | peer | ratio (quartiles) | roof | others |")
    print("| --- | --- | --- | ---: | --- | ---: | --- | ---: |", flush=True)
    for name in given.set or here:
        for dtype in given.dtype or ("fp32", "bf16"):
            peers = [word for peer in given.peer or ["strong"] for word in ("--peer", peer)]
            arguments = ["--op", given.op, "--dtype", dtype, "--backend", "cpu", *peers, *given.options]
            print("\n".join(rows(name, measured(name, arguments))), flush=True)


if __name__ == "__main__":
    main()
