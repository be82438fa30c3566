"""The Python of docs/ without prompts, run as it stands: on tiny models under the names that a page gives its own."""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_vlms
import torch
import torch.distributed as dist
from torch.utils.data import DistributedSampler
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import longreel
from longreel.data import FeatureWriter
from longreel.models import video_llama, video_xl

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))
from test_run_video_llama import SMALL as VIDEO_LLAMA
from test_run_video_xl import SMALL as VIDEO_XL

ROOT = Path(__file__).resolve().parents[2]
SIZE = {
    "vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "pad_token_id": 0, "eos_token_id": None,
}  # fmt: skip
# Run by a test of its own, on a video and its planted frame.
ELSEWHERE = {"compress_video.md": "tests/integrations/test_compression_quality.py"}


def blocks(page: Path) -> list[str]:
    """Python that is meant to be copied: a block with prompts is a doctest's."""
    found = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for block in found if not block.startswith(">>>")]


def from_pretrained(kind: Any, config: Any) -> Any:
    """A class whose from_pretrained(...) makes a tiny model with the keywords that the page has."""
    return SimpleNamespace(from_pretrained=lambda _, **given: kind._from_config(config, **given).eval())


def llama(**given: Any) -> Any:
    return LlamaForCausalLM._from_config(LlamaConfig(**SIZE), attn_implementation="longreel", **given).eval()


def existing_vlms(_: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    kind, config, _ = tiny_vlms.llava_next_video()
    return [
        {
            "AutoModelForCausalLM": from_pretrained(LlamaForCausalLM, LlamaConfig(**SIZE)),
            "AutoModelForImageTextToText": from_pretrained(kind, config),
        }
    ]


def patch(_: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    return [{"longreel": longreel, "model": tiny_vlms.made(tiny_vlms.instructblip_video)[0]}]


def qformer(_: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    small = partial(longreel.nn.QFormerConfig, hidden_size=768, num_hidden_layers=2, intermediate_size=32)
    return [{"longreel": longreel, "QFormerConfig": small, "query_tokens": torch.randn(1, 32, 768),
             "features": torch.randn(3, 257, 1408)}]  # fmt: skip


def scale_out(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    Path("SHARDS").mkdir()
    for name in ("a", "b"):
        with FeatureWriter(Path(f"SHARDS/{name}.mp4.safetensors"), 3, 4, torch.bfloat16, {}) as writer:
            writer.add(torch.zeros(20, 3, 4).bfloat16(), torch.arange(20).double(), {})
    monkeypatch.setattr("torch.utils.data.DistributedSampler", partial(DistributedSampler, num_replicas=1, rank=0))
    layout = longreel.VideoLayout.voco(frames=2, vision=4, voco=1, text=6)
    rows = torch.arange(layout.length).flip(0)
    shared = {
        "longreel": longreel, "model": llama(), "layout": layout, "rows": rows, "group": dist.group.WORLD,
        "ids": torch.ones(1, layout.length, dtype=torch.long), "positions": torch.arange(layout.length)[None],
    }  # fmt: skip
    return [{}, shared]


def of_video_llama(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setitem(video_llama.PRESETS, "tiny", VIDEO_LLAMA)
    image = VIDEO_LLAMA.tower.image
    return [
        {"pixels": torch.zeros(3, image, image, 3, dtype=torch.uint8), "waveform": torch.zeros(1, 3 * 16000)}
    ]  # fmt: skip


def of_video_xl(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    # Enough tokens a frame for a ratio of 8.
    small = replace(VIDEO_XL, tower=replace(VIDEO_XL.tower, image=112), window=48)
    monkeypatch.setitem(video_xl.PRESETS, "tiny", small)
    ids = torch.tensor([[1, video_xl.IMAGE, 5, 6]])
    return [
        {
            "Qwen2ForCausalLM": from_pretrained(Qwen2ForCausalLM, Qwen2Config(**SIZE, num_key_value_heads=2)),
            "visual_tokens": torch.randn(200, 32), "question": torch.tensor([5, 6]), "ids": ids, "labels": ids.clone(),
            "pictures": torch.randn(1, 144, 32),
        },
        {"frames": torch.zeros(3, 112, 112, 3, dtype=torch.uint8)},
    ]  # fmt: skip


def voco_llama(_: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    rows = longreel.VideoLayout.voco(frames=1, prefix=1, vision=576, separator=2, voco=2, text=60).length
    labels = torch.randint(3, 100, (1, rows))
    return [
        {
            "LlamaForCausalLM": from_pretrained(LlamaForCausalLM, LlamaConfig(**SIZE)),
            "embeds": torch.randn(1, rows, 32), "labels": labels, "mask": torch.ones_like(labels),
        },
        {
            "language": llama(), "features": torch.randn(1, 576, 32), "frames": torch.randn(2, 576, 32),
            "question": torch.tensor([5, 6]), "longer_question": torch.tensor([5, 6, 7]),
        },
    ]  # fmt: skip


SET_UP: dict[str, Callable[[pytest.MonkeyPatch], list[dict[str, Any]]]] = {
    "existing_vlms.md": existing_vlms, "patch.md": patch, "qformer.md": qformer, "scale_out.md": scale_out,
    "video_llama.md": of_video_llama, "video_xl.md": of_video_xl, "voco_llama.md": voco_llama,
}  # fmt: skip
# What stands for more of the same on a page, and is no Python.
WRITTEN = {
    ", ...]": "]", "load_state_dict(...)": "load_state_dict(qformer.state_dict())", "num_workers=4": "num_workers=0",
    "max_new_tokens=32": "max_new_tokens=2",
}  # fmt: skip


@pytest.fixture
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    longreel.unregister_patch_mapping()


def run(block: str, names: dict[str, Any]) -> None:
    for there, instead in WRITTEN.items():
        block = block.replace(there, instead)
    exec(compile(block, "docs", "exec"), names)


@pytest.mark.usefixtures("_place")
@pytest.mark.parametrize("page", SET_UP)
def test_the_python_of_a_page(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for block, names in zip(blocks(ROOT / "docs" / page), SET_UP[page](monkeypatch), strict=True):
        run(block, names)


def test_no_page_is_left_out() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md") if blocks(path)}
    assert pages == {*SET_UP, *ELSEWHERE}
    assert all(page in (ROOT / held).read_text() for page, held in ELSEWHERE.items())


def test_a_name_that_is_not_there_is_found() -> None:
    with pytest.raises(TypeError, match="such"):
        run("longreel.use_layout(None, such=1).__enter__()", {"longreel": longreel})
