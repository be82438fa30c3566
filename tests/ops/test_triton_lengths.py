"""No length compiles anything anew: the kernels that Triton asks its compiler for, counted without a card; none is compiled."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from launched_forms import FORMS, Form, Lengths, compressed, context, empty
from longreel.triton_kernels.common.aot import NoCard, recorded
from longreel.triton_kernels.common.card import LARGE_SHARED, Card, assumed
from triton.runtime import driver
from triton.runtime.jit import JITFunction

pytestmark = pytest.mark.fast
CARD = Card(50 << 20, LARGE_SHARED, 132, wgmma=True)
ROOMS = Path(__file__).parents[2] / "triton_kernels"
DRAWS = 40
ALL = [pytest.param(form, id=f"{op}, {name}") for op, forms in FORMS.items() for name, form in forms.items()]


@contextmanager
def compiled(patch: pytest.MonkeyPatch) -> Iterator[set[tuple[str, str]]]:
    """Launches by Triton under a driver without a card: (kernel, key of Triton's cache) of what its compiler is asked for."""
    asked: set[tuple[str, str]] = set()
    kernels: list[JITFunction] = []
    made = SimpleNamespace(function=0, packed_metadata=(), launch_metadata=lambda *_: None, run=lambda *_: None)

    def compile_one(kernel: JITFunction, key: str, *_: object, **__: object) -> SimpleNamespace:
        asked.add((kernel.fn.__name__, key))
        kernels.append(kernel)
        return made

    with patch.context() as patched, assumed(CARD):
        patched.setattr(driver, "_active", NoCard())
        patched.setattr(JITFunction, "_do_compile", compile_one)
        yield asked
    for kernel in kernels:
        # what it knows of the driver
        kernel.device_caches.pop(0, None)


def test_every_op_is_drawn() -> None:
    rooms = {path.stem for path in ROOMS.iterdir()} - {"__init__", "__pycache__", "common", "frames"}
    assert set(FORMS) == rooms


@pytest.mark.parametrize("form", ALL)
def test_no_length_compiles_anew(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = Lengths()
    with compiled(monkeypatch) as asked:
        form(lengths)
        first = set(asked)
        for _ in range(DRAWS - 1):
            form(lengths)
    assert first
    assert sorted(name for name, _ in asked - first) == []


def test_a_specialised_length_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A multiple of 16 queries is read in wider pieces, by kernels of their own; the next one by the same."""
    with compiled(monkeypatch) as asked:
        counts = []
        for queries in (17, 19, 32, 32):
            context(1, queries, empty(3, 256, 64))
            counts.append(len(asked))
    # the sum over groups is the same
    assert counts == [4, 4, 7, 7]


def test_no_later_launch_of_a_call_compiles_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of odd lengths whose workspace is more than a launch may take."""
    call = lambda: (context(1, 31, empty(100, 257, 64)), compressed(100, 3, 31, (1, 16, 16, 16, 4, 4), masked=True))  # noqa: E731
    with compiled(monkeypatch) as asked:
        call()
        first = set(asked)
        with recorded(CARD) as launches:
            call()
        whole = len(launches)
        monkeypatch.setattr("longreel.triton_kernels.frames.launch.WORKSPACE", 1 << 20)
        call()
        with recorded(CARD) as launches:
            call()
    assert len(launches) > 3 * whole
    # what earlier launches left is added up in float32
    assert [name for name, _ in asked - first] == ["sum_groups_kernel"]


def test_kernels_have_few_parameters() -> None:
    lengths = Lengths()
    with recorded(CARD) as launches:
        for forms in FORMS.values():
            for form in forms.values():
                form(lengths)
    assert {launch.name: len(launch.types) for launch in launches if len(launch.types) > 31} == {}
