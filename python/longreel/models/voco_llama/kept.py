"""What a run kept of its frames, as the input of a later run: a VoCoCache on disk, and what made it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longreel.cache import VoCoCache
from longreel.cache.voco import FORMAT
from longreel.data import MediaError
from longreel.data.features import check_whole, read_header
from longreel.models.feed import describe
from longreel.models.record import Record
from longreel.models.voco_llama.model import VoCoLlama
from longreel.models.voco_llama.presets import Preset

SYSTEM = "voco-llama"


@dataclass(frozen=True)
class Kept:
    """frames, patches: that were seen. options: of the command line that the file was made with. about: all it says of itself."""

    path: Path
    frames: int
    patches: int
    options: dict[str, Any]
    about: dict[str, Any]

    @classmethod
    def of(cls, path: Path, preset: Preset, weights: str) -> "Kept | None":
        """None where the file is none of `keep`; MediaError where another model made it, or it was cut short."""
        about = described(path)
        if about is None:
            return None
        for key, ours in _made_by(preset, weights).items():
            if about.get(key) != ours:
                raise MediaError(f"{path}: made with {key} {about.get(key)!r}, this run has {key} {ours!r}")
        return cls(path, about["frames"], about["patches"], about["options"], about)

    @property
    def expected(self) -> int:
        return self.frames

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def described(path: Path) -> dict[str, Any] | None:
    """What a file of `keep` says of itself, None of another; MediaError where it was cut short."""
    about = VoCoCache.described(path)
    if about is None:
        _refuse_cut(path)
    return about


def _refuse_cut(path: Path) -> None:
    # safetensors opens no file that was cut, but its header is still there.
    try:
        header, start = read_header(path)
        form = json.loads(header.pop("__metadata__")["longreel"])["format"]
        size = start + max(tensor["data_offsets"][1] for tensor in header.values())
    except (MediaError, LookupError, TypeError, ValueError):
        return
    if form == FORMAT:
        check_whole(path, size)


def keep(cache: VoCoCache, path: Path, model: VoCoLlama, record: Record, weights: str) -> None:
    """Write what a run keeps of its frames."""
    about = _made_by(model.preset, weights) | {"frames": record.frames, "patches": record.patches}
    cache.save(path, about | {"options": options_of(model)})


def options_of(model: VoCoLlama) -> dict[str, Any]:
    """What the command line calls the model's rule."""
    rule = model.decoder.rule
    return {"voco": rule.count, "mode": rule.mode, "positions": "absolute" if rule.absolute else "compact"}


def _made_by(preset: Preset, weights: str) -> dict[str, str]:
    return {**describe(SYSTEM, preset, weights), "language": str(preset.language)}
