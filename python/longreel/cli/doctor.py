"""`longreel doctor`: what is installed, which backends each op can use here, why not the others, and what to do next."""

import importlib.metadata
import importlib.util
import json
import os
import platform
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import longreel
from longreel import _native
from longreel.backends import Request, Row, refusal
from longreel.cli.console import one_line_errors
from longreel.ops.registry import OPS

_PACKAGES = ("numpy", "triton", "flash-attn", "transformers", "av", "safetensors")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _verdict(row: Row, device: str) -> str | None:
    """Why `row` does not run on `device` here, or None."""
    objection = refusal(row, Request(device, torch.float32))
    return f"for {' or '.join(row.devices)} tensors" if objection and device not in row.devices else objection


def findings() -> dict[str, Any]:
    """Everything that `doctor` prints, as plain data."""
    record = _native.build_record()
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    ops = {
        name: {device: {row.backend: _verdict(row, device) for row in spec.rows} for device in _devices()}
        for name, spec in OPS.items()
    }
    return {
        "longreel": longreel.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "gpus": gpus,
        "packages": {name: _version(name) for name in _PACKAGES},
        "native": {"build": record, "problem": _native.OPS_REFUSAL or _native.HOST_REFUSAL},
        "cpu": {
            "isas": list(_native.cpu_isas()),
            "forced": os.environ.get("LONGREEL_CPU_ISA"),
            "threads": torch.get_num_threads(),
        },
        "ops": ops,
        "advice": _advice(record, gpus),
    }


def _advice(record: dict[str, str], gpus: list[str]) -> list[str]:
    advice = []
    if _native.OPS_REFUSAL is not None:
        advice.append(
            "The C++ kernels are missing: reinstall with a C++17 compiler (pip install --force-reinstall --no-deps .)."
        )
    if gpus and record.get("cuda", "no") == "no":
        advice.append(
            "A GPU is here but the CUDA C++ kernels are not: reinstall with nvcc on PATH and LONGREEL_CUDA=1."
        )
    if gpus and importlib.util.find_spec("triton") is None:
        advice.append("A GPU is here but Triton is not: pip install triton.")
    if not gpus and torch.version.cuda is not None:
        advice.append("This torch has CUDA but finds no GPU: everything runs on the CPU.")
    if _version("av") is None or _version("transformers") is None:
        advice.append("To run on video files: pip install 'longreel[video]'.")
    return advice or ["Nothing to do: every kernel that this machine can run is there."]


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Explain this installation: versions, kernels, what runs where and why not elsewhere."""
    with one_line_errors():
        found = findings()
        if as_json:
            print(json.dumps(found, indent=2))
        else:
            _show(found)


def _show(found: dict[str, Any]) -> None:
    console = Console()
    facts = Table(show_header=False, box=None, pad_edge=False)
    native, cpu = found["native"], found["cpu"]
    packages = ", ".join(f"{name} {version or 'absent'}" for name, version in found["packages"].items())
    built = ", ".join(f"{key} {value}" for key, value in native["build"].items())
    for key, value in (
        ("longreel", f"{found['longreel']} on Python {found['python']}"),
        ("torch", f"{found['torch']}, CUDA {found['torch_cuda'] or 'none'}"),
        ("GPU", ", ".join(found["gpus"]) or "none"),
        ("CPU", f"{', '.join(cpu['isas']) or 'no native kernels'}; {cpu['threads']} threads"),
        ("native build", native["problem"] or built),
        ("packages", packages),
    ):
        facts.add_row(f"[bold]{key}[/bold]", value)
    console.print(facts)
    table = Table(title="\nWhat runs here (best first)", title_justify="left")
    for column in ("op", "device", "backend", "verdict"):
        table.add_column(column)
    for op, devices in found["ops"].items():
        for device, rows in devices.items():
            for i, (backend, objection) in enumerate(rows.items()):
                verdict = "[green]runs[/green]" if objection is None else objection
                table.add_row(op if i == 0 else "", device if i == 0 else "", backend, verdict)
    console.print(table)
    for line in found["advice"]:
        console.print(f"- {line}", markup=False)
