"""Video-XL's decoder: prefix, chunks, text and decoding over a VSTCache; training with all chunks in one pass."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config

from longreel.layout import RatioDraw
from longreel.models.video_xl import IGNORED, IMAGE, CachedRows, VSTDecoder
from longreel.parity.golden.files import GoldenCase
from longreel.rotary import rotary_tables, rotated

_SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "intermediate_size",
    "vocab_size",
)  # fmt: skip


def replay(case: GoldenCase, backend: str | None, dtype: torch.dtype, at_once: int = 1) -> dict[str, Tensor]:
    """``text_logits``, ``decode_logits``, and ``memory_*`` [layers, Hkv, entries, D] with keys not rotated; or ``loss`` and
    ``grad.*``. at_once: chunks of one forward pass."""
    decoder, inputs = _decoder(case, backend, dtype), case.inputs(dtype)
    return _train(case, decoder, inputs) if "labels" in inputs else _generate(case, decoder, inputs, at_once)


@torch.no_grad()
def _generate(case: GoldenCase, decoder: VSTDecoder, inputs: dict[str, Tensor], at_once: int) -> dict[str, Tensor]:
    features, draw = inputs["visual_features"], RatioDraw(case.params["ratios"])
    cache = decoder.encode(
        features, prefix=inputs["prefix_ids"].tolist(), chunks=decoder.windows(len(features), draw), at_once=at_once
    )
    asked = cache.fork()

    def logits(ids: Tensor) -> Tensor:
        rows = CachedRows(asked, len(ids), backend=decoder.backend)
        return decoder.logits(decoder.rows(decoder.embed(ids), rows))[0]

    results = {"text_logits": logits(inputs["text_ids"])}
    results["decode_logits"] = torch.cat([logits(one[None]) for one in inputs["decode_ids"]])
    cos, sin = rotary_tables(decoder.inv_freq, asked.layers[0].tokens)
    keys, values = zip(*(layer.cached() for layer in asked.layers), strict=True)
    wide = torch.promote_types(keys[0].dtype, torch.float32)
    results["memory_keys"] = rotated(torch.cat(keys).to(wide), cos.to(wide), -sin.to(wide))
    return results | {"memory_values": torch.cat(values)}


def _train(case: GoldenCase, decoder: VSTDecoder, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    features = inputs["visual_features"].requires_grad_()
    # One picture of all its visual tokens.
    decoder.per_picture = len(features)
    ids = torch.cat([inputs["prefix_ids"], torch.tensor([IMAGE]), inputs["text_ids"]])
    labels = inputs["labels"]
    before = len(inputs["prefix_ids"])
    labels = torch.cat([labels[:before], torch.tensor([IGNORED]), labels[before + len(features) :]])
    loss = decoder(ids[None], features[None], labels=labels[None]).loss
    loss.backward()
    leaves: dict[str, Any] = {"visual_features": features, **dict(decoder.language.named_parameters())}
    wanted = (name.removeprefix("grad.") for name in case.outputs if name.startswith("grad."))
    return {"loss": loss.detach()[None]} | {f"grad.{name}": leaves[name].grad for name in wanted}


def _decoder(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> VSTDecoder:
    sizes = {name: case.file.config[name] for name in _SIZES}
    rope = {"rope_type": "default", "rope_theta": case.file.config["rope_theta"]}
    config = Qwen2Config(**sizes, rope_parameters=rope, pad_token_id=None)
    weights = case.file.weights(dtype)
    # The files' vocabulary has rows for markers.
    config.vocab_size = len(weights["lm_head.weight"])
    language = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    ratios = case.params["ratios"]
    decoder = VSTDecoder(language, chunk=case.file.config["window"], ratio=tuple(ratios), backend=backend)
    decoder.language.load_state_dict(weights)
    return decoder.eval()
