"""The golden replayer notices what is wrong: numbers, names, files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longreel.parity.golden.__main__ import main
from longreel.parity.golden.files import read
from longreel.parity.golden.replay import judge, replay, replayer

pytestmark = pytest.mark.fast
NAME = "llama_vid_token_generation_grad"


@pytest.fixture
def copied(golden_folder: Path, tmp_path: Path) -> Path:
    """One golden pair that a test may damage."""
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"{NAME}{suffix}").write_bytes((golden_folder / f"{NAME}{suffix}").read_bytes())
    return tmp_path / f"{NAME}.json"


def edit(path: Path, **changed: torch.Tensor) -> None:
    tensors = load_file(path.with_suffix(".safetensors"))
    save_file(tensors | {key: value.contiguous() for key, value in changed.items()}, path.with_suffix(".safetensors"))


def edit_case(path: Path, case: str, **changed: object) -> None:
    meta = json.loads(path.read_text())
    meta["cases"][case].update(changed)
    path.write_text(json.dumps(meta))


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_untouched_holds(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(copied, "--backend", "reference") == 0
    said = capsys.readouterr().out
    assert "4 of 4 cases hold" in said
    assert all(case in said for case in ("mean_sharp", "grid2_sharp", "grid3_soft", "none_long_sharp"))


@pytest.mark.parametrize(
    "tensor", ["truth/tokens", "truth/grad.Wk.weight", "truth/grad.text_q", "in/vis_embed", "in/mm_output"]
)
def test_a_wrong_tensor_fails(copied: Path, tensor: str, capsys: pytest.CaptureFixture[str]) -> None:
    key = f"mean_sharp/{tensor}"
    value = read(copied).tensors[key].clone()
    value.view(-1)[value.abs().argmax()] *= 1.01
    edit(copied, **{key: value})
    assert run(copied, "--backend", "reference") == 1
    said = capsys.readouterr().out
    assert "3 of 4 cases hold" in said
    assert "over its budget" in said


def test_a_wrong_weight_fails(copied: Path) -> None:
    key = "weights/model.vlm_att_key_projector.weight"
    edit(copied, **{key: read(copied).tensors[key].T})
    assert not any(verdict.passed for verdict in replay(read(copied), "reference"))


def test_a_wrong_mode_fails(copied: Path) -> None:
    meta = json.loads(copied.read_text())["cases"]["grid2_sharp"]["params"]
    edit_case(copied, "grid2_sharp", params={**meta, "compress_type": "grid:3"})
    failed = {v.case: v for v in replay(read(copied), "reference") if not v.passed}
    assert set(failed) == {"grid2_sharp"}


def test_a_gradient_that_must_vanish(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = replayer(NAME)

    def wrong(*args: object) -> dict[str, torch.Tensor]:
        results = original(*args)
        results["grad.Wk.bias"] = torch.full_like(results["grad.Wk.bias"], 1e-3)
        return results

    monkeypatch.setattr("longreel.parity.golden.replay.replayer", lambda name: wrong)
    verdicts = list(replay(read(copied), "reference"))
    assert all("grad.Wk.bias must vanish" in v.worst.problem for v in verdicts)


def test_an_unknown_quantity_fails(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = json.loads(copied.read_text())["cases"]["mean_sharp"]
    tensors = meta["tensors"] | {"truth/flow": meta["tensors"]["truth/tokens"]}
    edit_case(copied, "mean_sharp", tensors=tensors)
    assert run(copied, "--backend", "reference") == 1
    assert "UNKNOWN: flow is in the file and was not computed" in capsys.readouterr().out


def test_an_unknown_group_fails_unless_left_out(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in (".json", ".safetensors"):
        copied.with_suffix(suffix).rename(copied.parent / f"flow{suffix}")
    assert run(copied.parent) == 1
    assert "UNKNOWN: no replayer for this file" in capsys.readouterr().out
    assert run(copied.parent, "--only", "llama_vid_*") == 1
    assert "no golden files that match llama_vid_*" in capsys.readouterr().err


def test_only_takes_patterns(golden_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(golden_folder, "--only", "llama_vid_token_generation,nothing", "--dtype", "bfloat16") == 0
    assert "11 of 11 cases hold" in capsys.readouterr().out


def test_a_backend_that_cannot_run_fails(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(copied, "--backend", "magic") == 1
    assert "no backend 'magic'" in capsys.readouterr().out


def test_files_that_are_not_golden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "missing.json") == 1
    assert "missing.json does not exist" in capsys.readouterr().err
    (tmp_path / "odd.json").write_text('{"format": "golden/9"}')
    save_file({}, tmp_path / "odd.safetensors")
    assert run(tmp_path) == 1
    assert "format 'golden/9'" in capsys.readouterr().err


def test_a_missing_tensor_fails(copied: Path) -> None:
    tensors = load_file(copied.with_suffix(".safetensors"))
    del tensors["grid3_soft/in/vis_embed"]
    save_file(tensors, copied.with_suffix(".safetensors"))
    failed = [v for v in replay(read(copied), "reference") if not v.passed]
    assert [v.case for v in failed] == ["grid3_soft"]
    assert "has no tensor 'grid3_soft/in/vis_embed'" in failed[0].problem


def test_a_dtype_without_tolerances_is_unknown(copied: Path) -> None:
    """A quantity may leave a dtype out; a case that asks nothing proves nothing."""
    meta = json.loads(copied.read_text())["cases"]["mean_sharp"]["suggested_tolerance"]
    some = {name: {"float32": by["float32"]} if name != "tokens" else by for name, by in meta.items()}
    edit_case(copied, "mean_sharp", suggested_tolerance=some)
    assert all(v.passed for v in replay(read(copied), "reference", torch.bfloat16))
    edit_case(copied, "mean_sharp", suggested_tolerance={name: {"float32": by["float32"]} for name, by in meta.items()})
    failed = [v for v in replay(read(copied), "reference", torch.bfloat16) if not v.passed]
    assert [v.reason for v in failed] == ["the file has no bfloat16 tolerance for this case"]


def test_integers_are_exact(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = read(copied).cases["mean_sharp"]
    results = replayer(NAME)(case, "reference", torch.float32)
    counts = torch.tensor([3, 1, 4])
    monkeypatch.setattr(type(case), "outputs", ["counts"])
    monkeypatch.setattr(
        type(case), "truth", lambda self, name: counts if name == "counts" else self._tensor(f"truth/{name}")
    )
    assert all(q.problem is None for q in judge(case, results | {"counts": counts.int()}, torch.float32))
    wrong = [q.problem for q in judge(case, results | {"counts": counts + 1}, torch.float32) if q.problem]
    assert wrong == ["counts differs, and is exact in the file"]
