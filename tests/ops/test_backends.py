"""The backend table, its refusals, and what explain() says of a call."""

import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import longreel
from longreel import BackendError, _native, backends, schemas
from longreel.backends import Request, Row, available, choose, refusal
from longreel.ops.common import hopper
from longreel.ops.registry import OPS
from longreel.schemas import SCHEMAS, kernel_backends, overload
from longreel.testing.cases import corners

pytestmark = pytest.mark.fast

NATIVE = _native.OPS_REFUSAL is None


def arguments(op: str, dtype: torch.dtype = torch.float32) -> dict[str, object]:
    case = next(case for case in corners(op).cases() if case.fast)
    return {
        name: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in case.inputs().items()
    }


@pytest.mark.parametrize("op", OPS)
class TestEveryOp:
    def test_has_the_reference_last(self, op: str) -> None:
        rows = OPS[op].rows
        assert rows[-1].backend == "reference"
        assert torch.float64 in rows[-1].dtypes
        assert len({row.backend for row in rows}) == len(rows)
        assert {row.op for row in rows} == {op}
        assert all(row.why for row in rows)

    def test_kernels_are_schemas(self, op: str) -> None:
        assert {row.backend for row in OPS[op].rows if row.kind == "kernel"} <= set(kernel_backends(op))
        for backend in kernel_backends(op):
            assert overload(op, backend)._schema.overload_name == backend

    def test_names_its_reference_cases(self, op: str) -> None:
        names = [case.name for case in corners(op).cases()]
        assert len(set(names)) == len(names)
        assert any(case.fast for case in corners(op).cases())
        assert corners(op).bad_cases()

    def test_chosen_by_default(self, op: str) -> None:
        listed = [row.backend for row in OPS[op].rows if "cpu" in row.devices and torch.float32 in row.dtypes]
        assert listed[0] == "cpu"
        assert available(op, "cpu") == listed[not NATIVE :]
        assert choose(op, None, Request("cpu", torch.float32)) == available(op, "cpu")[0]
        assert choose(op, None, Request("cpu", torch.float64)) == "reference"
        assert choose(op, None, Request("mps", torch.float32)) == "reference"

    def test_unknown_name(self, op: str) -> None:
        known = ", ".join(repr(row.backend) for row in OPS[op].rows)
        with pytest.raises(BackendError, match=re.escape(f"{op} has no backend 'magic'; it has {known}")):
            OPS[op].public(**arguments(op), backend="magic")

    @pytest.mark.skipif(not NATIVE, reason="the refusal then names the missing libraries")
    def test_named_but_refused(self, op: str) -> None:
        expected = f"{op}: backend='cpu' takes float32, bfloat16, float16, given float64; could run here: reference"
        with pytest.raises(BackendError, match=re.escape(expected)):
            OPS[op].public(**arguments(op, torch.float64), backend="cpu")

    def test_no_silent_fallback(self, op: str) -> None:
        """A row that cannot run raises when it is named, whatever else could."""
        for row in OPS[op].rows:
            if refusal(row, Request("cpu", torch.float32), named=True) is not None:
                with pytest.raises(BackendError, match=f"backend='{row.backend}'"):
                    OPS[op].public(**arguments(op), backend=row.backend)

    def test_a_missing_library_is_said(self, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(backends._MISSING, (op, "cpu"), "built without native libraries")
        rows = [row for row in OPS[op].rows if "cpu" in row.devices and torch.float32 in row.dtypes]
        others = [row.backend for row in rows if row.backend != "cpu"]
        assert choose(op, None, Request("cpu", torch.float32)) == others[0]
        expected = f"backend='cpu' built without native libraries; could run here: {', '.join(others)}"
        with pytest.raises(BackendError, match=re.escape(expected)):
            OPS[op].public(**arguments(op), backend="cpu")
        assert "built without native libraries" in str(longreel.explain(op, **arguments(op)))

    def test_nothing_can_run(self, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backends, "CHOSEN", {})
        for row in OPS[op].rows:
            monkeypatch.setitem(backends._MISSING, (op, row.backend), f"{row.backend} is gone")
        with pytest.raises(BackendError, match=r"no backend can run this call \(.*; reference: reference is gone\)"):
            OPS[op].public(**arguments(op))
        explanation = longreel.explain(op, **arguments(op))
        assert explanation.chosen is None
        assert str(explanation).startswith(f"{op}: no backend can run this call")

    def test_explain(self, op: str) -> None:
        explanation = longreel.explain(op, **arguments(op))
        assert explanation.chosen == available(op, "cpu")[0]
        assert [c.backend for c in explanation.candidates] == [row.backend for row in OPS[op].rows]
        text = str(explanation)
        assert f"-> {explanation.chosen}" in text
        for candidate in explanation.candidates:
            assert (candidate.refusal or candidate.why) in text
        assert "FLOP" in text
        assert "bound: max(" in text
        by_function = longreel.explain(OPS[op].public, **arguments(op))
        assert by_function == explanation

    def test_explain_a_named_backend(self, op: str) -> None:
        assert longreel.explain(op, **arguments(op), backend="reference").chosen == "reference"
        assert longreel.explain(op, **arguments(op), backend="magic").chosen is None

    def test_explain_runs_nothing(self, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for computes in ("plain", "compositions"):
            monkeypatch.setitem(OPS[op].__dict__, computes, None)
        monkeypatch.setattr(schemas, "overload", None)
        monkeypatch.setattr("longreel.ops.op.call", None)
        longreel.explain(op, **arguments(op))

    def test_explain_raises_for_a_misspelt_keyword(self, op: str) -> None:
        given = arguments(op) | {"scal": 2.0}
        for call in (OPS[op].public, partial(longreel.explain, op)):
            with pytest.raises(TypeError, match="got an unexpected keyword argument 'scal'"):
                call(**given)

    def test_explain_counts_autocast(self, op: str) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            inside = longreel.explain(op, **arguments(op))
        # What is changed in place keeps its dtype.
        dtype = torch.float32 if OPS[op].mutates else torch.bfloat16
        assert inside == longreel.explain(op, **arguments(op, dtype))


def test_schemas_are_those_of_the_ops() -> None:
    assert set(SCHEMAS) == set(OPS) | {f"{op}_backward" for op, spec in OPS.items() if spec.backward is not None}


UNPROVEN = [(op, row) for op, spec in OPS.items() for row in spec.rows if not row.proven]


@pytest.mark.parametrize(("op", "row"), UNPROVEN, ids=[f"{op}-{row.backend}" for op, row in UNPROVEN])
def test_what_no_card_has_passed_waits_to_be_named(op: str, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it could run; behind every kernel that is proven."""
    monkeypatch.setitem(backends._MISSING, (op, row.backend), None)
    request = Request("cuda", torch.bfloat16)
    wait = f"has not yet passed its values on a card; only backend='{row.backend}' chooses it"
    assert refusal(row, request) == wait
    assert refusal(row, request, named=True) is None
    assert row.backend not in available(op, "cuda", torch.bfloat16)
    assert wait in str(longreel.explain(op, **arguments(op)))
    assert all(other.proven for other in OPS[op].rows[OPS[op].rows.index(row) + 1 :])
    with pytest.raises(BackendError, match=f"backend='{row.backend}' .*could run here: .*reference"):
        OPS[op].public(**arguments(op, torch.bfloat16), backend=row.backend)


def test_a_kernel_for_hopper_refuses_other_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    on_card = SimpleNamespace(is_cuda=True, device=torch.device("cuda"))
    assert hopper.refused_card(on_card, 9, 10) == "runs on compute capability 9.0 and 10.0, the card has 8.0"
    assert hopper.refused_card(on_card, 8) is None


def test_explain_an_unknown_op() -> None:
    with pytest.raises(ValueError, match=f"'softmax' is not an op of longreel; ops: {', '.join(OPS)}"):
        longreel.explain("softmax")


def test_the_form_and_what_the_other_would_take() -> None:
    """Counted by hand: 3 queries of 2 heads of 4 over 10 keys of width 6, one sample."""
    query, x, weight = torch.zeros(1, 3, 8), torch.zeros(1, 10, 6), torch.zeros(8, 6)
    explanation = longreel.explain("qformer_attention", query, x, weight, weight, num_heads=2)
    absorbed, projected = 4 * 10 * 3 * 2 * 6 + 4 * 3 * 8 * 6, 4 * 10 * 8 * (6 + 3)
    assert explanation.cost.flops == absorbed
    assert f"absorbed into the queries, {absorbed / 1e9:.4g} GFLOP, fewer than" in str(explanation)
    assert f"projected, {projected / 1e9:.4g} GFLOP" in str(explanation)


def test_costs() -> None:
    """Counted by hand: F=3, N=10, M=5, C=24, float32."""
    query, patches = torch.zeros(5, 24), torch.zeros(3, 10, 24)
    cost = longreel.explain("context_attention", query, patches).cost
    assert cost.flops == 2 * 3 * 10 * 24 * (5 + 1)
    assert cost.bytes_read == 4 * (5 * 24 + 3 * 10 * 24)
    assert cost.bytes_written == 4 * (3 * 24 + 3 * 10 + 3 * 5)
    pooled = longreel.explain("adaptive_pool", patches, mode="mean").cost
    assert (pooled.bytes_read, pooled.bytes_written) == (4 * 3 * 10 * 24, 4 * 3 * 24)
    both = longreel.explain("compress_frames", query, patches, mode="mean").cost
    assert both.bytes_read == cost.bytes_read
    assert both.bytes_written == cost.bytes_written + pooled.bytes_written
    assert both.flops == cost.flops + pooled.flops
