"""The verdict on a run whose paths are compared: what is no number agrees with nothing, whatever the other paths hold."""

import json
import math

import pytest
import torch

from longreel.models.record import EXACT, OURS, REFERENCE, RunRecord
from longreel.parity.agreement import agreement
from longreel.report.lines import json_line

pytestmark = pytest.mark.fast


def record() -> RunRecord:
    made = RunRecord("system", "preset", ("?",), steps=4)
    for path in (OURS, REFERENCE, EXACT):
        dtype = torch.float64 if path == EXACT else torch.float32
        made.visual[path], made.logits[path] = torch.ones(3, 2, dtype=dtype), [torch.ones(2, 5, dtype=dtype)]
    return made


def test_equal_paths_agree() -> None:
    assert agreement(record(), torch.float32).why is None


@pytest.mark.parametrize("what", ["tokens", "logits"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1.001])
@pytest.mark.parametrize("others", [(), (REFERENCE,), (EXACT,), (REFERENCE, EXACT)])
def test_what_is_off_is_seen(what: str, bad: float, others: tuple[str, ...]) -> None:
    made = record()
    for path in (OURS, *others) if not math.isfinite(bad) else (OURS,):
        (made.visual[path] if what == "tokens" else made.logits[path][0])[1, 1] = bad
    why = agreement(made, torch.float32).why
    assert why is not None
    assert why.startswith(what)


def test_an_infinite_error_is_written_as_json() -> None:
    made = record()
    made.ids[OURS] = [[1, 2]]
    made.seconds["compression"] = {OURS: 1.0, REFERENCE: 2.0}
    made.logits[OURS][0][0] = math.nan
    line = json_line(made, "clip.mp4", agreement(made, torch.float32), made)
    read = json.loads(json.dumps(line, allow_nan=False))
    assert (read["error_over_budget"], read["passed"]) == (None, False)
