"""The peers compute what the reference computes; cases, the suite and the command on tiny shapes."""

import json
from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from longreel.bench import Outcome, Report, Roof, RoofMeter, Shape, Verdict, measure, op_names, suite
from longreel.bench.cases import CPU, PEER_BUDGETS, Case
from longreel.bench.memory import Peak
from longreel.bench.peers import PEERS, pool_rows
from longreel.cli import bench as command

TINY = Shape(frames=70, patches=16, width=24, queries=3, output_size=2)
EAGER = [(op, name) for op in op_names() for name, peer in PEERS[op].items() if not peer.compiled]


def tiny_roof() -> RoofMeter:
    return RoofMeter(CPU, torch.float32, size=2**16, side=16)


@pytest.mark.fast
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("op", "name"), EAGER)
def test_peer_computes_the_op(op: str, name: str, dtype: torch.dtype) -> None:
    for backward in Case.passes(op):
        case = Case(op, TINY, dtype, backward=backward)
        result = case.variant(name).make()()
        assert set(result) == {*case.run(PEERS[op][name].forward, case.tensors)} if not case.leaves else True
        assert case.check(result).error <= PEER_BUDGETS


@pytest.mark.fast
@pytest.mark.parametrize("op", op_names())
def test_reference_is_within_its_budget_with_gradients(op: str) -> None:
    case = Case(op, TINY, torch.float32, backward="all")
    result = case.variant("reference").make()()
    assert {f"grad_{name}" for name in case.leaves} <= set(result)
    assert case.check(result).error <= 1


@pytest.mark.fast
@pytest.mark.parametrize("output", ["context", "content", "grad_query", "grad_patches"])
def test_check_sees_one_wrong_element(output: str) -> None:
    case = Case("compress_frames", TINY, torch.float32, backward="all")
    result = case.variant("reference").make()()
    result[output].view(-1)[-1] += result[output].abs().max()
    verdict = case.check(result)
    assert verdict.error > 1
    assert verdict.why is not None
    assert verdict.why.startswith(output)


@pytest.mark.fast
def test_pool_rows_refuse_what_they_cannot_pool() -> None:
    with pytest.raises(ValueError, match="side 3 divides, given 16 patches"):
        pool_rows(16, 3, torch.empty(0))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"op": "nothing"}, "has no benchmark"),
        ({"op": "adaptive_pool", "backward": "query"}, "allowed are none, all"),
        ({"op": "adaptive_pool", "shape": Shape(patches=15)}, "must be a square"),
    ],
)
def test_bad_case(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Case(**{"shape": TINY, **arguments})  # type: ignore[arg-type]


@pytest.mark.fast
def test_work_grows_with_what_is_asked() -> None:
    none, query, every = (Case("compress_frames", TINY, backward=b).work for b in ("none", "query", "all"))
    assert none.flops < query.flops < every.flops
    assert none.bytes_written < query.bytes_written < every.bytes_written
    patches = 70 * 16 * 24 * 2
    assert every.bytes_written - query.bytes_written == patches
    assert query.bytes_read > 2 * patches


@pytest.mark.fast
def test_measure_reference_beside_the_peers() -> None:
    case = Case("compress_frames", TINY, torch.float32)
    report = measure(case, names=["reference", "strong", "naive"], repeats=2, min_time=0.0, roof=tiny_roof())
    assert report.baseline == "strong"
    assert all(report.time(name) for name in ("reference", "strong", "naive"))
    assert [record["frames"] for record in report.records()] == [70] * 3


@pytest.mark.fast
def test_summary_compares_with_the_best_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(name: str, *samples: float) -> Outcome:
        return Outcome(name, "", None, False, Verdict(0.1, "x"), Peak(2**20, "by hand"), 1, samples)

    case = Case("compress_frames", TINY)
    times = {"cpu": 1.0, "strong": 3.0, "batched": 2.0, "naive": 4.0}
    outcomes = tuple(outcome(name, value, value) for name, value in times.items())
    report = Report(outcomes, "strong", case.work, Roof(1e9, 1e9, "", ""), case.facts, {})
    monkeypatch.setattr(Case, "kernels", ["cpu"])
    assert suite.cells(suite.Result(case, report, None))[3:7] == ["cpu", "1.00 s", "2.00x batched", "4.00x"]


@pytest.mark.fast
def test_suite_spends_its_budget_and_says_so(tmp_path: Path) -> None:
    todo = suite.cases(CPU, TINY, [torch.float32])
    assert [case.backward for case in todo] == sorted((c.backward for c in todo), key=("none", "query", "all").index)
    results = suite.run(todo, budget=0.0, results=tmp_path)
    assert len(results) == len(todo)
    assert all(result.why == "not run: the time budget was spent" for result in results)
    assert not list(tmp_path.iterdir())
    assert all(len(cells) < len(suite.HEADER) for cells in suite.summary(results))


def application() -> Typer:
    app = Typer()
    app.callback()(lambda: None)
    command.register(app)
    return app


def test_command_measures_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longreel.bench.harness.RoofMeter", lambda device, dtype: tiny_roof())
    shape = ["--frames=4", "--patches=16", "--width=8", "--queries=2", "--output-size=2", "--repeats=2"]
    files = ["--json", f"{tmp_path}/x.jsonl", "--markdown", f"{tmp_path}/x.md", "--results", f"{tmp_path}/results"]
    chosen = ["--op=compress_frames", "--dtype=fp32", "--backend=reference", "--peer=strong", "--device=cpu"]
    done = CliRunner().invoke(application(), ["bench", *chosen, *shape, *files], env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    assert "strong" in done.output
    written = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["variant"] for line in written] == ["reference", "strong"]
    assert (tmp_path / "results" / "compress_frames.jsonl").exists()
    assert (tmp_path / "x.md").read_text().startswith("### compress_frames float32 forward")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "take --all"), (["--op", "adaptive_pool", "--backward", "query", "--device", "cpu"], "has no query")],
)
def test_command_refuses(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(application(), ["bench", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert message in done.output
