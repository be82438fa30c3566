"""Keywords of an attention call: those that leave its result alone, and those that longreel attention does not compute."""

import dis
import inspect
import sys
from collections.abc import Callable, Container, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

HARMLESS = frozenset(
    {
        "cache", "cache_params", "cache_position", "config", "is_first_iteration", "labels", "layer_idx", "logits_to_keep",
        "max_length_k", "max_length_q", "mm_token_type_ids", "num_items_in_batch", "num_logits_to_keep", "output_attentions",
        "output_hidden_states", "output_router_logits", "past_key_values", "position_ids", "return_dict", "return_loss",
        "seq_idx", "shift_labels", "skip_logits", "token_type_ids", "use_cache",
    }
)  # fmt: skip
# What they are, for the line that refuses them.
CHANGES = {
    "softcap": "a cap on the scores",
    "s_aux": "sinks, learned logits beside the scores",
    "sinks": "sinks, learned logits beside the scores",
    "position_bias": "a bias on the scores",
    "attention_bias": "a bias on the scores",
    "alibi": "a bias on the scores",
    "head_mask": "a factor on heads",
    "layer_head_mask": "a factor on heads",
    "indices": "keys chosen by an indexer",
    "block_indices": "key blocks chosen by an indexer",
    "block_table": "a paged cache",
}


def refuse(module: nn.Module, given: Mapping[str, Any]) -> None:
    """Keywords of a call of `module` that longreel attention does not know.

    Raises:
        ValueError: one is set that changes the result, or may.
    """
    name = type(module).__name__
    for keyword, value in given.items():
        if value is None or value is False or keyword in HARMLESS:
            continue
        if keyword in CHANGES:
            raise ValueError(
                f"{name}: longreel attention does not compute {keyword}={described(value)}"
                f" ({CHANGES[keyword]}); 'eager' does"
            )
        if not _eager_ignores(module, keyword):
            raise ValueError(
                f"{name}: longreel attention does not know {keyword}={described(value)}, which may change its result"
            )


def described(value: Any) -> str:
    """A value in few words: a tensor by dtype and shape."""
    if isinstance(value, Tensor):
        return f"<{str(value.dtype).removeprefix('torch.')} {list(value.shape)}>"
    text = repr(value)
    return text if len(text) <= 60 else f"<{type(value).__name__}>"


def _eager_ignores(module: nn.Module, keyword: str) -> bool:
    """Whether the eager attention that stands beside `module` drops the keyword unread."""
    eager = getattr(sys.modules.get(type(module).__module__), "eager_attention_forward", None)
    return eager is not None and not torch.compiler.is_compiling() and keyword not in _read_by(eager)


def drops_others(forward: Callable) -> bool:
    """Whether a layer that attends takes any keyword, and never looks at those that it does not name."""
    forward = inspect.unwrap(forward)
    takes = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(forward).parameters.values())
    attends = any("attn" in name or "attention" in name for name in forward.__code__.co_names)
    return takes and attends and not isinstance(_read_by(forward), _Everything)


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


@cache
def _read_by(function: Callable) -> Container[str]:
    """Keywords that a function may read: all, where it looks into those that it does not name, or hands them on."""
    parameters = inspect.signature(function).parameters
    rest = next((p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD), None)
    used = {
        i.argval for i in dis.get_instructions(function) if i.opname.startswith("LOAD") and i.opname != "LOAD_CONST"
    }
    return _Everything() if rest is None or rest in used else set(parameters)
