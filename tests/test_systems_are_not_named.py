"""The command line, the reports, the driver and what runs on a card ask the registry: none of them names a system."""

import re
from pathlib import Path

import pytest

from longreel.models.registry import SYSTEMS

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python/longreel"
FILES = [
    *(PACKAGE / "cli").rglob("*.py"),
    *(PACKAGE / "report").rglob("*.py"),
    *(path for path in (PACKAGE / "models").glob("*.py") if path.name != "registry.py"),
    PACKAGE / "parity/agreement.py",
    *(ROOT / "benchmarks").glob("end_to_end*.py"),
    ROOT / "benchmarks/hour.py",
    *(path for path in (ROOT / ".ci").iterdir() if path.is_file()),
    ROOT / "Makefile",
]
# llama-vid, llama_vid, LLaMA-VID, LlamaVid: all one name.
NAMES = re.compile("|".join(name.replace("-", "[-_ ]?") for name in SYSTEMS), re.IGNORECASE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_system_is_named(path: Path) -> None:
    assert NAMES.findall(path.read_text(encoding="utf-8")) == []


def test_every_spelling_is_found() -> None:
    for name in (
        "llama-vid",
        "llama_vid",
        "LLaMA-VID",
        "LlamaVid",
        "voco-llama",
        "VoCo-LLaMA",
        "voco_llama",
        "VoCoLlama",
    ):
        assert NAMES.search(f"from x import {name}s")
