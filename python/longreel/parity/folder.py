"""`longreel parity FOLDER`: a model of transformers in a folder, or what a function makes, compared whole."""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from longreel._transformers import require
from longreel.files.foreign import ForeignError, first_line, read_json, shown
from longreel.measure.memory import no_room
from longreel.parity.inputs import drawn_inputs, read_inputs
from longreel.parity.lines import Drift
from longreel.parity.whole import whole


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
        given = read_inputs(inputs) if inputs is not None else drawn_inputs(model, frames=frames)
        yield whole(model, {key: value.to(device) for key, value in given.items()}, **options)


def loaded(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> Any:
    """The model in a folder of transformers, for inference.

    Raises:
        ForeignError: there is none, or it cannot be loaded.
    """
    cls = _class_of(folder)
    try:
        model = cls.from_pretrained(folder, dtype=dtype, local_files_only=True, trust_remote_code=False)
        return model.to(device).eval()
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # what damaged weights raise differs by version
        if no_room(error) is not None:
            raise
        raise ForeignError(f"{folder}: cannot be loaded ({type(error).__name__}: {first_line(error)[:200]})") from None


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


def _class_of(folder: Path) -> Any:
    require("longreel.parity")
    import transformers

    if not (folder / "config.json").exists():
        raise ForeignError(f"{folder}: not a folder with a model of transformers (no config.json)")
    config = read_json(folder / "config.json")
    names = config.get("architectures") if isinstance(config, dict) else None
    name = names[0] if isinstance(names, list) and names else None
    cls = getattr(transformers, name, None) if isinstance(name, str) else None
    if cls is None or not hasattr(cls, "from_pretrained"):
        raise ForeignError(f"{folder}/config.json: architectures {shown(names)} names no class of transformers'")
    return cls
