"""The build backend: setuptools', asked once it is known that the torch to build against will do."""

from importlib import import_module
from typing import Any

from torch_here import native_wanted, torch_dir

_PYTHON = ["setuptools>=77"]
_NATIVE = ["cmake>=3.26", "ninja"]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    if not native_wanted():
        return _PYTHON
    torch_dir()
    return _PYTHON + _NATIVE


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return get_requires_for_build_wheel(config_settings)


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    return _PYTHON


def prepare_metadata_for_build_wheel(*given: Any, **named: Any) -> str:
    return _setuptools().prepare_metadata_for_build_wheel(*given, **named)


def prepare_metadata_for_build_editable(*given: Any, **named: Any) -> str:
    return _setuptools().prepare_metadata_for_build_editable(*given, **named)


def build_wheel(*given: Any, **named: Any) -> str:
    return _setuptools().build_wheel(*given, **named)


def build_editable(*given: Any, **named: Any) -> str:
    return _setuptools().build_editable(*given, **named)


def build_sdist(*given: Any, **named: Any) -> str:
    return _setuptools().build_sdist(*given, **named)


def _setuptools() -> Any:
    return import_module("setuptools.build_meta")
