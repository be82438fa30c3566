"""Where a budget stands; of a Triton that has one of its own, that. Nothing is imported that a machine may lack."""

from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent


def budget_path(which: str) -> Path:
    own = HERE / f"{which}-{_triton()}.json"
    return own if which == "triton" and own.exists() else HERE / f"{which}.json"


def _triton() -> str:
    try:
        return ".".join(metadata.version("triton").split(".")[:2])
    except metadata.PackageNotFoundError:
        return ""
