"""The peers compute what the reference computes; cases, the suite and the command on tiny shapes."""

import inspect
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from longreel.bench import (
    CASES,
    BenchCase,
    Outcome,
    PatchCase,
    PatchShape,
    Report,
    Roof,
    RoofMeter,
    SparseCase,
    SparseShape,
    Verdict,
    measure,
    suite,
)  # fmt: skip
from longreel.bench.cases import CPU, ops_of
from longreel.bench.ops.compress_frames import CompressFramesCase
from longreel.bench.peers import pool_rows
from longreel.cli import bench as command
from longreel.measure.memory import Peak
from longreel.models.registry import SYSTEMS
from longreel.ops._block_sparse_attention import executed_flops
from longreel.ops.registry import OPS
from longreel.testing.budget import PEER_BUDGETS

TINY = PatchShape(frames=70, patches=16, width=24, queries=3, output_size=2)
SPARSE = SparseShape(frames=5, vision=7, voco=2, text=6, heads=4, kv_heads=2, head_dim=12)
# what torch.compile makes is measured, not tested
EAGER = [
    (op, name)
    for op, case in CASES.items()
    if issubclass(case, PatchCase)
    for name, peer in case.PEERS.items()
    if not peer.compiled
]
EAGER += [("block_sparse_attention", name) for name in ("strong", "dense")]
EAGER += [
    (op, name)
    for op, case in CASES.items()
    if not issubclass(case, PatchCase | SparseCase)
    for name in getattr(case, "PEERS", ())
]
TRAINED = [op for op in CASES if "all" in CASES[op].passes()]


def tiny(op: str, dtype: torch.dtype = torch.float32, backward: str = "none") -> BenchCase:
    case = CASES[op]
    shape = TINY if issubclass(case, PatchCase) else SPARSE if case is SparseCase else case.SIZES["small"]
    return CASES[op](op, shape, dtype, backward=backward)


def tiny_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatchCase, "SIZES", {"small": TINY})
    monkeypatch.setattr(SparseCase, "SIZES", {"small": SPARSE})


def tiny_roof() -> RoofMeter:
    return RoofMeter(CPU, torch.float32, size=2**16, side=16)


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float32, id="fp32", marks=pytest.mark.fast), pytest.param(torch.bfloat16, id="bf16")]
)
@pytest.mark.parametrize(("op", "name"), EAGER)
def test_peer_computes_the_op(op: str, name: str, dtype: torch.dtype) -> None:
    for backward in CASES[op].passes():
        case = tiny(op, dtype, backward)
        assert name in case.peers
        result = case.variant(name).make()()
        assert {f"grad_{leaf}" for leaf in case.leaves} <= set(result)
        assert set(result) == set(case.variant("reference").make()())
        assert case.check(result).error <= PEER_BUDGETS


@pytest.mark.fast
def test_every_op_has_a_case() -> None:
    assert set(CASES) == set(OPS)


@pytest.mark.fast
@pytest.mark.parametrize("mode", ["independent", "causal"])
@pytest.mark.parametrize("text", [0, 6])
def test_strong_attention_peer_in_every_mode(mode: str, text: int) -> None:
    case = SparseCase("block_sparse_attention", replace(SPARSE, mode=mode, text=text), torch.float32, backward="all")
    assert case.check(case.variant("strong").make()()).error <= PEER_BUDGETS


@pytest.mark.fast
@pytest.mark.parametrize("mode", ["independent", "causal"])
@pytest.mark.parametrize("text", [0, 6, 30])
def test_mask_of_the_flex_peer(mode: str, text: int) -> None:
    case = SparseCase("block_sparse_attention", replace(SPARSE, mode=mode, text=text))
    row = torch.arange(case.layout.length)
    mask = case.known.visible(row, row, row[:, None], row)
    assert torch.equal(mask, torch.from_numpy(case.layout.dense_mask()[0]))


@pytest.mark.fast
@pytest.mark.parametrize("op", TRAINED)
def test_reference_is_within_its_budget_with_gradients(op: str) -> None:
    case = tiny(op, backward="all")
    result = case.variant("reference").make()()
    assert {f"grad_{name}" for name in case.leaves} <= set(result)
    assert case.check(result).error <= 1


@pytest.mark.fast
@pytest.mark.parametrize(
    ("op", "output"),
    [
        *(("compress_frames", name) for name in ("context", "content", "grad_query", "grad_patches")),
        *(("block_sparse_attention", name) for name in ("out", "grad_q", "grad_k", "grad_v")),
    ],
)
def test_check_sees_one_wrong_element(op: str, output: str) -> None:
    case = tiny(op, backward="all")
    result = case.variant("reference").make()()
    result[output][(-1,) * result[output].dim()] += result[output].abs().max()
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
        ({"op": "nothing"}, "is not one of adaptive_pool"),
        ({"backward": "some"}, "allowed are none, query, all"),
        ({"shape": PatchShape(patches=15)}, "must be a square"),
    ],
)
def test_bad_case(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompressFramesCase(**{"op": "compress_frames", "shape": TINY, **arguments})  # type: ignore[arg-type]


@pytest.mark.fast
def test_executed_flops_of_attention() -> None:
    """A tile of all rows and keys executes every pair of the range."""
    case = SparseCase("block_sparse_attention", SPARSE, torch.float32)
    visible = case.work.flops
    assert visible == 4 * 12 * 4 * case.layout.dense_mask().sum()
    for backend in ("cpu", "triton"):
        executed = case.executed(backend)
        assert executed is not None
        assert executed > 1
        assert f"executes {executed:.2f}x the visible FLOPs" in case.note(backend)
    assert case.executed("reference") is None


@pytest.mark.fast
def test_padding_of_heads_is_executed() -> None:
    """Triton's tiles hold a head in powers of two: 12 in 16, 80 in 64 + 16."""
    plan = SparseCase("block_sparse_attention", SPARSE, torch.float32).plan
    flops = {width: executed_flops(plan, "triton", 1, 1, width, torch.float32) for width in (12, 16, 80)}
    assert flops[12] == flops[16]
    assert flops[80] == 5 * flops[16]


@pytest.mark.fast
def test_work_grows_with_what_is_asked() -> None:
    none, query, every = (tiny("compress_frames", torch.bfloat16, b).work for b in ("none", "query", "all"))
    assert none.flops < query.flops < every.flops
    assert none.bytes_written < query.bytes_written < every.bytes_written
    patches = 70 * 16 * 24 * 2
    assert every.bytes_written - query.bytes_written == patches
    assert query.bytes_read > 2 * patches


@pytest.mark.fast
def test_calls_take_inputs_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    work = tiny("compress_frames").work.bytes
    monkeypatch.setattr("longreel.bench.case.last_level_cache", lambda: work)
    case = tiny("compress_frames")
    taken: list[int] = []
    monkeypatch.setattr(PatchCase, "run", lambda self, form, tensors: taken.append(tensors["patches"].data_ptr()) or {})
    call = case.make("strong")
    for _ in range(4):
        call()
    assert taken[0] != taken[1]
    assert taken[:2] == taken[2:]
    assert case.rotation == {"input_sets": 2, "bytes_a_turn": 2 * work, "last_level_cache": work}
    assert all(torch.equal(case.input_sets[0][name], case.input_sets[1][name]) for name in case.tensors)


@pytest.mark.fast
@pytest.mark.parametrize("op", [op for op in CASES if OPS[op].mutates])
def test_a_variant_writes_into_its_own(op: str) -> None:
    case = tiny(op)
    before = {name: case.tensors[name].clone() for name in OPS[op].mutates}
    for name in ("strong", "reference"):
        case.variant(name).make()()
    assert all(torch.equal(case.tensors[name], value) for name, value in before.items())


@pytest.mark.fast
def test_the_truth_of_attention_head_by_head_is_the_whole() -> None:
    case = tiny("vst_attention")
    whole = super(type(case), case).reference(torch.float64, case.tensors)  # type: ignore[misc]
    torch.testing.assert_close(case.reference(torch.float64, case.tensors)["out"], whole["out"])


@pytest.mark.fast
def test_every_op_has_shapes_of_a_system_and_a_quick_one() -> None:
    # compress_video calls them, and no released system.
    assert set(CASES) == {"token_density", "token_scores", *(op for system in SYSTEMS for op in ops_of(system))}
    for op, case in CASES.items():
        for shapes in (case.SIZES, *case.SYSTEMS.values()):
            assert set(shapes) == {"small", "quick", "hour"}
        assert case.SYSTEMS.keys() <= SYSTEMS.keys(), op


@pytest.mark.slow
def test_measure_reference_beside_the_peers() -> None:
    case = tiny("compress_frames")
    report = measure(case, names=["reference", "strong", "naive"], repeats=2, min_time=0.0, roof=tiny_roof())
    assert report.baseline == "strong"
    assert all(report.time(name) for name in ("reference", "strong", "naive"))
    assert [record["frames"] for record in report.records()] == [70] * 3


@pytest.mark.fast
@pytest.mark.parametrize("op", CASES)
def test_a_record_has_sizes_and_times(op: str) -> None:
    """None has the other's name."""
    case = tiny(op)
    outcome = Outcome("strong", "", None, False, Verdict(0.1, "x"), Peak(2**20, "by hand"), 1, (0.5, 0.25))
    report = Report((outcome,), "strong", case.work, Roof(1e9, 1e9, "", ""), case.facts, {})
    [record] = report.records()
    assert record["samples"] == [0.5, 0.25]
    assert {name: record[name] for name in case.facts} == case.facts


@pytest.mark.fast
@pytest.mark.parametrize("op", CASES)
def test_every_size_is_an_option(op: str) -> None:
    """A result says the command that measures it again."""
    assert {field.name for field in fields(CASES[op].SIZES["hour"])} <= set(inspect.signature(command.bench).parameters)


@pytest.mark.fast
def test_summary_compares_with_the_best_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(name: str, *samples: float) -> Outcome:
        return Outcome(name, "", None, False, Verdict(0.1, "x"), Peak(2**20, "by hand"), 1, samples)

    case = tiny("compress_frames")
    times = {"cpu": 1.0, "strong": 3.0, "batched": 2.0, "naive": 4.0}
    outcomes = tuple(outcome(name, value, value) for name, value in times.items())
    report = Report(outcomes, "strong", case.work, Roof(1e9, 1e9, "", ""), case.facts, {})
    monkeypatch.setattr(BenchCase, "kernels", ["cpu"])
    assert suite.cells(suite.Result(case, report, None))[3:7] == ["cpu", "1.00 s", "2.00x batched", "4.00x"]


@pytest.mark.fast
def test_suite_spends_its_budget_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_shapes(monkeypatch)
    todo = suite.cases(CPU, "small", [torch.float32])
    assert [case.backward for case in todo] == sorted((c.backward for c in todo), key=("none", "query", "all").index)
    results = suite.run(todo, budget=0.0, results=tmp_path)
    assert len(results) == len(todo)
    assert all(result.why == "not run: the time budget was spent" for result in results)
    assert not list(tmp_path.iterdir())
    assert all(len(cells) < len(suite.HEADER) for cells in suite.summary(results))
    assert all(map(suite.cut, results))
    # a step of make gpu has as little for its one case, and is to measure it
    (some,) = suite.run(suite.cases(CPU, "small", [torch.float32], ["token_scores"])[:1], budget=4.9, repeats=1)
    assert some.report is not None


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
    [
        ([], "take --all"),
        (["--op", "adaptive_pool", "--backward", "query", "--device", "cpu"], "adaptive_pool takes none or all"),
        (["--op", "adaptive_pool", "--system", "video-xl"], "video-xl does not call it; it calls vst_append_, vst_att"),
        (["--op", "adaptive_pool", "--heads", "8", "--device", "cpu"], "--heads means nothing to adaptive_pool"),
        (["--op", "adaptive_pool", "--device", "abacus"], "--device 'abacus': this torch measures on cpu"),
        (["--op", "adaptive_pool", "--device", "cpu", "--backend", "abacus"], "no 'abacus' among"),
        (["--op", "adaptive_pool", "--device", "cpu", "--json", "/proc/none/x.jsonl"], "No such file"),
        (["--op", "adaptive_pool", "--device", "cpu", "--json", "/"], "is a folder"),
    ],
)
def test_command_refuses(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(application(), ["bench", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())
