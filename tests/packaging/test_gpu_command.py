"""`make gpu`'s plan: what is run, within which limits, and what it says. No card is needed."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from gpu_command import Clock, loaded, taking

from longreel.bench import suite
from longreel.bench.cases import CASES
from longreel.models.registry import SYSTEMS

ROOT = Path(__file__).parents[2]
OTHERS = ("tests", "bench", "e2e", "sanitize", "ncu")

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return loaded("gpu")


def test_no_card_is_said_and_is_no_failure() -> None:
    done = subprocess.run(
        [sys.executable, ".ci/gpu.py"], cwd=ROOT, env={"PATH": "/nowhere"}, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "no CUDA GPU on this machine" in done.stdout


def test_an_unknown_part_is_named() -> None:
    done = subprocess.run([sys.executable, ".ci/gpu.py", "tets"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no part tets: there are visit, again, tests, bench, e2e, sanitize, ncu" in done.stderr


def test_every_step_ends_within_the_budget(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.shutil, "which", lambda program: program)
    for seconds in (1.0, 40.0, 300.0, 1e6):
        clock = Clock()
        todo = gpu.steps(OTHERS, [], gpu.SYSTEMS, ROOT, "python3")
        outcomes = gpu.run_all(todo, deadline=540.0, run=taking(clock, seconds), clock=clock, say=lambda line: None)
        assert clock.now <= 540 - gpu.RESERVE
        assert [o.step for o in outcomes] == todo
        late = [o.verdict for o in outcomes if seconds > 540]
        assert set(late) <= {"cut: out of time", "not reached: no time left"}
    assert outcomes[0].seconds == pytest.approx(265), "the tests have half of the time"


def test_a_failure_does_not_stop_what_follows(gpu: ModuleType) -> None:
    clock = Clock()
    todo = gpu.steps(["tests", "bench"], ["compress_frames"], [], ROOT, "python3")
    outcomes = gpu.run_all(todo, deadline=540.0, run=taking(clock, 30.0, 1), clock=clock, say=lambda line: None)
    assert [o.verdict for o in outcomes] == ["failed: exit 1"] * 2
    assert all(o.failed for o in outcomes)
    assert "failed: exit 1" in gpu.table(outcomes)


def test_ops_narrow_every_part(gpu: ModuleType) -> None:
    for step in gpu.steps(OTHERS, ["adaptive_pool"], ["llama-vid"], ROOT, "python3"):
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


def test_a_visit_fits_nine_minutes_whatever_hangs(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.shutil, "which", lambda program: program)
    todo = gpu.visit([], ROOT, "python3")
    assert [step.name for step in todo][:3] == ["versions", "roofs", "values"]
    assert todo[-1].name == "tests"
    # the library does not load, and is built
    assert 30 + 120 + sum(step.most for step in todo[:4]) < 540 - gpu.RESERVE
    assert sum(step.most for step in todo) < 540 - gpu.RESERVE
    clock = Clock()
    outcomes = gpu.run_all(todo, deadline=540.0, run=taking(clock, 1e6), clock=clock, say=lambda line: None)
    assert {outcome.verdict for outcome in outcomes} == {"cut: out of time"}
    assert clock.now <= sum(step.most for step in todo)


def test_what_the_values_compile_fits_their_time(gpu: ModuleType) -> None:
    """What is compiled for them is planned from the counts, side by side on a card's 16 cores; a third of the time is gone."""
    (values,) = (step for step in gpu.visit([], ROOT, "python3") if step.name == "values")
    assert gpu.compile_seconds(gpu.OPS, 16) == 1.2 * max(*gpu.COMPILES.values(), sum(gpu.COMPILES.values()) / 16)
    assert values.most * 2 / 3 > gpu.compile_seconds(gpu.OPS, 16) + 10
    assert values.note.startswith(f"{sum(gpu.COMPILES.values())} kernels are compiled first, about ")
    (some,) = (s for s in gpu.visit([], ROOT, "p", kernels=[("token_scores", "triton")]) if s.name == "values")
    assert some.note.startswith(f"{gpu.COMPILES['token_scores']} kernels")


@pytest.mark.slow
def test_a_visit_is_planned_with_what_is_compiled(gpu: ModuleType) -> None:
    """After a change: `python .ci/gpu_card.py compiles --write`."""
    pytest.importorskip("triton", reason="triton is not installed")
    card = loaded("gpu_card")
    assert {v.op for v in card.kernels("cuda") if v.backend == "triton"} == gpu.COMPILES.keys()
    assert {op: card.compiles(op) for op in gpu.COMPILES} == gpu.COMPILES


def test_a_library_that_does_not_load_is_built_and_a_failed_build_ends_nothing(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "PACKAGE", tmp_path)
    monkeypatch.setattr(gpu, "plain_package", lambda: None)
    (tmp_path / "longreel").mkdir()
    (tmp_path / "longreel/_ops.so").write_bytes(b"")
    for statuses, names in (([0], 1), ([1, 0], 2), ([1, 1], 2)):
        given = iter(statuses)
        outcomes = gpu.package("card", lambda step, limit, given=given: next(given), gpu.time.monotonic() + 540)
        assert len(outcomes) == names


def test_what_a_card_is_asked_is_answered_by_a_cpu(tmp_path: Path) -> None:
    card = loaded("gpu_card")
    path = tmp_path / "visit.jsonl"
    lines = card.Lines(path)
    card.versions(lines, "cpu")
    card.roofs(lines, "cpu")
    assert card.values(lines, card.Variant("adaptive_pool", "reference", "cpu"), cases=1)
    told = [json.loads(text) for text in path.read_text().splitlines()]
    assert [line["step"] for line in told][:2] == ["versions", "roofs"]
    assert {line["name"]: line["value"] > 0 for line in told if line["step"] == "roofs"}["MATH causal 256"]
    assert told[-1]["ok"]


def test_one_that_hangs_or_crashes_costs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = loaded("gpu_card")
    does = {
        "adaptive_pool": "pass",
        "token_scores": "import time; time.sleep(60)",
        "token_density": "import os; os.abort()",
    }
    started = card.subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        return started([sys.executable, "-c", does[command[-2]]], **options)

    monkeypatch.setattr(card.subprocess, "Popen", popen)
    path = tmp_path / "visit.jsonl"
    chosen = [card.Variant(op, "cpu", "cpu") for op in ("token_scores", "token_density", "adaptive_pool")]
    assert not card.all_values(card.Lines(path), chosen, card.time.monotonic() + 2.0, path)
    told = [json.loads(text) for text in path.read_text().splitlines()]
    assert told[-1]["right"] == 1
    assert [(op, status) for op, _, status in told[-1]["wrong"]] == [
        ("token_density", -6), ("token_scores", "stopped after 2 s")
    ]  # fmt: skip
    assert [line["ok"] for line in told if line.get("op") == "adaptive_pool"] == [True]


def test_a_full_disk_ends_nothing(gpu: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    card, full = loaded("gpu_card"), Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    card.Lines(full)(step="roofs", name="copy", value=1e9, unit="B/s")
    assert gpu.runner(full, {})(gpu.Step("visit", "said", [sys.executable, "-c", "print('said')"], 1.0), 10.0) == 0
    printed = capfd.readouterr().out
    assert "copy: 1.0 GB/s" in printed
    assert "not written: " in printed
    assert "said" in printed


def test_times_are_of_every_op_that_has_a_kernel_for_cards(gpu: ModuleType) -> None:
    card = loaded("gpu_card")
    ops = {variant.op for variant in card.kernels("cuda")}
    # compress_frames stands for the op that it has one kernel with
    assert set(gpu.TIMES) == ops - {"context_attention"}


def test_wrong_values_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = loaded("gpu_card")
    wrong = lambda variant: lambda *args: tuple(out + 1 for out in variant.spec.reference(*args))  # noqa: E731
    monkeypatch.setattr(card, "low_level", wrong)
    path = tmp_path / "visit.jsonl"
    assert not card.values(card.Lines(path), card.Variant("adaptive_pool", "reference", "cpu"), cases=1)
    told = json.loads(path.read_text())
    assert (told["ok"], told["why"][:14]) == (False, "AssertionError")


def test_what_no_card_has_passed_is_first_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    card = loaded("gpu_card")
    asked: list[tuple[set[str], float]] = []
    monkeypatch.setattr(
        card, "side_by_side", lambda lines, some, limit, path: asked.append(({v.backend for v in some}, limit)) or True
    )
    assert card.all_values(card.Lines(None), card.kernels("cuda"), card.time.monotonic() + 90.0, None)
    (first, limit), (others, left) = asked
    assert first == {"cluster", "gluon"}
    assert others.isdisjoint(first)
    assert {"cuda", "triton"} <= others
    assert limit <= 30.0 < left


@pytest.mark.slow
def test_a_step_is_stopped_at_its_limit_and_its_output_kept(gpu: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "gpu.log"
    step = gpu.Step("tests", "long", [sys.executable, "-uc", "import time; print('begun'); time.sleep(60)"], 1.0)
    assert gpu.runner(log, {})(step, 2.0) is None
    assert "begun" in log.read_text()


@pytest.mark.slow
def test_a_child_that_hangs_behind_its_parent_is_stopped(gpu: ModuleType, tmp_path: Path) -> None:
    child = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('child', flush=True); time.sleep(120)"
    )
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    begun = gpu.time.monotonic()
    assert (
        gpu.runner(tmp_path / "gpu.log", {})(gpu.Step("visit", "left", [sys.executable, "-c", parent], 1.0), 2.0)
        is None
    )
    assert gpu.time.monotonic() - begun < 60


@pytest.mark.slow
def test_what_python_says_of_a_stop_is_one_line_and_the_log_has_the_rest(
    gpu: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As of one that is stopped while it imports: a frame within a frame, and an error of its own behind. In the background too,
    where a shell has SIGINT ignored."""
    (tmp_path / "slow.py").write_text(
        "import time\nprint('begun', flush=True)\ntry:\n    time.sleep(60)\nfinally:\n    print('told')\n"
    )
    step = gpu.Step("visit", "importing", [sys.executable, "-c", "import slow"], 1.0)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert gpu.runner(tmp_path / "gpu.log", {"PYTHONPATH": str(tmp_path)})(step, 1.0) is None
    finally:
        signal.signal(signal.SIGINT, before)
    lines = capfd.readouterr().out.splitlines()
    assert lines == ["begun", "told", f"stopped at {tmp_path / 'slow.py'}:4 (all of it in gpu.log)"]
    assert "Traceback" in (tmp_path / "gpu.log").read_text()


def test_what_is_compiled_first_costs_no_times(gpu: ModuleType) -> None:
    """torch.compile may take a step's whole limit: its peers stand behind every other time."""
    steps = [step for step in gpu.visit([], ROOT, "python3") if "--peers" in step.command]
    assert [step.command[step.command.index("--peers") + 1] for step in steps] == ["quick"] * len(gpu.TIMES) + [
        "compiled"
    ]
    case = CASES["block_sparse_attention"]
    chosen = suite.PEERS["compiled"](case("block_sparse_attention", case.SIZES["small"]))
    assert {"flex", "flex-gathered", "flex-flash", "fa4"} <= set(chosen)
    assert not {"strong", "dense"} & set(chosen)
