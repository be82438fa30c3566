"""How a stage is called and coloured in every table and picture."""

from longreel.models.registry import find
from longreel.models.system import Stage

_COMMON = {
    "decode": "#9aa5b1",
    "resize": "#9aa5b1",
    "other": "#d8d8d8",
    "untold": "#d8d8d8",
    "read": "#9aa5b1",
    "tower": "#4c78a8",
    "audio": "#f58518",
    "write": "#c9d1d9",
    "load": "#9aa5b1",
    "keep": "#c9d1d9",
    "language": "#b279a2",
}
_OURS, _OWN = "#e45756", ("#72b7b2", "#54a24b", "#eeca3b")


def stage(system: str, name: str) -> Stage:
    """Of a system, by both their names."""
    return find(system).stage(name)


def short(system: str, name: str) -> str:
    """Without what stands in brackets."""
    return stage(system, name).label.split(" (")[0]


def colour(system: str, name: str) -> str:
    if name in _COMMON:
        return _COMMON[name]
    if stage(system, name).ours:
        return _OURS
    others = [each.name for each in find(system).stages if not each.ours and each.name not in _COMMON]
    return _OWN[others.index(name) % len(_OWN)]
