"""A few classes of benchmarks/sweep_models.py, one a kind; the whole sweep is docs/existing_vlms.md."""

import sys
from pathlib import Path

import pytest
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import sweep_connectors
import sweep_models as sweep
import sweep_towers

RIGHT = [
    "GPT2LMHeadModel",
    "Qwen3ForCausalLM",
    "Gemma3ForCausalLM",
    "Llama4ForCausalLM",
    "OPTForCausalLM",
    "DeepseekV3ForCausalLM",
]
REFUSED = {
    "Gemma2ForCausalLM": "softcap",
    "GptOssForCausalLM": "s_aux",
    "DogeForCausalLM": "computes with its attention mask itself",
    "GitForCausalLM": "attention classes of its own",
    "MptForCausalLM": "computes its attention itself",
    "RoFormerForCausalLM": "computes its attention itself",
    "XGLMForCausalLM": "computes its attention itself",
    "GPTNeoXJapaneseForCausalLM": "computes its attention itself",
}


@pytest.mark.parametrize("name", RIGHT)
def test_right(name: str) -> None:
    verdict = sweep.judge(name)
    assert verdict.verdict == sweep.RIGHT, verdict
    # Older versions of transformers cannot generate with a static cache for every class.
    assert verdict.note in ("", "not judged, as eager fails: generate, static")


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_in_a_line(name: str) -> None:
    verdict = sweep.judge(name)
    assert verdict.verdict == sweep.REFUSED, verdict
    assert REFUSED[name] in verdict.note


def test_the_sweep_sees_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that is dropped is WRONG, and an error that is none of ours FAILS."""
    monkeypatch.setattr(sweep.integration.RangeMask, "_bound", lambda self: (None, None))
    assert sweep.judge("MistralForCausalLM").verdict == sweep.WRONG
    monkeypatch.setattr(sweep.integration.keywords, "refuse", lambda *_: {}["from the inside"])
    assert sweep.judge("MistralForCausalLM").verdict == sweep.INSIDE


def test_the_page_is_of_this_sweep() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/existing_vlms.md").read_text()
    assert "WRONG" not in page
    assert "FAILS" not in page
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    here = {name for name in sweep.classes() if hasattr(transformers, name)}
    # The page may be of a newer version than the one here.
    assert len(here - listed) <= 5


BROKEN = [
    torch.full((1, 3, 2), torch.nan),
    torch.ones(1, 2, 2),
    torch.full((1, 3, 2), torch.inf),
    torch.ones(1, 3, 2) + 1e-3,
]


@pytest.mark.parametrize("got", BROKEN)
def test_the_sweeps_verdicts_see_what_is_no_number(got: torch.Tensor) -> None:
    right, rows = torch.ones(1, 3, 2), torch.ones(1, 3, dtype=torch.bool)
    assert not sweep.compare("logits", (right, rows), (right, rows))
    assert sweep.compare("logits", (right, rows), (got, rows))
    assert sweep.compare("logits", (right, ~rows), (right, ~rows))
    assert not sweep_towers.differs([right], [right])
    assert sweep_towers.differs([right], [got])
    assert sweep_towers.differs([right, right], [right, got])
    assert sweep_towers.differs([right, right], [right])
    # even where both sides hold it
    assert got.isfinite().all() or sweep.compare("logits", (got, rows), (got, rows))
    assert got.isfinite().all() or sweep_towers.differs([right, got], [right, got])
    assert sweep_towers.differs([], [])
    assert sweep_towers.differs([right[:0]], [right[:0]])


def test_what_stands_between_tower_and_text() -> None:
    """Read from the sources: a Q-Former, a pooling method, matrix products; the page says the same of them."""
    page = (Path(__file__).resolve().parents[2] / "docs/existing_vlms.md").read_text()
    rows = sweep_connectors.found()
    lines = sweep_connectors.written(rows, page).split(sweep_connectors.HEADING)
    assert lines[0] == page.split(sweep_connectors.HEADING)[0]
    for what in (
        "| `Blip2ForConditionalGeneration` | `Blip2QFormerModel` | queries that attend to patches |",
        "| `LlavaOnevisionForConditionalGeneration` | `apply_pooling` | averages patches |",
        "| `LlavaForConditionalGeneration` | `LlavaMultiModalProjector` | a reshape and matrix products |",
    ):
        assert what in lines[1]
        assert what in page
    # On any other version classes come and go.
    listed = {line.split("`")[1] for line in page.split(sweep_connectors.HEADING)[1].splitlines() if "| `" in line}
    assert len({row.name for row in rows} - listed) <= 5
