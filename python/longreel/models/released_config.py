"""A checkpoint's own config.json: which entries decide what, and those that this package does not compute."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from longreel.files.foreign import ForeignError, shown
from longreel.models.sizes import LanguageConfig, LanguageSize

# A released model_type, and transformers' of the language model inside.
_LANGUAGES = {
    "llama": "llama", "llava": "llama", "llava_llama": "llama", "mistral": "mistral", "llava_mistral": "mistral",
    "qwen2": "qwen2", "llava_qwen": "qwen2", "llava_qwen2": "qwen2",
}  # fmt: skip
# Other names for what a configuration has, and what is of its files, its training or its answers.
_OLDER = {"rope_scaling", "rope_theta"}
_IDLE = re.compile(
    r"_.*|architectures|model_type|transformers_version|(torch_)?dtype|torchscript|tokenizer_.*|(un)?freeze_.*|tune_.*|.*_lr"
    r"|use_mm_proj|mm_use_im_patch_token|image_processor|image_grid_pinpoints|max_token|vision_tower|is_decoder"
)
# Entries that matter by their value: those allowed, None where it is absent.
_ALLOWED: dict[str, tuple[object, ...]] = {
    "mm_use_im_start_end": (None, False),
    "mm_resampler_type": (None,),
    "mm_patch_merge_type": (None, "flat"),
    "image_aspect_ratio": (None, "pad", "square"),
}
_SIZES = {
    "hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads", "intermediate_size": "mlp",
    "vocab_size": "vocabulary",
}  # fmt: skip
# Positions that a rotary embedding was trained for where config.json says none, stretched by its factor.
_TRAINED_POSITIONS = 4096


class CheckpointError(ForeignError):
    """The folder cannot be used: one line saying which entry and why."""


def sized_language(
    language: LanguageSize, config: Mapping[str, Any], where: str = "config.json", own: Collection[str] = ()
) -> LanguageSize:
    """`language` as a config.json says it is, sizes and all else; sizes that it leaves out stay.

    Args:
        where: for errors. own: further entries that the caller reads.

    Raises:
        CheckpointError: an entry is not understood, or says what is not computed here.
    """
    found = _language_config(language, config, where, own)
    count(config, where, "max_token", 1, 2**31)
    try:
        return _sized(language, found, found.build(), config, where)
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # what transformers raises for a wrong value differs by version
        raise CheckpointError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from None


def _sized(
    language: LanguageSize, found: LanguageConfig, built: Any, config: Mapping[str, Any], where: str
) -> LanguageSize:
    from transformers.activations import ACT2FN
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = built.rope_parameters or {}
    kind = rope.get("rope_type", "default")
    if kind != "default" and kind not in ROPE_INIT_FUNCTIONS:
        raise CheckpointError(
            f"{where}: rope_type {shown(kind)} is not understood; there is {', '.join(ROPE_INIT_FUNCTIONS)}"
        )
    if built.hidden_act not in ACT2FN:
        raise CheckpointError(f"{where}: hidden_act {shown(built.hidden_act)} is not understood")
    sizes = {name: getattr(built, name) for name in (*_SIZES, "num_key_value_heads")}
    for name in sizes:
        count(sizes, where, name, 1, 2**31)
    if built.num_attention_heads % built.num_key_value_heads:
        raise CheckpointError(
            f"{where}: {built.num_attention_heads} num_attention_heads are no multiple of"
            f" {built.num_key_value_heads} num_key_value_heads"
        )
    return replace(
        language,
        width=built.hidden_size,
        layers=built.num_hidden_layers,
        heads=built.num_attention_heads,
        kv_heads=built.num_key_value_heads,
        mlp=built.intermediate_size,
        vocabulary=built.vocab_size,
        positions=_positions(built, rope, config),
        rope_factor=float(rope["factor"]) if kind == "linear" else 1.0,
        config=found,
    )


def check_allowed(config: Mapping[str, Any], where: str, name: str, allowed: Collection[object]) -> None:
    """CheckpointError unless the entry `name` has one of the values `allowed` (None: it is absent)."""
    value = config.get(name)
    if not isinstance(value, (str, int, float, bool, type(None))) or value not in allowed:
        said = ", ".join("none" if one is None else str(one) for one in allowed)
        raise CheckpointError(f"{where}: {name} {shown(value)} is not computed here; there is {said}")


def count(config: Mapping[str, Any], where: str, name: str, default: int, most: int = 1 << 20) -> int:
    """The entry `name`, `default` where it is absent or null; CheckpointError unless it is a whole number from 1 to `most`."""
    value = config.get(name)
    if value is None:
        return default
    if type(value) is not int or not 1 <= value <= most:
        raise CheckpointError(f"{where}: {name} must be a whole number above 0, at most {most}, is {shown(value)}")
    return value


def _language_config(
    language: LanguageSize, config: Mapping[str, Any], where: str, own: Collection[str]
) -> LanguageConfig:
    from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedConfig

    kind = config.get("model_type") or "llama"
    if not isinstance(kind, str) or kind not in _LANGUAGES:
        raise CheckpointError(f"{where}: model_type {shown(kind)} is not understood; there is {', '.join(_LANGUAGES)}")
    if config.get("auto_map"):
        raise CheckpointError(f"{where}: auto_map names code of the checkpoint's own, which is not run")
    for name, allowed in _ALLOWED.items():
        if name not in own:
            check_allowed(config, where, name, allowed)
    base = {*PreTrainedConfig().to_dict(), *GenerationConfig().to_dict()}
    known = {*CONFIG_MAPPING[_LANGUAGES[kind]]().to_dict(), *_OLDER}
    for name, value in config.items():
        # What is off, or empty, says nothing.
        if value and name not in {*base, *known, *own, *_ALLOWED} and not _IDLE.fullmatch(name):
            raise CheckpointError(f"{where}: {name} {shown(value)} is not understood")
    given = {theirs: getattr(language, ours) for theirs, ours in _SIZES.items()}
    # Its padding id is of no layer, and not always in the vocabulary.
    given |= {
        name: config[name] for name in known - set(PreTrainedConfig().to_dict()) - {"pad_token_id"} if name in config
    }
    return LanguageConfig(_LANGUAGES[kind], json.dumps(given, sort_keys=True))


def _positions(built: Any, rope: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """How many there are: the embedding of these two changes with the length beyond, tokens cached before would not follow."""
    most = int(built.max_position_embeddings)
    if rope.get("rope_type") == "dynamic":
        return most
    if rope.get("rope_type") == "longrope":
        return int(rope.get("original_max_position_embeddings") or most)
    factor = float(rope.get("factor") or 1.0) if rope.get("rope_type") == "linear" else 1.0
    listed = int(config.get("max_position_embeddings") or 0)
    return max(listed, int(config.get("max_token") or 0), round(_TRAINED_POSITIONS * factor))
