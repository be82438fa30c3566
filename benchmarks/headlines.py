"""The papers' headline settings as named configurations, each with the paper's own figure beside ours, and what differs.

    python benchmarks/headlines.py                                   every one at true size, by formula: nothing is run
    python benchmarks/headlines.py --name llama-vid-1h --run [--device cuda] [--preset 7b] [--results DIR]
    python benchmarks/headlines.py --prefill                         VoCo-LLaMA's 576 to 1 in time, measured at a few true layers

Formulas are those of `longreel plan`: FLOPs of the whole run, peak memory with the weights as a GPU holds them in bfloat16, and
the frames that fit a cap. --run starts `longreel run` on features of noise at the setting's own number of frames, under its cap
on a GPU, with random weights; the line lands in DIR/headline_runs.jsonl.
--json FILE keeps what is printed as lines; docs/benchmarks.md is made from benchmarks/results/headlines.jsonl.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from end_to_end_inputs import noise_features

from longreel.bench.tables import rate, text_table
from longreel.cli.console import NO_ROOM
from longreel.files.output import append_line
from longreel.measure.machine import describe
from longreel.models.planning import Plan, plan
from longreel.report import headline_table

GIB = 2**30


@dataclass(frozen=True)
class Headline:
    """frames: of the setting. cap: GiB that it has to fit, None where none is said. paper: its own figure, or that it has none.
    differs: what is not the same here."""

    system: str
    frames: int
    paper: str
    differs: str
    options: Mapping[str, Any] = field(default_factory=dict)
    cap: float | None = None

    def planned(self, preset: str = "7b") -> Plan:
        memory = None if self.cap is None else int(self.cap * GIB)
        return plan(self.system, preset, frames=self.frames, memory=memory, gpu=True, options=self.options)

    def command(self, source: str, preset: str, device: str) -> list[str]:
        """Of `longreel run`."""
        words = [
            "run",
            source,
            "--system",
            self.system,
            "--preset",
            preset,
            "--count",
            str(self.frames),
            "--device",
            device,
        ]
        for name, value in self.options.items():
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        if self.cap is not None and device == "cuda":
            words += ["--memory-cap", f"{self.cap:g}"]
        return words


_VID = "hours of video at 2 tokens a frame, 64K positions (demo: 30 minutes on one RTX 3090)"
_VID_DIFFERS = "frames at 1 a second, features as the released code extracts them"
_XL = "2,048 frames on one 80 GB GPU"
_XL_DIFFERS = (
    "random weights; a memory of VST keys and values, rotated once, in place of a cache that is concatenated anew"
)
_HEARD = "8 frames; positions for at most 32"

HEADLINES = {
    "llama-vid-1h": Headline("llama-vid", 3600, _VID, _VID_DIFFERS),
    "llama-vid-3h": Headline("llama-vid", 10800, _VID, _VID_DIFFERS),
    "voco-576-1": Headline(
        "voco-llama", 1, "94.8 % fewer FLOPs, 69.6 % less time than all 576 tokens",
        "ours: a question behind the cached VoCo token against all 576 tokens and the question", {"voco": 1},
    ),
    **{
        f"video-xl-{frames}-r{ratio}-{cap}": Headline("video-xl", frames, _XL, _XL_DIFFERS, {"ratio": ratio}, cap)
        for frames in (2024, 2048) for ratio in (8, 16) for cap in (80, 24)
    },
    "video-llama-8": Headline("video-llama", 8, _HEARD, "without sound"),
    "video-llama-3600": Headline(
        "video-llama", 3600, _HEARD, "without sound; frame positions interpolated from the trained 32", {"interpolate": True}
    ),
}  # fmt: skip

# Ids of a question; with them 94.8 % of the FLOPs are what 32 of 609 rows leave.
TEXT, VISION = 32, 576


def by_formula(name: str) -> dict[str, Any]:
    """A line of the table."""
    headline = HEADLINES[name]
    found = headline.planned()
    cost = found.cost
    return {
        "headline": name, "by": "formula", "system": headline.system, "frames": headline.frames, "tokens": cost.tokens,
        "positions": cost.positions, "limit": cost.limit, "flops": cost.flops, "cache_bytes": cost.cache,
        "peak_bytes": found.peak, "cap_gib": headline.cap, "fits": found.fits, "most": found.most,
        "paper": headline.paper, "differs": headline.differs,
    }  # fmt: skip


def voco_flops(text: int = TEXT) -> tuple[int, int]:
    """FLOPs of the 7B language model's layers for a question of `text` tokens behind one VoCo token, and behind all vision."""
    from longreel.models.cost import linear_flops, pair_flops
    from longreel.models.voco_llama import PRESETS

    language = PRESETS["7b"].language
    whole, each, pair = VISION + 1 + text, linear_flops(language), pair_flops(language)
    ours = each * text + pair * sum(1 + row for row in range(1, text + 1))
    return ours, each * whole + pair * (whole * (whole + 1) // 2)


@torch.inference_mode()
def prefill(layers: int, repeats: int) -> tuple[float, float]:
    """Median seconds, in turn, of a Llama of 7B's layers: a question behind one cached token, and behind 576 prefilled ones."""
    from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=layers, num_attention_heads=32, vocab_size=64,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().model
    embeds = torch.randn(1, VISION + 1 + TEXT, 4096).bfloat16()

    def cached() -> float:
        cache = DynamicCache()
        model(inputs_embeds=embeds[:, :1], past_key_values=cache)
        return timed(lambda: model(inputs_embeds=embeds[:, -TEXT:], past_key_values=cache))

    def timed(call: Any) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    cached()
    samples = [(cached(), timed(lambda: model(inputs_embeds=embeds))) for _ in range(repeats)]
    return statistics.median(a for a, _ in samples), statistics.median(b for _, b in samples)


def run(name: str, preset: str, device: str, results: Path) -> int:
    """The exit code of the run; its line, with the setting and the paper's figure, goes to `headline_runs.jsonl`."""
    headline = HEADLINES[name]
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "run.jsonl"
        source = noise_features(Path(folder), headline.system, preset, headline.frames, device)
        words = headline.command(str(source), preset, device)
        code = "from longreel.cli.main import main; main()"
        done = subprocess.run([sys.executable, "-c", code, *words, "--json", str(lines)])
        record: dict[str, Any] = json.loads(lines.read_text().splitlines()[-1]) if done.returncode == 0 else {}
    outcome = {0: "ok", NO_ROOM: "does not fit"}.get(done.returncode, "failed")
    said = {"headline": name, "paper": headline.paper, "differs": headline.differs, "outcome": outcome}
    shell = " ".join(["longreel", *words]).replace(str(source.parent) + "/", "")
    results.mkdir(parents=True, exist_ok=True)
    append_line(
        results / "headline_runs.jsonl", json.dumps(describe(torch.device(device)) | record | said | {"shell": shell})
    )
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", choices=HEADLINES, action="append", help="default: all")
    parser.add_argument("--run", action="store_true", help="run it")
    parser.add_argument("--preset", default="7b", help="of --run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/here"), help="of --run")
    parser.add_argument("--prefill", action="store_true", help="time a question behind 1 and behind 576 tokens")
    parser.add_argument("--layers", type=int, default=2, help="of --prefill")
    parser.add_argument("--repeats", type=int, default=5, help="of --prefill")
    parser.add_argument("--json", type=Path, help="append lines to this file")
    args = parser.parse_args()
    names = args.name or list(HEADLINES)
    if args.run:
        return max(run(name, args.preset, args.device, args.results) for name in names)
    if args.prefill:
        cached, whole = prefill(args.layers, args.repeats)
        said = (
            f"{TEXT} rows behind one VoCo token {cached:.3f} s, all {VISION + 1 + TEXT} rows {whole:.3f} s:"
            f" {1 - cached / whole:.1%} less time ({args.layers} of 32 layers, bf16, no tower;"
            f" {describe(torch.device('cpu'))['device']}, {torch.get_num_threads()} threads)"
        )
        lines = [{"headline": "voco-576-1", "by": "measured", "said": said}]
        print(said)
    else:
        lines = [by_formula(name) for name in names]
        ours, whole_flops = voco_flops()
        said = f"{rate(ours, 'FLOP')} for {TEXT} rows of text, {rate(whole_flops, 'FLOP')} for all rows"
        voco = next((line for line in lines if line["headline"] == "voco-576-1"), None)
        if voco is not None:
            voco["differs"] += f": {said}, {1 - ours / whole_flops:.1%} fewer"
        print("by formula, preset 7b, bfloat16 on a GPU:\n")
        print(text_table(headline_table.HEAD, headline_table.rows(lines)))
        print("\n" + "\n".join(f"- {note}" for note in headline_table.notes(lines)))
    for line in lines if args.json else ():
        append_line(args.json, json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
