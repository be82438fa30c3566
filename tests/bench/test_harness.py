"""The harness: nothing gets a ratio that was not checked, and every row says what became of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from longreel.bench import Contender, Cost, Report, RoofMeter, Verdict, compare, harness
from longreel.measure import machine
from longreel.measure.machine import Neighbours
from longreel.measure.memory import peak_memory, storage_bytes

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")


def roof() -> RoofMeter:
    return RoofMeter(CPU, torch.float32, size=2**16, side=16)


def run(variants: dict[str, Callable[[], Any]], **options: Any) -> Report:
    made = [Contender(name, lambda call=call: call) for name, call in variants.items()]

    def check(result: Any) -> Verdict:
        return Verdict(abs(float(result.sum()) - 4.0), f"sum is {float(result.sum())}")

    options = {"baseline": next(iter(variants)), "repeats": 4, "min_time": 0.0, "roof": roof(), **options}
    return compare(made, work=Cost(8, 16, 16), check=check, device=CPU, dtype=torch.float32, **options)


@pytest.mark.slow
def test_variants_run_in_turn() -> None:
    calls: list[str] = []

    def variant(name: str) -> Callable[[], torch.Tensor]:
        def call() -> torch.Tensor:
            calls.append(name)
            return torch.ones(4)

        return call

    report = run({name: variant(name) for name in "abc"}, repeats=3)
    assert "".join(calls[-9:]) in ("abccbabca", "abccbacab")
    assert [report.time(name).runs for name in "abc"] == [3, 3, 3]  # type: ignore[union-attr]


def test_wrong_result_gives_no_ratio() -> None:
    report = run({"good": lambda: torch.ones(4), "wrong": lambda: torch.full((4,), 2.0)})
    assert report.outcome("wrong").why == "no ratio: sum is 8.0"
    assert report.time("wrong") is None
    assert report.speedup("wrong", "good") is None
    assert report.speedup("good", "wrong") is None
    assert report.time("good") is not None


@pytest.mark.slow
def test_nan_gives_no_ratio() -> None:
    report = run({"good": lambda: torch.ones(4), "poison": lambda: torch.full((4,), torch.nan)})
    assert report.time("poison") is None


def test_a_variant_may_use_the_budgets_it_declares() -> None:
    def call() -> torch.Tensor:
        return torch.ones(4)

    report = compare(
        [Contender("loose", lambda: call, budgets=3.0), Contender("strict", lambda: call)],
        work=Cost(1, 1, 1), check=lambda result: Verdict(2.0, "twice the budget"), device=CPU, dtype=torch.float32,
        baseline="loose", repeats=1, min_time=0.0, roof=roof(),
    )  # fmt: skip
    assert report.outcome("loose").why is None
    assert report.outcome("strict").why == "no ratio: twice the budget"


def test_an_error_is_one_line_in_its_row() -> None:
    def broken() -> torch.Tensor:
        raise RuntimeError("no such kernel\nand a long trace")

    report = run({"good": lambda: torch.ones(4), "broken": broken})
    assert report.outcome("broken").why == "RuntimeError: no such kernel"
    assert not report.outcome("broken").refused


def test_too_little_memory_refuses_before_the_call() -> None:
    made = [Contender("huge", lambda: pytest.fail("was made"), needs=2**60)]
    report = compare(
        made, work=Cost(1, 1, 1), check=lambda result: Verdict(0.0, None), device=CPU, dtype=torch.float32,
        baseline="huge", roof=roof(),
    )  # fmt: skip
    assert report.outcome("huge").refused
    assert "GiB are free" in (report.outcome("huge").why or "")


def test_spent_budget_says_so() -> None:
    report = run({"late": lambda: torch.ones(4)}, budget=-1.0)
    assert report.outcome("late").why == "not run: the time budget was spent"


@pytest.mark.slow
def test_budget_ends_rounds_early_but_not_before_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10**6))
    monkeypatch.setattr(harness.time, "monotonic", lambda: next(now))
    report = run({"a": lambda: torch.ones(4)}, repeats=50, budget=5)
    assert harness.MIN_ROUNDS <= report.time("a").runs < 50  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"baseline": "x"}, "'x' is not one of"), ({"repeats": 0}, "at least one round")],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run({"a": lambda: torch.ones(4)}, **options)


@pytest.mark.slow
def test_records_are_json_lines(tmp_path: Path) -> None:
    report = run({"a": lambda: torch.ones(4), "wrong": lambda: torch.zeros(4)}, facts={"op": "toy"})
    path = tmp_path / "deep" / "toy.jsonl"
    report.write(path)
    report.write(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["variant"] for line in lines] == ["a", "wrong", "a", "wrong"]
    assert lines[0]["op"] == "toy"
    assert lines[0]["seconds"]["runs"] == 4
    assert lines[0]["work"] == {"flops": 8, "bytes_read": 16, "bytes_written": 16}
    assert {"device", "torch", "threads", "cpu_isa", "git", "date"} <= set(lines[0]["machine"])
    assert lines[1]["seconds"] is None
    assert lines[1]["why"]


@pytest.mark.slow
def test_peak_memory_sees_scratch_but_not_the_result() -> None:
    def call() -> torch.Tensor:
        scratch = torch.ones(2**24)
        return scratch[: 2**22] + 1

    call()
    peak = peak_memory(call, CPU)
    assert peak.extra is not None
    assert abs(peak.extra - 2**26) < 2**22


def test_peak_memory_without_the_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    assert peak_memory(lambda: torch.ones(4), CPU).how.startswith("resident memory sampled")


def test_neighbours_take_a_part_between_nothing_and_everything() -> None:
    share = Neighbours().share()
    assert share is None or 0 <= share <= 1


def test_neighbours_count_busy_time_that_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(100.0, 50.0, 5.0), (120.0, 66.0, 11.0)])
    monkeypatch.setattr(machine, "_cpu_seconds", lambda: next(readings))
    assert Neighbours().share() == pytest.approx(0.5)


def test_storages_are_counted_once() -> None:
    whole = torch.empty(8, dtype=torch.float32)
    assert storage_bytes({"a": whole, "b": (whole[2:], [whole])}) == 32
    assert storage_bytes(None) == 0


def test_roof_binds_by_the_nearer_bound() -> None:
    meter = roof()
    with pytest.raises(RuntimeError, match="not been sampled"):
        meter.roof()
    meter.sample(harness.clock_for(CPU))
    found = meter.roof()
    assert found.bound(Cost(1, 10**9, 0)) == "memory"
    assert found.bound(Cost(10**15, 1, 0)) == "matrix"
    assert found.seconds(Cost(0, 10**9, 0)) == pytest.approx(10**9 / found.bandwidth)
