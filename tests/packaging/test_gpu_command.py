"""`make gpu`'s plan: what is run, within which limits, and what it says. No card is needed."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from longreel.models.registry import SYSTEMS

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_command", ROOT / ".ci/gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_command"] = module
    spec.loader.exec_module(module)
    return module


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def taking(clock: Clock, seconds: float, status: int | None = 0) -> Callable[[object, float], int | None]:
    """A run that takes `seconds`, or its limit, which stops it."""

    def run(step: object, limit: float) -> int | None:
        clock.now += min(seconds, limit)
        return status if seconds <= limit else None

    return run


def test_no_card_is_said_and_is_no_failure() -> None:
    done = subprocess.run(
        [sys.executable, ".ci/gpu.py"], cwd=ROOT, env={"PATH": "/nowhere"}, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "no CUDA GPU on this machine" in done.stdout


def test_an_unknown_part_is_named() -> None:
    done = subprocess.run([sys.executable, ".ci/gpu.py", "tets"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no part tets: there are tests, bench, e2e, sanitize, ncu" in done.stderr


def test_every_step_ends_within_the_budget(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.shutil, "which", lambda program: program)
    for seconds in (1.0, 40.0, 300.0, 1e6):
        clock = Clock()
        todo = gpu.steps(gpu.PARTS, [], gpu.SYSTEMS, ROOT, "python3")
        outcomes = gpu.run_all(todo, deadline=540.0, run=taking(clock, seconds), clock=clock, say=lambda line: None)
        assert clock.now <= 540 - gpu.RESERVE
        assert [o.step for o in outcomes] == todo
        late = [o.verdict for o in outcomes if seconds > 540]
        assert all(verdict in ("stopped: out of time", "not run: no time left") for verdict in late)
    assert outcomes[0].seconds == pytest.approx(265), "the tests have half of the time"


def test_a_failure_does_not_stop_what_follows(gpu: ModuleType) -> None:
    clock = Clock()
    todo = gpu.steps(["tests", "bench"], ["compress_frames"], [], ROOT, "python3")
    outcomes = gpu.run_all(todo, deadline=540.0, run=taking(clock, 30.0, 1), clock=clock, say=lambda line: None)
    assert [o.verdict for o in outcomes] == ["failed: exit 1"] * 2
    assert all(o.failed for o in outcomes)
    assert "failed: exit 1" in gpu.table(outcomes)


def test_ops_narrow_every_part(gpu: ModuleType) -> None:
    for step in gpu.steps(gpu.PARTS, ["adaptive_pool"], ["llama-vid"], ROOT, "python3"):
        assert ("llama-vid" if step.part == "e2e" else "adaptive_pool") in step.command


def test_systems_are_those_of_the_command_line(gpu: ModuleType) -> None:
    assert tuple(SYSTEMS) == gpu.SYSTEMS
    assert [step.name for step in gpu.steps(["e2e"], [], gpu.SYSTEMS, ROOT, "python3")] == list(SYSTEMS)
    done = subprocess.run(
        [sys.executable, ".ci/gpu.py", "e2e", "--systems", "x"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no system x: there are llama-vid, voco-llama" in done.stderr


def test_a_missing_tool_is_named(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.shutil, "which", lambda program: None)
    outcomes = gpu.run_all(
        gpu.steps(["ncu"], [], [], ROOT, "python3"), deadline=540.0, run=lambda step, limit: 0, clock=Clock()
    )
    assert [o.verdict for o in outcomes] == ["not here: ncu is not installed"]
    assert not outcomes[0].failed


@pytest.mark.slow
def test_a_step_is_stopped_at_its_limit_and_its_output_kept(gpu: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "gpu.log"
    step = gpu.Step("tests", "long", [sys.executable, "-uc", "import time; print('begun'); time.sleep(60)"], 1.0)
    assert gpu.runner(log, {})(step, 2.0) is None
    assert "begun" in log.read_text()
