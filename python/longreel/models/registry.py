"""The systems by name, one line each: a module and the `System` in it. Nothing is imported before it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longreel.models.system import System

SYSTEMS = {
    "llama-vid": "longreel.models.llama_vid.system:SYSTEM",
    "voco-llama": "longreel.models.voco_llama.system:SYSTEM",
    "video-xl": "longreel.models.video_xl.system:SYSTEM",
    "video-llama": "longreel.models.video_llama.system:SYSTEM",
}


def default() -> str:
    """The system that runs where none is named."""
    return next(iter(SYSTEMS))


def find(name: str) -> "System":
    """ValueError for a name that is not there."""
    if name not in SYSTEMS:
        raise ValueError(f"--system {name!r}: there is {', '.join(SYSTEMS)}")
    module, _, attribute = SYSTEMS[name].partition(":")
    system: System = getattr(import_module(module), attribute)
    return system


def every() -> "list[System]":
    """All of them, in order."""
    return [find(name) for name in SYSTEMS]
