"""Ops in the place of methods of models that people already have: live ones, and those made later."""

from longreel.integrations.patching.later import register_patch_mapping, unregister_patch_mapping
from longreel.integrations.patching.live import PatchLine, PatchReport, patch, unpatch
from longreel.integrations.patching.replacement import Aside, Patch, Replacement

__all__ = [
    "Aside",
    "Patch",
    "PatchLine",
    "PatchReport",
    "Replacement",
    "patch",
    "register_patch_mapping",
    "unpatch",
    "unregister_patch_mapping",
]
