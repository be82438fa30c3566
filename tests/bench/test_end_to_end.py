"""`make gpu-e2e`'s plan without a card: what it runs, how it finds what fits, and a small run of it on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from longreel.measure.time_left import TimeLeft
from longreel.models.registry import SYSTEMS

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import end_to_end as e2e
import tables
from end_to_end import Plan, Trial, TrialResult

from longreel.report.end_to_end_table import runs_tables

ROOT = Path(__file__).parents[2]


class Card:
    """A machine on which a run takes `start` + `each` seconds a frame and `fit` frames fit at once."""

    def __init__(self, start: float, each: float, fit: int) -> None:
        self.now, self._start, self._each, self._fit = 0.0, start, each, fit
        self.ran: list[Trial] = []

    def __call__(self, case: Trial, limit: float) -> TrialResult:
        self.ran.append(case)
        if case.at_once and case.frames > self._fit:
            self.now += min(limit, self._start)
            return TrialResult(case, e2e.FULL, self._start)
        wall = self._start + self._each * case.frames
        self.now += min(limit, wall)
        if wall > limit:
            return TrialResult(case, e2e.CUT, limit)
        path = "reference" if case.ops == "reference" else "longreel"
        line = {"stages_s": {path: {"vision": self._each * case.frames}}}
        return TrialResult(case, e2e.OK, wall, line)

    def plan(self, budget: float) -> Plan:
        return Plan(self, TimeLeft.of(budget, lambda: self.now), lambda outcome: None)


def at_once(frames: int) -> Trial:
    return Trial("voco-llama", "7b", "features", "reference", None, frames, at_once=True)


@pytest.mark.fast
@pytest.mark.parametrize("fit", [0, 3, 17, 64, 100, 255, 900, 3599, 3600])
@pytest.mark.parametrize("start", [64, 3600])
def test_the_limit_is_bracketed(fit: int, start: int) -> None:
    plan = Card(1.0, 0.0, fit).plan(1e6)
    plan.limit(at_once(start), 3600)
    fits = [o.case.frames for o in plan.done if o.outcome == e2e.OK]
    full = [o.case.frames for o in plan.done if o.outcome == e2e.FULL]
    assert max(fits, default=0) <= fit < min(full, default=3601)
    assert len(plan.done) == len({o.case for o in plan.done})
    if 0 < fit < 3600:
        assert min(full) / max(fits) <= 1.5 + 1 / fit


@pytest.mark.fast
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("budget", [30.0, 170.0, 500.0, 5000.0])
@pytest.mark.parametrize("each", [0.001, 0.03, 0.1])
def test_the_plan_ends_in_time(system: str, budget: float, each: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a run costs; an hour from features is the first thing measured, and what was not reached has a name."""
    monkeypatch.setattr(e2e, "no_video", lambda: None)
    card = Card(20.0, each, 500)
    plan = card.plan(budget)
    e2e.measure(plan, system, "7b", e2e.HOUR, e2e.CAPS)
    assert card.now <= budget
    assert card.ran[0] == Trial(system, "7b", "features", "longreel", None, 3600)
    asked = {(o.case.input, o.case.ops, o.case.memory_cap_gib) for o in plan.done}
    assert {("features", "longreel", 24.0), ("features", "longreel", 80.0), ("video", "longreel", None)} <= asked
    assert not any(o.failed for o in plan.done)
    if budget == 5000.0:
        assert not [o for o in plan.done if o.outcome not in (e2e.OK, e2e.FULL)]
        assert ("features", "reference", 24.0) in asked


@pytest.mark.fast
def test_fewer_frames_where_an_hour_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(e2e, "no_video", lambda: "not here: PyAV (av) is not installed")
    plan = Card(20.0, 0.03, 100).plan(350.0)
    e2e.measure(plan, "voco-llama", "7b", e2e.HOUR, (24.0,))
    capped = next(o for o in plan.done if o.case.memory_cap_gib == 24.0)
    assert capped.outcome == e2e.OK
    assert 450 <= capped.case.frames < 3600
    missing = next(o for o in plan.done if o.case.input == "video")
    assert e2e.cells(missing)[-1] == "not here: PyAV (av) is not installed"


@pytest.mark.fast
def test_a_cap_beyond_the_card_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(e2e, "no_video", lambda: "not here: PyAV (av) is not installed")
    card = Card(20.0, 0.001, 500)
    plan = card.plan(5000.0)
    e2e.measure(plan, "voco-llama", "7b", e2e.HOUR, (24.0, 80.0), 79.2)
    assert {case.memory_cap_gib for case in card.ran} == {None, 24.0}
    skipped = [outcome for outcome in plan.done if outcome.case.memory_cap_gib == 80.0]
    assert [e2e.cells(outcome)[-1] for outcome in skipped] == ["not run: the card has 79.2 GiB"]
    assert not skipped[0].failed


def test_a_dense_mask_without_room_does_not_fit(tmp_path: Path) -> None:
    """64 frames of preset tiny on the CPU, in a process of their own; fewer do."""
    run = e2e.Processes(tmp_path, tmp_path / "results", "cpu", 64)
    full, fits = (run(Trial("voco-llama", "tiny", "features", "reference", None, frames), 600.0) for frames in (64, 2))
    assert (full.outcome, fits.outcome) == (e2e.FULL, e2e.OK)
    assert not full.failed
    assert e2e.cells(full)[-1] == "does not fit"
    lines = [json.loads(line) for line in (tmp_path / "results/end_to_end.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["does not fit", "ok"]


def test_no_card_is_said() -> None:
    done = subprocess.run([sys.executable, "benchmarks/end_to_end.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "no CUDA GPU on this machine" in done.stdout


@pytest.mark.long
def test_a_small_run_of_everything(tmp_path: Path) -> None:
    # Every system's own runs are tested in tests/cli: one stands here for all.
    systems = ("llama-vid",)
    command = [sys.executable, "benchmarks/end_to_end.py", "--preset", "tiny", "--device", "cpu", "--frames", "6"]
    command += [word for name in systems for word in ("--system", name)]
    done = subprocess.run([*command, "--results", str(tmp_path / "cpu")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "cpu/end_to_end.jsonl").read_text().splitlines()]
    assert {(line["case"]["system"], line["case"]["input"], line["case"]["ops"]) for line in lines} == {
        (system, *rest)
        for system in systems
        for rest in (("features", "longreel"), ("features", "reference"), ("features", "both"), ("video", "longreel"))
    }
    assert {line["outcome"] for line in lines} == {"ok"}
    assert all(line["shell"].startswith("longreel run ") and str(tmp_path) not in line["shell"] for line in lines)
    assert "same numbers" in done.stdout
    page = tables.page(tmp_path)
    assert "### End to end" in page
    assert "llama-vid, preset tiny, random weights:" in page
    rows = [row for row in page.splitlines() if row.startswith("| features | whole | both")]
    assert len(rows) == len(systems)
    assert all(row.count("|") == page.splitlines()[page.splitlines().index(row)].count("|") for row in rows)


@pytest.mark.parametrize("stage", ["vision", "see"])
def test_a_stage_has_its_name_in_files_of_before_too(stage: str) -> None:
    case = {"system": "voco-llama", "preset": "tiny", "input": "video", "ops": "longreel", "memory_cap_gib": None}
    line = {
        "case": case | {"frames": 8, "at_once": False}, "outcome": "ok", "shell": "longreel run", "total_s": {"longreel": 4.0},
        "stages_s": {"longreel": {stage: 3.0}}, "first_token_s": {"longreel": 3.0}, "tokens_per_s": {"longreel": None},
        "peak_memory_bytes": {"longreel": 2**20},
    }  # fmt: skip
    ((_, (row,), _, _),) = runs_tables([line])
    assert "vision stage 75%" in row
