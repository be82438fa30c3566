"""benchmarks/vst_step.py by its command line; what it measures takes minutes."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import vst_step

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("asked", [[], ["group"], ["step", "group"]], ids=len)
def test_forms_asked_for(asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All where none is named: argparse judges what is not there by rules that change from version to version."""
    forms = {"ours": lambda: None, "another": lambda: None}
    monkeypatch.setattr(vst_step, "FORMS", dict.fromkeys(("step", "group"), lambda dtype: forms))
    monkeypatch.setattr(sys, "argv", ["vst_step.py", *asked, "--dtype", "fp32", "--repeats", "2"])
    vst_step.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == (asked or ["step", "group"])
