"""`make gpu-again`: exactly what a visit left over. Nothing is measured: steps end as the test says."""

import json
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from gpu_command import ROOT, loaded

pytestmark = pytest.mark.fast
NOW = {"a": "a1", "b": "b1", "c": "c1", "d": "d1"}


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return loaded("gpu")


@pytest.fixture(scope="module")
def lines() -> ModuleType:
    return loaded("gpu_lines")


Command = Callable[..., list[str]]


@pytest.fixture
def command(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`.ci/gpu.py` as it is typed, its steps ending as they are told to; which were begun."""

    def call(*given: str, ends: Mapping[str, int | type[BaseException] | None] = {}) -> list[str]:
        begun: list[str] = []

        def run(step: object, limit: float) -> int | None:
            begun.append(step.name)
            end = ends.get(step.name, 0)
            if isinstance(end, type):
                raise end
            if step.name == "values":
                tell = loaded("gpu_lines").Lines(tmp_path / "rehearsal/visit.jsonl", printed=False)
                tell(step="values", begun=[["adaptive_pool", "cpu"], ["token_scores", "cpu"]])
                tell(step="values", op="adaptive_pool", backend="cpu", exit=0)
                tell(step="values", op="token_scores", backend="cpu", exit=end)
            return end

        monkeypatch.setattr(gpu, "runner", lambda log, env: run)
        monkeypatch.setattr(sys, "argv", ["gpu.py", *given, "--device", "cpu", "--results", str(tmp_path)])
        gpu.main()
        return begun

    return call


def test_a_visit_that_ends_amid_its_times_is_gone_on_with_where_it_ended(
    gpu: ModuleType, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [step.name for step in gpu.visit([], ROOT, "python3", device="cpu")]
    cut = whole[5]
    with pytest.raises(KeyboardInterrupt):  # as where the machine goes away: nobody says what became of this step
        command("visit", ends={cut: KeyboardInterrupt, whole[3]: 1})
    assert command("again", ends={whole[-1]: 124}) == ["versions", whole[3], *whole[5:]], "failed, cut, not reached"
    assert command("again") == ["versions", whole[-1]]
    assert command("again") == [], "nothing is left"
    code = gpu.LEFT["digests"](gpu.OPS) | {"adaptive_pool": "other"}
    monkeypatch.setitem(gpu.LEFT, "digests", lambda ops: code)
    assert command("again") == ["versions", "values", "times of adaptive_pool"], "its sources have changed"


def test_values_are_repeated_one_by_one(gpu: ModuleType, command: Command, tmp_path: Path) -> None:
    command("visit", "--ops", "adaptive_pool,token_scores", ends={"values": 1})
    code = gpu.LEFT["digests"](gpu.OPS)
    todo = gpu.again([], tmp_path / "rehearsal", "python3", code=code, device="cpu")
    assert [step.name for step in todo] == ["versions", "values"]
    only = todo[1].command.index("--only")
    assert todo[1].command[only:][:3] == ["--only", "token_scores", "cpu"]
    assert "--op" not in todo[1].command
    assert todo[1].command.count("--only") == 1


def test_what_stands_is_read_from_the_lines(lines: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "visit.jsonl"
    written = [
        {"step": "plan", "ops": ["a", "b", "c"], "code": NOW | {"b": "b0"}},
        {"step": "values", "begun": [["a", "triton"], ["a", "cuda"], ["b", "triton"], ["c", "triton"]]},
        {"step": "values", "op": "a", "backend": "triton", "case": "odd", "ok": True},
        {"step": "values", "op": "a", "backend": "triton", "ok": True, "exit": 0},
        {"step": "values", "op": "a", "backend": "cuda", "ok": False, "exit": -11},
        {"step": "values", "op": "b", "backend": "triton", "ok": True, "exit": 0},
        {"step": "outcome", "of": "times of a", "outcome": "cut"},
        {"step": "outcome", "of": "times of a", "outcome": "ok"},
        {"step": "tests", "test": "test_x[a-triton]", "ok": True},
        {"step": "tests", "test": "test_x[b-triton]", "ok": True},
        {"step": "tests", "test": "test_x[c-triton]", "ok": False},
        {"step": "tests", "test": "test_whole", "ok": True},
        {"step": "plan", "ops": ["d"], "code": NOW},
        {"step": "plan", "ops": None, "code": NOW},
        {"step": "tests", "test": "test_y[d]", "ok": True},
    ]
    path.write_text("\n".join(json.dumps(line) for line in written) + '\n{"step": "val')
    found = lines.standing(path)
    assert found.ops == ["a", "b", "c", "d"]
    assert found.kernels(NOW) == [("a", "cuda"), ("b", "triton"), ("c", "triton")], "failed; changed; not reached"
    assert found.steps["times of a"].stands(NOW, ["a"])
    assert not found.steps["times of a"].stands(NOW, ["b"])
    assert found.passed(NOW) == ["test_x[a-triton]", "test_y[d]"], "one that names no op is of all of them"


def test_sources_of_an_op_are_told_apart(lines: ModuleType, tmp_path: Path) -> None:
    texts = {
        "triton_kernels/one.py": "from longreel.triton_kernels.frames.forward import f",
        "triton_kernels/frames/forward.py": "",
        "triton_kernels/common/tiles.py": "",
        "csrc/other/kernel.h": '#include "third/pool.h"',
        "csrc/third/pool.h": "",
        "csrc/family/cpu.cpp": "",
        "python/longreel/ops/_one.py": "",
    }
    for place, text in texts.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    ops = ("one", "other", "family_two")

    def changes(place: str) -> set[str]:
        before = lines.digests(ops, tmp_path)
        with (tmp_path / place).open("a") as file:
            file.write("2")
        return {op for op, now in lines.digests(ops, tmp_path).items() if now != before[op]}

    assert changes("csrc/other/kernel.h") == {"other"}
    assert changes("csrc/third/pool.h") == {"other"}, "what it takes from another op is its own"
    assert changes("triton_kernels/frames/forward.py") == {"one"}
    assert changes("python/longreel/ops/_one.py") == {"one"}
    assert changes("csrc/family/cpu.cpp") == {"family_two"}
    assert changes("triton_kernels/common/tiles.py") == set(ops)


def test_tests_that_passed_are_left_out(tmp_path: Path) -> None:
    """By tests/gpu/conftest.py, which is asked to say what became of each."""
    conftest, lines = runpy.run_path(str(ROOT / "tests/gpu/conftest.py")), loaded("gpu_lines")
    said, passed = tmp_path / "lines.jsonl", tmp_path / "passed.txt"
    told = conftest["Told"](lines.Lines(said, printed=False))
    ends = [
        ("x[a]", "setup", "passed"),
        ("x[a]", "call", "passed"),
        ("x[b]", "call", "failed"),
        ("y", "setup", "skipped"),
    ]
    ends += [("z", "call", "passed"), ("z", "teardown", "failed")]
    for name, when, outcome in ends:
        told.pytest_runtest_logreport(pytest.TestReport(name, (name, 0, name), {}, outcome, None, when))
    assert lines.standing(said).passed({}) == ["x[a]"]
    passed.write_text("x[a]\n")
    left_out: list[str] = []
    config = SimpleNamespace(
        getoption=lambda name, default: passed,
        hook=SimpleNamespace(pytest_deselected=lambda items: left_out.extend(item.nodeid for item in items)),
    )
    items = [SimpleNamespace(nodeid=name, path=ROOT) for name in ("x[a]", "x[ab]", "y")]
    conftest["pytest_collection_modifyitems"](config, items)
    assert [item.nodeid for item in items] == ["x[ab]", "y"]
    assert left_out == ["x[a]"]
