"""The op contract, what is refused: bad input, and what a backend does not serve, in one clear line."""

import pytest
from contract import CASES, KINDS, marked, narrow, refused

from longreel import BackendError
from longreel.ops.registry import OPS
from longreel.testing.cases import corners
from longreel.testing.cases.case import BadCase, Case
from longreel.testing.runner import Recorder, Variant, prepare, variants

REFUSED = [
    (variant, case)
    for op in OPS
    for variant in variants(op, kinds=KINDS)
    for case in CASES[op]
    if case.name in refused(variant)
]


@pytest.mark.parametrize(
    ("variant", "case"), [pytest.param(v, c, id=f"{v}-{c.name}", marks=marked(v)) for v, c in REFUSED]
)
@pytest.mark.fast
def test_refused_with_the_reason(variant: Variant, case: Case) -> None:
    reason = refused(variant)[case.name]
    with pytest.raises(BackendError, match=f"backend='{variant.backend}' .*{reason}.*; could run here: .*reference"):
        variant.spec.public(**prepare(case.inputs(), narrow(variant), variant.device), backend=variant.backend)


BAD = [(variant, bad) for op in OPS for variant in variants(op, kinds=KINDS) for bad in corners(op).bad_cases()]


@pytest.mark.parametrize(("variant", "bad"), [pytest.param(v, b, id=f"{v}-{b.name}", marks=marked(v)) for v, b in BAD])
@pytest.mark.fast
def test_bad_input(variant: Variant, bad: BadCase) -> None:
    """One clear line before any launch: what was given, what is allowed."""
    with Recorder() as recorder, pytest.raises(bad.error, match=bad.says) as caught:
        variant.spec.public(**bad.inputs, backend=variant.backend)
    assert "\n" not in str(caught.value)
    assert not recorder.calls
