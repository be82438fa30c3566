"""Models that transformers is yet to make: patched as they are made, through its own register_patch_mapping."""

import importlib
from collections.abc import Sequence
from typing import Any

from longreel.integrations.patching.live import patch, wanted_rows

MODELS = "transformers.models"


def register_patch_mapping(ops: str | Sequence[str] = "auto", backend: str | None = None) -> None:
    """What transformers makes from now on (``from_pretrained``, ``from_config``) is patched as by `longreel.patch`.

    For its classes in docs/patch.md. Called again it replaces what the call before asked for.

    Args:
        ops, backend: as in `longreel.patch`.

    Raises:
        ImportError: a transformers without this: patch the live model.
        ValueError: ops or backend that there is none of.
    """
    mapping = {}
    for row in wanted_rows(ops, backend):
        for name in row.made:
            module, _, last = name.rpartition(".")
            cls = getattr(importlib.import_module(f"{MODELS}.{module}"), last)
            # a pattern that means this name alone
            mapping[f"^{last}$"] = _later(cls, ops, backend)
    unregister_patch_mapping()
    _theirs().register_patch_mapping(mapping)


def unregister_patch_mapping() -> None:
    """What transformers makes from now on is its own again; models made before stay patched, `longreel.unpatch` ends that."""
    theirs = _theirs()
    ours = [key for key, cls in theirs.get_patch_mapping().items() if cls.__dict__.get("_longreel", False)]
    theirs.unregister_patch_mapping(ours)


def _later(cls: type, ops: str | Sequence[str], backend: str | None) -> type:
    """A class that makes instances of `cls`, patched."""

    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, *args, **kwargs)  # type: ignore[misc]  # of the class that is taken the place of
        # from here on it is what it would have been: pickles, copies and type checks know nothing of this class
        self.__class__ = cls
        patch(self, ops, backend)

    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__init__": make, "_longreel": True}
    return type(cls)(cls.__name__, (cls,), names)


def _theirs() -> Any:
    try:
        return importlib.import_module("transformers.monkey_patching")
    except ImportError as error:
        raise ImportError(
            f"this environment's transformers has no register_patch_mapping ({error}): longreel.patch(model) patches a live model"
        ) from error
