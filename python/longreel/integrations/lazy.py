"""The names "longreel" and "longreel_flash" made known to transformers when it comes: `import longreel` itself imports none
of it."""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from longreel import _transformers
from longreel.integrations.classes import check_classes, check_towers

# Of decoders, and of vision towers.
NAME, TOWERS = "longreel", "longreel_flash"
INTEGRATION = "longreel.integrations.transformers"
# Modules of transformers that hold what we register with, and what in them; no model is loaded without the first.
MODELS, MASKS = "transformers.modeling_utils", "transformers.masking_utils"


def register() -> None:
    """In each module now, where it is imported already; else right after it is."""
    waiting = []
    for name in (MODELS, MASKS):
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            _register(module)
        else:
            waiting.append(name)
    if waiting and not any(isinstance(finder, _Awaiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Awaiting(waiting))


class _Awaiting(MetaPathFinder):
    """Finds nothing itself: it has the loaders of the awaited modules register the name after the module has run."""

    def __init__(self, names: list[str]) -> None:
        self.names = set(names)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.names:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if finder is self or find is None else find(fullname, path, target)
            if spec is not None:
                self._follow(spec.loader)
                return spec
        return None

    def _follow(self, loader: Any) -> None:
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.names.discard(module.__name__)
            if not self.names and self in sys.meta_path:
                sys.meta_path.remove(self)
            _register(module)

        # Loaders are made for one module each.
        loader.exec_module = exec_module


def _register(module: ModuleType) -> None:
    """Names only: the integration is imported by the first model that asks for it, when no lock of an import is held."""
    found = _transformers.version()
    if found is None or found < _transformers.OLDEST:
        return
    try:
        masks = module.__name__ == MASKS
        interface = module.AttentionMaskInterface if masks else module.AttentionInterface
        for name, function in ((NAME, "attention"), (TOWERS, "tower_attention")):
            if name not in interface._global_mapping:
                interface.register(name, _late("range_mask" if masks else function))
        if not masks:
            check_classes(module.PreTrainedModel, NAME, lambda: importlib.import_module(INTEGRATION))
            check_towers(module.PreTrainedModel, TOWERS)
    except Exception as error:
        # Nobody's import of transformers fails for us.
        warnings.warn(f"attn_implementation={NAME!r} and {TOWERS!r} are not available: {error!r}", stacklevel=2)


def _late(function: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(INTEGRATION), function)(*args, **kwargs)

    return call
