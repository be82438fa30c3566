"""Options of the pytest-benchmark suites, and the one fixture that they share: `pytest benchmarks --benchmark-only`."""

from collections.abc import Callable, Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from longreel.bench.cases import CASES, DTYPES, SIZES, BenchCase, op_names, shape_of
from longreel.bench.tables import size
from longreel.measure.allocator import memory_reused
from longreel.measure.memory import free_memory


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("longreel")
    group.addoption("--size", choices=list(SIZES), default="small", help="hour: 3600 frames of 256 x 1408")
    group.addoption("--op", choices=op_names(), action="append", help="may be repeated; default every op")
    group.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    group.addoption("--dtype", choices=list(DTYPES), action="append", help="may be repeated; default bf16 and fp32")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of (case, variant) runs for every op, dtype, pass and variant that this device can run."""
    if not {"case", "variant"} <= set(metafunc.fixturenames):
        return
    option = metafunc.config.getoption
    cases = [
        CASES[op](op, shape_of(op, option("size"), {}), DTYPES[dtype], torch.device(option("device")), backward)
        for op in option("op") or op_names()
        for dtype in option("dtype") or ("bf16", "fp32")
        for backward in CASES[op].passes()
    ]
    metafunc.parametrize(
        ("case", "variant"),
        [
            pytest.param(case, name, id=f"{case.op}-{case.facts['dtype']}-{case.backward}-{name}")
            for case in cases
            for name in case.names
            if name != "reference" or option("size") == "small"
        ],
    )


@pytest.fixture(scope="session")
def held() -> list[BenchCase]:
    """The one case whose inputs are in memory."""
    return []


@pytest.fixture(scope="session")
def allocated() -> Iterator[str]:
    """How results get their memory, all through the session."""
    with memory_reused(torch.device("cpu")) as how:
        yield how


@pytest.fixture
def measure(benchmark: BenchmarkFixture, held: list[BenchCase], allocated: str) -> Callable[[BenchCase, str], None]:
    """Check a variant, then time it; on a GPU a call ends when its kernels have."""

    def run(case: BenchCase, name: str) -> None:
        if case not in held:
            for other in held:
                other.release()
            held[:] = [case]
        variant, free = case.variant(name), free_memory(case.device)
        assert free is None or variant.needs <= free, f"needs about {size(variant.needs)}, {size(free)} are free"
        call = variant.make()
        verdict = case.check(call())
        assert verdict.error <= variant.budgets, verdict.worst
        benchmark.group = f"{case.op} {case.facts['dtype']} {case.facts['pass']}"
        benchmark.extra_info.update(
            case.facts | case.rotation, variant=name, error_of_budget=verdict.error, allocated=allocated,
            flops=case.work.flops, bytes=case.work.bytes,
        )  # fmt: skip

        def timed() -> None:
            call()
            if case.device.type == "cuda":
                torch.cuda.synchronize(case.device)

        benchmark(timed)

    return run
