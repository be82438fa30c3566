"""What a run computes in: the preset's dtype by the machine, `--dtype` otherwise, and a saved memory's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_run import call, refused
from test_run_voco import SMALL as VOCO

from longreel.models import sizes, voco_llama
from longreel.models.llama_vid import PRESETS, Preset
from longreel.models.sizes import NATIVE, computed_in
from longreel.models.video_memory import VideoMemory

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def run(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    lines = tmp_path / "run.jsonl"
    result = call("run", *arguments, "--json", lines)
    assert result.exit_code == 0, result.output
    return json.loads(lines.read_text().splitlines()[-1])


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_presets_follow_the_cpu(native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "multiplies_bf16", lambda: native)
    assert PRESETS["tiny"].dtype == NATIVE
    assert computed_in(PRESETS["tiny"], CPU) == expected
    assert computed_in(PRESETS["7b"], CPU) == computed_in(PRESETS["tiny"], CUDA) == torch.bfloat16


def test_both_paths_compute_in_it(tmp_path: Path, small: Preset, clip: Path) -> None:
    given = [clip, "--preset", small.name, "--frames", "fps:5", "--compare"]
    narrow, wide = run(tmp_path, *given, "--dtype", "bfloat16"), run(tmp_path, *given)
    assert (narrow["dtype"], wide["dtype"]) == ("bfloat16", "float32")
    assert narrow["passed"]
    assert narrow["tokens_bytes"] == wide["tokens_bytes"] / 2
    out = tmp_path / "f.safetensors"
    made = call("extract", clip, "--preset", small.name, "--dtype", "bfloat16", "--out", out)
    assert "bfloat16" in made.stdout.splitlines()[0]
    assert run(tmp_path, out, "--preset", small.name)["dtype"] == "float32", "features are converted"
    for dtype in ("float16", "int8"):
        refused(call("run", clip, "--preset", small.name, "--dtype", dtype), "there is float32 or bfloat16")


def test_a_saved_memory_is_asked_in_its_own(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(voco_llama.PRESETS, VOCO.name, VOCO)
    kept, options = (
        tmp_path / "kept.safetensors",
        ["--system", "voco-llama", "--preset", VOCO.name, "--question", "why?"],
    )
    made = run(tmp_path, clip, *options, "--dtype", "bfloat16", "--save-memory", kept)
    later = run(tmp_path, kept, *options)
    assert later["dtype"] == made["dtype"] == "bfloat16"
    assert later["questions"][0]["ids"] == made["questions"][0]["ids"]
    refused(call("run", kept, *options, "--dtype", "float32"), f"--dtype float32: {kept} was made in bfloat16")
    memory = VideoMemory.load(kept)
    again = tmp_path / "again.safetensors"
    memory.save(again)
    assert run(tmp_path, again, *options)["dtype"] == "bfloat16"
