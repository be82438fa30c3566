"""`longreel parity FOLDER`: a model of transformers in a folder, or what a function makes, compared whole."""

import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from longreel._transformers import require
from longreel.files.foreign import ForeignError, first_line, read_json, shown
from longreel.files.tensors import TensorFile
from longreel.measure.memory import no_room
from longreel.models.checkpoint import files_in, is_weights
from longreel.parity.inputs import drawn_inputs, read_inputs
from longreel.parity.lines import Drift
from longreel.parity.whole import whole

_LAYERS = {"num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "depth"}
_WIDTHS = {"hidden_size", "intermediate_size", "vocab_size"}
# What PyTorch's embedding says on a CPU; another IndexError is a fault of somebody's, and stays one.
_NO_SUCH_ROW = "index out of range in self"
_KERNELS = {"attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"}


def folder_drifts(
    folder: Path,
    dtypes: Sequence[torch.dtype],
    *,
    inputs: Path | None = None,
    frames: int = 4,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Iterator[Drift]:
    """Of the model in `folder`, loaded once a dtype; options: as `whole`.

    Raises:
        ValueError: no such folder, no class of transformers' that its config.json names, or as `whole`.
    """
    for dtype in dtypes:
        model = loaded(folder, dtype, device)
        with known_ids(folder):
            given = read_inputs(inputs) if inputs is not None else drawn_inputs(model, frames=frames)
            drift = whole(model, {key: value.to(device) for key, value in given.items()}, **options)
        yield drift


def loaded(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> Any:
    """The model in a folder of transformers, for inference.

    Raises:
        ForeignError: there is none, or it cannot be loaded.
    """
    config = _config_of(folder)
    check_folder(folder, config)
    cls = _class_of(folder, config)
    try:
        with _told_once_loaded():
            model = cls.from_pretrained(folder, dtype=dtype, local_files_only=True, trust_remote_code=False)
        return model.to(device).eval()
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # what damaged weights raise differs by version
        if no_room(error) is not None:
            raise
        raise ForeignError(f"{folder}: cannot be loaded ({type(error).__name__}: {first_line(error)[:200]})") from None


class _Held(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records = list[logging.LogRecord]()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _told_once_loaded() -> Iterator[None]:
    """What transformers logs is held back until it has loaded: where it fails, one line says why."""
    logger, held = logging.getLogger("transformers"), _Held()
    handlers, logger.handlers = logger.handlers, [held]
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
    for record in held.records:
        logger.handle(record)


def made_drifts(made_by: str, dtypes: Sequence[torch.dtype], **options: Any) -> Iterator[Drift]:
    """Of what MODULE:FUNCTION gives, a pair (model, inputs); the model is cast to each dtype. options: as `whole`.

    Raises:
        ValueError: there is no such function, it gives something else, or as `whole`.
    """
    make = function_of(made_by)
    for dtype in dtypes:
        model, inputs = pair_of(made_by, make)
        yield whole(model.to(dtype), inputs, **options)


def function_of(made_by: str) -> Callable[[], Any]:
    """ValueError where it names none."""
    module, _, name = made_by.partition(":")
    if not name:
        raise ValueError(f"{made_by!r} is not MODULE:FUNCTION")
    sys.path.insert(0, "")
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{made_by!r}: {first_line(error)}") from None
    finally:
        sys.path.remove("")
    if not callable(make):
        raise ValueError(f"{made_by!r} is a {type(make).__name__}, not a function")
    found: Callable[[], Any] = make
    return found


def pair_of(made_by: str, make: Callable[[], Any]) -> tuple[Any, Any]:
    """ValueError where it makes something else."""
    made = make()
    if not (isinstance(made, tuple) and len(made) == 2):
        raise ValueError(f"{made_by!r} gave a {type(made).__name__}; allowed: a pair (model, inputs)")
    return made


@contextmanager
def known_ids(folder: Path) -> Iterator[None]:
    """ForeignError where a model looks up an id that it has no row for, as one of config.json's beyond its vocabulary."""
    try:
        yield
    except IndexError as error:
        if first_line(error) != _NO_SUCH_ROW:
            raise
        raise ForeignError(f"{folder}: its model has no place for its ids ({_NO_SUCH_ROW})") from None


def check_folder(folder: Path, config: dict[str, Any]) -> None:
    """ForeignError before anything is made of what hangs, takes all memory or is code: a pipe, sizes that the weights there
    cannot be of, a kernel of the Hub's."""
    for path in files_in(folder):
        if path.exists() and not path.is_file():
            raise ForeignError(f"{path}: is not a regular file")
    weights = [path for path in files_in(folder) if is_weights(path) and path.suffix != ".json"]
    plain = [path for path in weights if path.suffix == ".safetensors"]
    # Entries of pickled files are not counted: they take as long to read as to load.
    entries = sum(map(_entries_in, plain)) if len(plain) == len(weights) else 0
    for name, value in _settings(config):
        if name in _KERNELS and "/" in str(value):
            raise ForeignError(f"{folder}/config.json: {name} {shown(value)} names code of the Hub, which is not run")
        most = entries if name in _LAYERS else sum(path.stat().st_size for path in weights) if name in _WIDTHS else 0
        if most and isinstance(value, int) and value > most:
            raise ForeignError(
                f"{folder}/config.json: {name} {shown(value)} is more than the weights there have room for"
            )


def _entries_in(path: Path) -> int:
    with TensorFile(path) as file:
        return len(file.header.entries)


def _settings(value: object) -> Iterator[tuple[str, object]]:
    """Names and values of a config.json and of all inside it."""
    if isinstance(value, list):
        for each in value:
            yield from _settings(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name, each
            yield from _settings(each)


def _config_of(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").exists():
        raise ForeignError(f"{folder}: not a folder with a model of transformers (no config.json)")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ForeignError(f"{folder}/config.json: must be an object, is {shown(config)}")
    return config


def _class_of(folder: Path, config: dict[str, Any]) -> Any:
    require("longreel.parity")
    import transformers

    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    cls = getattr(transformers, name, None) if isinstance(name, str) else None
    if cls is None or not hasattr(cls, "from_pretrained"):
        raise ForeignError(f"{folder}/config.json: architectures {shown(names)} names no class of transformers'")
    return cls
