"""A native library that was half copied is said and left out: loading it would kill the process (SIGBUS)."""

from pathlib import Path

import pytest

from longreel import _native

FOLDER = Path(_native.__file__).parent
LIBRARIES = [*FOLDER.glob("_ops.so"), *FOLDER.glob("_host.so")]
pytestmark = [pytest.mark.fast, pytest.mark.skipif(len(LIBRARIES) < 2, reason="no native libraries")]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_it_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    for library in LIBRARIES:
        data = library.read_bytes()
        (tmp_path / library.name).write_bytes(data[: int(share * len(data))])
    monkeypatch.setattr(_native, "_FOLDER", tmp_path)
    with pytest.warns(RuntimeWarning, match="kernels do not load, only the reference is left: it is cut short"):
        assert _native._load_ops() == "_ops.so does not load: it is cut short"
    with pytest.warns(RuntimeWarning, match="planner does not load"):
        assert _native._load_host() == (None, "_host.so does not load: it is cut short")


def test_one_without_the_other_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where an older build's planner has another name."""
    monkeypatch.setattr(_native, "_FOLDER", tmp_path)
    assert _native._load_host() == (None, _native._NOT_BUILT)
    assert _native._load_ops() == _native._NOT_BUILT
    (tmp_path / "_ops.so").touch()
    with pytest.warns(RuntimeWarning, match="planner does not load, Python's is left: it is not there; build again"):
        assert _native._load_host() == (None, "_host.so does not load: it is not there; build again")
    (tmp_path / "_ops.so").rename(tmp_path / "_host.so")
    with pytest.warns(RuntimeWarning, match="only the reference is left: it is not there"):
        assert _native._load_ops() == "_ops.so does not load: it is not there; build again"


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_whole_ones_are_not_refused(library: Path) -> None:
    assert not _native._cut_short(library)
