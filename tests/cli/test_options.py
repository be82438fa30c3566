"""Flags made of the systems' own options, without importing a model."""

import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module

import pytest
import toy_system
from typer.testing import CliRunner

from longreel.cli.main import app, make_app
from longreel.models import registry
from longreel.models.system import option

pytestmark = pytest.mark.fast


def test_help_says_whose_an_option_is() -> None:
    for command in ("run", "profile"):
        said = " ".join(CliRunner().invoke(app, [command, "--help"]).stdout.replace("│", " ").split())
        assert "llama-vid: content tokens" in said
        assert "voco-llama: VoCo tokens of a frame" in said
    extract = CliRunner().invoke(app, ["extract", "--help"]).stdout
    assert "--drop-cls" in extract
    assert "--voco" not in extract


def test_one_option_of_two_systems_is_one_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Same:
        voco: int = option(4, "how many.", least=1)

    @dataclass(frozen=True)
    class Other:
        voco: str = option("few", "how many.")

    monkeypatch.setitem(registry.SYSTEMS, "toy", "toy_system:SYSTEM")
    monkeypatch.setattr(toy_system.ToySystem, "Options", Same)
    said = " ".join(CliRunner().invoke(make_app(), ["run", "--help"]).stdout.replace("│", " ").split())
    assert "VoCo tokens of a frame; default 1. toy: how many." in said
    monkeypatch.setattr(toy_system.ToySystem, "Options", Other)
    with pytest.raises(TypeError, match="the option voco of toy is of another type"):
        make_app()


def test_a_value_out_of_range_is_refused() -> None:
    result = CliRunner().invoke(app, ["run", "x.mp4", "--voco", "0"])
    assert result.exit_code == 2
    assert "--voco" in result.stderr
    assert "greater than or equal to 1" in result.stderr


def test_a_count_that_nothing_has_is_refused() -> None:
    """Every flag that is a number: beyond 64 bits torch has no word of its own for it."""
    for command in ("run", "ask", "extract", "profile", "bench"):
        numbers = re.findall(r"(--[a-z-]+)\s+<(?:list\[)?int", CliRunner().invoke(app, [command, "--help"]).stdout)
        assert numbers
        for flag in numbers:
            result = CliRunner().invoke(app, [command, *(["x.mp4"] if command != "bench" else []), flag, str(10**30)])
            assert (result.exit_code, "Traceback" in result.output) == (2, False), (command, flag, result.output)
            assert flag in result.stderr


@pytest.mark.parametrize("system", registry.every(), ids=lambda system: system.name)
def test_public_names_of_a_system_are_there(system: object) -> None:
    package = import_module(type(system).__module__.rpartition(".")[0])
    assert package.SYSTEM is system
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_what_the_command_line_stands_on(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("longreel.cli") or name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as end:
        import_module("longreel.__main__").main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"longreel: the command line needs {missing}: pip install {missing}\n"


@pytest.mark.slow
def test_the_command_line_needs_no_model() -> None:
    code = """
import sys
sys.modules["transformers"] = sys.modules["av"] = None
from typer.testing import CliRunner
from longreel.cli.main import app
assert CliRunner().invoke(app, ["run", "--help"]).exit_code == 0
result = CliRunner().invoke(app, ["run", "x.mp4"])
print(result.exit_code, result.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 longreel: needs packages that are not installed (")


@pytest.mark.slow
def test_without_transformers_the_rest_of_the_command_line_works() -> None:
    """None is there, or an old one."""
    code = """
from longreel import _transformers
from typer.testing import CliRunner
from longreel.cli.main import app
for version in (None, (4, 57)):
    _transformers.version = lambda: version
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    for command in (["run", "x.mp4"], ["extract", "x.mp4", "--out", "f.safetensors"], ["profile", "x.mp4"]):
        result = CliRunner().invoke(app, command)
        print(result.exit_code, result.stderr, end="")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("2 longreel: longreel.models needs transformers 5.") for line in lines)
