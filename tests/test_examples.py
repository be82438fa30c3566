"""The scripts of examples/ run, and say what they should; README's first snippet is one of them."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from longreel import use_layout

sys.path.insert(0, str(Path(__file__).resolve().parent / "patching"))
from repositories import llama_vid

ROOT = Path(__file__).resolve().parent.parent


def ran(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_every_script_is_run_here() -> None:
    text = Path(__file__).read_text()
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")}
    # but for the one that takes a video
    assert {name for name in scripts if f'"{name}"' not in text} | {"live_memory"} == {"live_memory"}
    assert len(scripts) > 5


def test_readmes_first_snippet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert snippet is not None
    assert snippet[1] == (ROOT / "examples/compress_video.py").read_text()
    assert ran("compress_video", monkeypatch, capsys) == "54 tokens become 18\ntorch.Size([1, 22])\n"


@pytest.mark.parametrize("name", ["own_vlm", "training_step"])
def test_losses_fall(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    losses = [float(x) for x in re.findall(r"loss ([\d.]+)", ran(name, monkeypatch, capsys))]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_a_model_of_transformers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = ran("transformers_model", monkeypatch, capsys)
    assert "1 of 1 modules patched" in out
    assert float(out.split()[-1]) < 1e-5


def test_a_model_of_transformers_without_a_patch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ran("without_a_patch", monkeypatch, capsys).splitlines()
    assert [line.split(":")[0] for line in lines] == ["causal", "VoCo"]
    assert all(len(re.findall(r"\d+", line)) == 4 for line in lines)


def test_a_saved_memory_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ran("saved_memory", monkeypatch, capsys, str(tmp_path / "m.safetensors"))
    assert out.startswith("30 frames in ")
    answers = re.findall(r"(\d) - it was (\d)$", out, re.MULTILINE)
    assert len(answers) == 3
    assert all(said == digit for said, digit in answers)


def test_llama_vids_repository(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def load_pretrained_model(
        model_path: str, model_base: Any, model_name: str, load_8bit: bool = False, load_4bit: bool = False
    ) -> tuple[Any, ...]:
        assert (model_path, model_base, model_name) == ("work/llama-vid-7b", None, "llama-vid-7b")
        return None, llama_vid()[0], None, 2048

    for name in ("llamavid", "llamavid.model", "llamavid.model.builder"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(
        sys.modules["llamavid.model.builder"], "load_pretrained_model", load_pretrained_model, raising=False
    )
    out = ran("llama_vid_repository", monkeypatch, capsys, "work/llama-vid-7b")
    assert "3 of 3 modules patched" in out
    assert "120 tokens of 40 for 60 frames; by its own methods: nothing" in out


def losses_of_two_processes(name: str) -> list[float]:
    """What examples/<name>.py prints under torchrun."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", ROOT / f"examples/{name}.py"]
    ran = subprocess.run([sys.executable, *launch], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return [float(loss) for loss in re.findall(r"step \d: loss ([\d.]+)", ran.stdout)]


def test_weights_sharded_over_two_processes() -> None:
    """Two steps: the losses of a whole model that takes both processes' clips at once."""
    example = runpy.run_path(str(ROOT / "examples/sharded_training.py"), run_name="sharded_training")
    torch.manual_seed(0)
    clips, ids = example["drawn"](), example["text"]("cpu")
    model, layout = example["SmallVlm"](24), example["layout_of"](4).to("cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    whole = []
    for both in (clips[:2], clips[2:]):
        with use_layout(layout):
            loss = torch.stack([model(clip["features"][None], ids) for clip in both]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        whole.append(loss.item())
    assert losses_of_two_processes("sharded_training") == pytest.approx(whole, rel=1e-5)
    assert whole[0] != pytest.approx(whole[1], rel=1e-3)


def test_a_sequence_shared_by_two_processes() -> None:
    """Two steps: the losses of one process that has the whole sequence."""
    example = runpy.run_path(str(ROOT / "examples/context_parallel.py"), run_name="context_parallel")
    model, (layout, ids, places) = example["decoder"](), example["sample"]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    whole = []
    for _ in range(2):
        with use_layout(layout):
            logits = model(input_ids=ids, position_ids=places).logits
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        whole.append(loss.item())
    assert losses_of_two_processes("context_parallel") == pytest.approx(whole, rel=1e-5)
    assert whole[0] != pytest.approx(whole[1], rel=1e-3)
