"""`import longreel` makes attn_implementation="longreel" known, whenever transformers is imported; never by importing it."""

import ast
import importlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import longreel
from longreel import _transformers
from longreel.integrations import lazy

MODEL = """
    from transformers import LlamaConfig, LlamaForCausalLM
    sizes = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(**sizes, attn_implementation="longreel"))
    import torch
    model(torch.tensor([[1, 2, 3]]))
    print("known")
"""


def python(*codes: str) -> str:
    """What a fresh interpreter prints."""
    code = "".join(textwrap.dedent(part) for part in codes)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_transformers_after_longreel_and_not_by_it() -> None:
    # Nor torch._dynamo, which takes as long as torch itself, though layouts are kept out of compiled graphs.
    loaded = "import longreel, sys; print('transformers' in sys.modules, 'torch._dynamo' in sys.modules)\n"
    assert python(loaded, MODEL) == "False False\nknown\n"


def test_several_threads_may_import() -> None:
    threads = """
    import threading, importlib, longreel, sys
    names = ["transformers.modeling_utils", "transformers.masking_utils"] * 2
    start, failed = threading.Barrier(len(names)), []

    def load(name):
        start.wait()
        try:
            importlib.import_module(name)
        except BaseException as error:
            failed.append(f"{name}: {error!r}")

    threads = [threading.Thread(target=load, args=(name,)) for name in names]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failed, failed
    """
    assert python(threads, MODEL) == "known\n"


# A package like transformers, as far as registering goes.
LIBRARY = """
class AttentionInterface:
    _global_mapping = {}
    @classmethod
    def register(cls, name, function):
        cls._global_mapping[name] = function
class PreTrainedModel:
    def get_correct_attn_implementation(self, requested_attention):
        return requested_attention
    def set_attn_implementation(self, attn_implementation):
        pass
"""
MASKS = """
class AttentionMaskInterface:
    _global_mapping = {}
    @classmethod
    def register(cls, name, function):
        cls._global_mapping[name] = function
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "somelibrary").mkdir()
    (tmp_path / "somelibrary/__init__.py").write_text("")
    (tmp_path / "somelibrary/models.py").write_text(LIBRARY)
    (tmp_path / "somelibrary/masks.py").write_text(MASKS)
    (tmp_path / "someintegration.py").write_text("used = True")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lazy, "MODELS", "somelibrary.models")
    monkeypatch.setattr(lazy, "MASKS", "somelibrary.masks")
    monkeypatch.setattr(lazy, "INTEGRATION", "someintegration")
    finders = list(sys.meta_path)
    sys.meta_path[:] = [finder for finder in finders if not isinstance(finder, lazy._Awaiting)]
    yield "somelibrary.models"
    for name in ("somelibrary", "somelibrary.models", "somelibrary.masks", "someintegration"):
        sys.modules.pop(name, None)
    sys.meta_path[:] = finders


@pytest.mark.fast
@pytest.mark.parametrize("first", ["longreel", "library", "twice"])
def test_either_may_be_imported_first(library: str, first: str) -> None:
    if first == "library":
        importlib.import_module(library)
    for _ in range(2 if first == "twice" else 1):
        lazy.register()
    module, masks = importlib.import_module(library), importlib.import_module("somelibrary.masks")
    assert "longreel" in module.AttentionInterface._global_mapping
    assert "longreel" in masks.AttentionMaskInterface._global_mapping
    assert not any(isinstance(finder, lazy._Awaiting) for finder in sys.meta_path)
    assert module.__loader__.__class__.__name__ == "SourceFileLoader"
    # The first model that asks for it imports the integration.
    model = module.PreTrainedModel()
    assert model.get_correct_attn_implementation("sdpa") == "sdpa"
    assert "someintegration" not in sys.modules
    assert model.get_correct_attn_implementation("longreel") == "longreel"
    assert "someintegration" in sys.modules


@pytest.mark.fast
def test_an_import_that_fails_may_be_tried_again(library: str, tmp_path: Path) -> None:
    lazy.register()
    file = tmp_path / "somelibrary/models.py"
    file.write_text("raise RuntimeError('a fault')")
    with pytest.raises(RuntimeError, match="a fault"):
        importlib.import_module(library)
    file.write_text(LIBRARY + "# longer, so that no cached form is read\n")
    importlib.invalidate_caches()
    assert "longreel" in importlib.import_module(library).AttentionInterface._global_mapping


@pytest.mark.fast
def test_a_library_of_another_shape_imports_with_a_warning(library: str, tmp_path: Path) -> None:
    (tmp_path / "somelibrary/models.py").write_text("nothing = 0")
    lazy.register()
    with pytest.warns(UserWarning, match="attn_implementation='longreel' and 'longreel_flash' are not available"):
        importlib.import_module(library)


def given(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    monkeypatch.setattr(_transformers, "_found", lambda: version)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("version", "line"), [(None, "none is installed"), ("4.57.6", "this environment has 4.57.6")], ids=["absent", "old"]
)
def test_an_environment_without_it_or_with_an_older_one(
    library: str, version: str | None, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rooms that need it say which; an older one imports as ever, without the name."""
    given(monkeypatch, version)
    with pytest.raises(ImportError, match=rf"^longreel.cache needs transformers 5\.\d+ or newer, {line}: pip install"):
        _transformers.require("longreel.cache")
    lazy.register()
    assert "longreel" not in importlib.import_module(library).AttentionInterface._global_mapping


@pytest.mark.fast
@pytest.mark.parametrize("room", ["cache/__init__.py", "integrations/transformers.py"])
def test_rooms_ask_before_they_import_it(room: str) -> None:
    tree = ast.parse((Path(longreel.__file__).parent / room).read_text())
    asked = next(i for i, node in enumerate(tree.body) if ast.unparse(node).startswith("require("))
    name = "longreel." + room.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert ast.unparse(tree.body[asked]) == f"require('{name}')"
    before = [ast.unparse(node) for node in tree.body[:asked] if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [line for line in before if "transformers" in line and "longreel._transformers" not in line]
    assert not [line for line in before if line.startswith("from longreel.") and "_transformers" not in line]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("version", "keyword"), [("5.23.0", "past_key_values"), ("5.24.0", "cache"), ("6.1.dev0", "cache")]
)
def test_the_name_of_the_cache(version: str, keyword: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, version)
    assert _transformers.with_cache(3) == {keyword: 3}
    assert _transformers.cache_of({keyword: 3}) == 3
