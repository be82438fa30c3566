"""What a run keeps of its frames as a file, the input of later questions: which model made it, of how many frames, how."""

import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from longreel.data import MediaError
from longreel.files.foreign import ForeignError, parsed, shown
from longreel.files.tensors import CutError, TensorFile
from longreel.models.sizes import Preset

# What a file says of weights that were drawn.
RANDOM = "random, seed 0"
# More than sizes take as text.
_LONGEST = 10_000


@dataclass(frozen=True)
class SavedMemory:
    """frames, patches: that were read. options: of the system, that the file was made with. dtype: of what is cached, "" where it
    is of none that models compute in."""

    path: Path
    frames: int
    patches: int
    options: dict[str, Any]
    dtype: str = ""


def describe(system: str, preset: Preset, weights: str = RANDOM) -> dict[str, str]:
    """What a feature file says of the tower that made it."""
    return {"system": system, "preset": preset.name, "tower": str(preset.tower), "weights": weights}


def made_by(system: str, preset: Preset, weights: str = RANDOM) -> dict[str, str]:
    """What a saved memory says of the model that made it."""
    return {**describe(system, preset, weights), "language": str(preset.language)}


def check_made_by(path: Path, about: dict[str, Any], expected: dict[str, str], sizes: Preset) -> None:
    """MediaError unless the file says the same of what made it."""
    for key, ours in expected.items():
        theirs, size = about.get(key), getattr(sizes, key, None) if key in ("tower", "language") else None
        if theirs != ours and not (size is not None and _same_size(str(theirs), size)):
            raise MediaError(f"{path}: made with {key} {shown(theirs)}, this run has {key} {ours!r}")


def _same_size(text: str, size: Any) -> bool:
    """Whether an older version wrote `text` of the same sizes: fields that it did not know have their default here."""
    if len(text) > _LONGEST:
        return False
    theirs = dict(re.findall(r"(\w+)=([^,()]+)", text))
    ours = {each.name: each for each in fields(size)}
    return (
        bool(theirs)
        and theirs.keys() <= ours.keys()
        and all(
            theirs[name] == repr(getattr(size, name))
            if name in theirs
            else each.default is not MISSING and getattr(size, name) == each.default
            for name, each in ours.items()
        )
    )


def described(path: Path) -> dict[str, Any] | None:
    """What a saved memory says of itself, None of another file; MediaError where it was cut short."""
    try:
        with TensorFile(path) as file:
            about = parsed(file.header.metadata["longreel"], sorts=(dict,))["about"]
    except CutError as error:
        raise MediaError(str(error)) from None
    except (ForeignError, LookupError):
        return None
    return about if isinstance(about, dict) else None


def open_memory(path: Path, system: str, preset: Preset, weights: str) -> SavedMemory | None:
    """None where the file is no saved memory; MediaError where another system or model made it, or it was cut short."""
    about = described(path)
    if about is None:
        return None
    if about.get("system", system) != system:
        raise MediaError(f"{path}: a memory saved by {about['system']}, this run is {system}")
    check_made_by(path, about, made_by(system, preset, weights), preset)
    for name in ("frames", "patches"):
        if type(about.get(name)) is not int or not 0 < about[name] < 2**62:
            raise MediaError(f"{path}: contradicts itself, its {name} are {shown(about.get(name))}")
    options = about.get("options")
    if not isinstance(options, dict):
        raise MediaError(f"{path}: contradicts itself, its options are {shown(options)}")
    return SavedMemory(path, about["frames"], about["patches"], options, dtype_in(path))


def dtype_in(path: Path) -> str:
    """The dtype that a saved memory was computed in; frequencies and the like are float32 in every file."""
    with TensorFile(path) as file:
        found = {entry.dtype for entry in file.header.entries.values()}
    return "bfloat16" if "BF16" in found else "float32" if "F32" in found else ""
