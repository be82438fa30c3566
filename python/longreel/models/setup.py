"""A system with what was chosen for it, preset, options, weights, device: from here on nobody asks which system it is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch

from longreel._transformers import require
from longreel.backends import BackendError
from longreel.data import FeatureWriter, MediaError
from longreel.files.foreign import shown
from longreel.measure.memory import no_room
from longreel.models import registry
from longreel.models.checkpoint import CheckpointError, check_sizes, fingerprint
from longreel.models.inputs import Input, Progress, feature_writer, open_input
from longreel.models.memory import RANDOM, made_by
from longreel.models.options import choices
from longreel.models.processes import Processes
from longreel.models.prompts import Prompts
from longreel.models.record import Ops, RunRecord
from longreel.models.run import extract, give, run
from longreel.models.sizes import DTYPES
from longreel.models.system import Part, System


@dataclass(frozen=True)
class Setup:
    """Made before anything is decoded. given: options that were given, by name; `options` has all of them. dtype: that was
    given, None: the preset's."""

    system: System
    preset: Any
    checkpoint: Path | None
    device: torch.device
    options: Any
    given: Mapping[str, Any]
    backend: str | None = None
    dtype: str | None = None

    @cached_property
    def weights(self) -> str:
        """What a file says of the weights that made it; all of them are read once."""
        return RANDOM if self.checkpoint is None else f"checkpoint {fingerprint(self.checkpoint)}"

    @property
    def prefix(self) -> int:
        """Prefix tokens (CLS) of the features that the tower makes."""
        return self.system.prefix(self.options)

    def prompts(self, texts: Sequence[str] | None = None, length: int | None = None) -> Prompts:
        """In the checkpoint's vocabularies where it has them, else as bytes; answers of at most `length` ids. None: the preset's
        own question."""
        texts = [self.system.question(self.preset.name)] if texts is None else texts
        prompts = self.system.prompts(self.preset, list(texts), length, self.checkpoint)
        for text, (_, after) in zip(texts, prompts.prompts, strict=True):
            if not len(after):
                raise ValueError(f"question {shown(text)}: {self.checkpoint} knows none of its words")
        known = self.preset.language.vocabulary
        for ids in (ids for pair in prompts.prompts for ids in pair if len(ids)):
            if not 0 <= int(ids.min()) <= int(ids.max()) < known:
                raise CheckpointError(
                    f"{self.checkpoint}: a question has the id {int(ids.max())}, the model has {known}"
                )
        return prompts

    def open(self, paths: Sequence[Path], frames: str | None = None, chunk: int | None = None) -> Input:
        """As `open_input`."""
        source = open_input(
            paths, self.system, self.preset, weights=self.weights, prefix=self.prefix, options=self.options,
            frames=frames, chunk=chunk, pin=self.device.type == "cuda", cut=self.system.cut(self.preset, self.options),
        )  # fmt: skip
        for each in fields(self.options) if source.features is not None else ():
            if each.metadata["sound"] and each.name in self.given:
                source.__exit__()
                raise ValueError(
                    f"{flag(each.name)} {self.given[each.name]}: {paths[0]} holds features, its sound was chosen before"
                )
        return source

    def model(self, source: Input, prompts: Prompts | None = None) -> Any:
        """The model with its weights, for an input; without `prompts` only for its encoders."""
        options = self._options_of(source)
        if source.saved is not None and prompts is None:
            raise ValueError(f"{source.saved.path}: keeps no frames")
        try:
            return self.system.build(
                self._preset_of(source), options, source.facts, prompts, device=self.device, checkpoint=self.checkpoint,
                backend=self.backend,
            )  # fmt: skip
        except (ValueError, ImportError, OSError, BackendError):
            raise
        except Exception as error:
            # What a config.json makes of the libraries that build the model differs by what is wrong in it.
            if self.checkpoint is None or no_room(error) is not None:
                raise
            said = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{self.checkpoint}: no model can be made of it ({type(error).__name__}: {said})"
            ) from error

    def run(
        self,
        model: Any,
        source: Input,
        prompts: Prompts,
        *,
        ops: Ops = "longreel",
        compare: bool = False,
        frames: int | None = None,
        writer: FeatureWriter | None = None,
        save: Path | None = None,
        processes: Processes | None = None,
        progress: Progress = lambda done: None,
    ) -> RunRecord:
        """As `longreel.models.run.run`."""
        about = made_by(self.system.name, self.preset, self.weights) | {"options": asdict(self.options)}
        record = run(
            self.system, model, source, prompts, ops=ops, compare=compare, frames=frames, writer=writer, save=save,
            about=about, processes=processes, progress=progress,
        )  # fmt: skip
        record.weights = self.weights
        return record

    def give(
        self, model: Any, source: Input, prompts: Prompts, processes: Processes, *, ops: Ops, frames: int | None
    ) -> int:
        """As `longreel.models.run.give`."""
        return give(self.system, model, source, prompts, processes, ops=ops, frames=frames)

    def extract(
        self, model: Any, source: Input, writer: FeatureWriter, *, progress: Progress = lambda done: None
    ) -> RunRecord:
        """As `longreel.models.run.extract`."""
        record = extract(self.system, model, source, writer, progress=progress)
        record.weights = self.weights
        return record

    def comparable(self, model: Any, prompts: Prompts, expected: int | None) -> Part | None:
        """As `System.comparable`."""
        return self.system.comparable(model, prompts, expected)

    def writer(self, path: Path, source: Input, paths: Sequence[Path], frames: str | None) -> FeatureWriter:
        """A file of the features that come from `source`, which was opened from `paths`."""
        kind = "images" if source.facts.still else "video"
        about = {
            "source": named(paths),
            "kind": kind,
            "frames": "all" if source.facts.still else frames or self.system.frames,
        }
        return feature_writer(
            path, self.system.name, self.preset, about, num_prefix_tokens=source.facts.prefix, weights=self.weights,
            device=self.device, audio=self.system.audio is not None,
        )  # fmt: skip

    def _preset_of(self, source: Input) -> Any:
        """A saved memory is asked in the dtype that it was made in."""
        if source.saved is None or not source.saved.dtype:
            return self.preset
        made = source.saved.dtype
        if self.dtype not in (None, made):
            raise ValueError(f"--dtype {self.dtype}: {source.saved.path} was made in {made}")
        return replace(self.preset, dtype=made)

    def _options_of(self, source: Input) -> Any:
        """A saved memory has its own, which those that were given must not contradict."""
        if source.saved is None:
            return self.options
        path, made = source.saved.path, source.saved.options
        for name, value in made.items():
            if name not in {each.name for each in fields(self.options)}:
                raise ValueError(f"{path}: made with {flag(name)} {value}, which this version does not have")
            own = getattr(self.options, name)
            if name in self.given and own != value:
                raise ValueError(f"{path}: made with {flag(name)} {value}, this run has {own}")
        try:
            _check_values(self.system, made)
        except ValueError as error:
            raise MediaError(f"{path}: contradicts itself, its options: {error}") from None
        return replace(self.options, **made)


def setup_of(
    system: str,
    preset: str,
    checkpoint: Path | None = None,
    device: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    backend: str | None = None,
    save: bool = False,
    dtype: str | None = None,
) -> Setup:
    """ValueError for anything that is not there, ImportError without transformers.

    options: of any system by name, None or False where they were not given. save: whether what is cached is to be saved.
    dtype: what everything is computed in, "float32" or "bfloat16"; None: as the preset says.
    """
    require("longreel.models")
    found = registry.find(system)
    given = {name: value for name, value in (options or {}).items() if value is not None and value is not False}
    own = {each.name for each in fields(found.Options)}
    for name in given:
        if name not in own:
            _refuse(flag(name), [other for other in registry.every() if name in _names(other)], found)
    if save and found.memory is None:
        _refuse("--save-memory", [other for other in registry.every() if other.memory is not None], found)
    _check_values(found, given)
    if preset not in found.presets:
        raise ValueError(f"--preset {preset!r}: {system} has {', '.join(found.presets)}")
    size, place = found.presets[preset], device_of(device)
    if dtype is not None:
        if dtype not in DTYPES:
            raise ValueError(f"--dtype {shown(dtype)}: there is {' or '.join(DTYPES)}")
        if place.type == "cuda" and dtype != "bfloat16":
            raise ValueError(f"--dtype {dtype}: on a GPU everything is computed in bfloat16")
        size = replace(size, dtype=dtype)
    if checkpoint is None:
        checkpoint = _own_weights(found, preset)
    if checkpoint is not None:
        size = found.sized(size, checkpoint)
        check_sizes(checkpoint, size.language.parameters)
    return Setup(
        found,
        size,
        checkpoint,
        place,
        found.Options(**given),
        given,
        backend,
        dtype,
    )


def _own_weights(system: System, preset: str) -> Path | None:
    folder = system.weights(preset)
    if folder is not None and not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"--preset {preset}: its weights are not in {folder}; they are installed with longreel, and stand in its repository"
        )
    return folder


def flag(name: str) -> str:
    """An option's name on the command line."""
    return "--" + name.replace("_", "-")


def named(paths: Sequence[Path]) -> str:
    """Inputs, without their folders."""
    return ", ".join(path.name for path in paths)


def device_of(name: str | None) -> torch.device:
    """By default the GPU where there is one."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"--device {name}: this torch runs on cpu{', cuda' * torch.cuda.is_available()}")
    return device


def _names(system: System) -> set[str]:
    return {each.name for each in fields(system.Options)}


def _refuse(option: str, owners: Sequence[System], system: System) -> None:
    listed = ", ".join(owner.name for owner in owners) or "no system"
    raise ValueError(f"{option}: an option of {listed}, this run is {system.name}")


def _check_values(system: System, given: Mapping[str, Any]) -> None:
    """ValueError where an option is of another type, below its least, or none of its choices: the command line has looked, a
    saved memory and a caller have not."""
    kinds = get_type_hints(system.Options)
    for each in fields(system.Options):
        value, least = given.get(each.name, each.default), each.metadata["least"]
        allowed, types = choices(kinds[each.name]), get_args(kinds[each.name]) or (kinds[each.name],)
        if value == each.default:
            continue
        if allowed and value not in allowed:
            raise ValueError(f"{flag(each.name)} {shown(value)}: there is {' or '.join(allowed)}")
        if not allowed and not any(
            isinstance(value, one) and isinstance(value, bool) == (one is bool) for one in types
        ):
            named = " or ".join(one.__name__ for one in types)
            raise ValueError(f"{flag(each.name)} {shown(value)}: must be {named}")
        if least is not None and value < least:
            raise ValueError(f"{flag(each.name)} {value}: must be at least {least}")
