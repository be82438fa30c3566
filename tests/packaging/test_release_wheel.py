"""What .ci/wheel.py (`make wheel`) looks at: tag, contents, and README's snippet, without building or downloading."""

import os
import runpy
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fast
ROOT = Path(__file__).parents[2]
LIBRARIES = ("longreel/_ops.so", "longreel/_host.so")
GOOD = "longreel-0.1.0-py3-none-manylinux_2_28_x86_64.whl"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / ".ci/wheel.py"))


@pytest.mark.parametrize(
    ("name", "held", "wrong"),
    [
        (GOOD, LIBRARIES, ""),
        ("longreel-0.1.0-py3-none-linux_x86_64.whl", LIBRARIES, "the tag is not py3-none-manylinux"),
        ("longreel-0.1.0-cp311-cp311-manylinux_2_28_x86_64.whl", LIBRARIES, "the tag is not py3-none-manylinux"),
        (GOOD, LIBRARIES[:1], "its libraries are ['longreel/_ops.so']"),
        (GOOD, (*LIBRARIES, "longreel.libs/libtorch_cpu-1f.so"), "libtorch_cpu"),
        (GOOD, (*LIBRARIES, "tests/x.py"), "its top level is ['longreel', 'tests']"),
    ],
)
def test_a_finished_wheel(script: dict[str, Any], tmp_path: Path, name: str, held: tuple[str, ...], wrong: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as wheel:
        for each in (*held, "longreel-0.1.0.dist-info/WHEEL"):
            wheel.writestr(each, "")
    said = script["faults"](tmp_path / name)
    assert bool(said) == bool(wrong)
    assert wrong in "\n".join(said)


def test_torchs_own_libraries_are_left_out(script: dict[str, Any]) -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    assert "target_link_libraries(_ops PRIVATE torch torch_cpu)" in text
    assert {"libtorch.so", "libtorch_cpu.so"} <= set(script["TORCHS"])


def test_the_snippet_that_is_run_is_readmes(script: dict[str, Any]) -> None:
    assert "import longreel" in script["snippet"]()


def test_only_a_loaded_machine_is_an_excuse(script: dict[str, Any]) -> None:
    took = script["Took"]
    assert took(wall=141, cpu=9, others=0.8).undecided()
    assert not took(wall=19, cpu=9, others=0.8).undecided()
    assert not took(wall=21, cpu=9, others=0.05).undecided()
    assert not took(wall=141, cpu=21, others=0.8).undecided()
    ran = script["timed"](sys.executable, "-c", "sum(range(3_000_000))")
    assert 0 < ran.cpu < 2 * ran.wall * os.cpu_count()
    assert 0 <= ran.others < 1
