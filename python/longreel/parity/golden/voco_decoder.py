"""VoCo-LLaMA's decoder: the masked forward, its gradients, and two stages over a cache of VoCo rows."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig

import longreel.integrations.transformers  # noqa: F401
from longreel import VideoLayout, use_layout
from longreel._transformers import with_cache
from longreel.cache import VoCoCache
from longreel.parity.golden.files import GoldenCase

VOCO = 3


def replay(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the file stores: ``hidden`` and ``logits`` [B, S, .], ``voco_key.b`` [layers, heads, VoCo, D]; ``text_*.i`` of every
    question and one ``voco_key``; or ``grad.*``."""
    model, inputs = _model(case, dtype), case.inputs(dtype)
    with use_layout(None, backend=backend):
        if "stage1_embeds" in inputs:
            return _two_stages(model, inputs)
        return _gradients(case, model, inputs) if "loss_weight" in inputs else _masked(model, inputs)


@torch.no_grad()
def _masked(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    kinds = inputs["kinds"]
    cache: Any = DynamicCache(config=model.config)
    hidden = _hidden(model, inputs, cache)
    real = (kinds > 0)[..., None]
    results = {"hidden": hidden * real, "logits": model.lm_head(hidden) * real}
    for b, row in enumerate(kinds == VOCO):
        if row.any():
            results[f"voco_key.{b}"] = torch.stack([layer.keys[b][:, row] for layer in cache.layers])
            results[f"voco_value.{b}"] = torch.stack([layer.values[b][:, row] for layer in cache.layers])
    return results


def _gradients(case: GoldenCase, model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    embeds = inputs["inputs_embeds"].requires_grad_()
    logits = model.lm_head(_hidden(model, inputs, None))
    torch.autograd.backward((logits * inputs["loss_weight"]).sum())
    leaves = {"inputs_embeds": embeds, **dict(model.named_parameters())}
    wanted = (name.removeprefix("grad.") for name in case.outputs)
    results = {f"grad.{name}": leaves[name].grad for name in wanted}
    real = (inputs["kinds"] > 0)[..., None]
    return {
        name: grad * real if name == "grad.inputs_embeds" else grad
        for name, grad in results.items()
        if grad is not None
    }


@torch.no_grad()
def _two_stages(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    cache = VoCoCache(model.config)
    (document,) = VideoLayout.from_kinds(inputs["kinds"]).samples[0]
    cache.append(
        model.model, inputs["stage1_embeds"], [(segment.kind, segment.length) for segment in document.segments]
    )
    results = {
        "voco_key": torch.stack([layer.keys[0] for layer in cache.layers]),
        "voco_value": torch.stack([layer.values[0] for layer in cache.layers]),
    }
    for i in range(sum(name.startswith("text_embeds.") for name in inputs)):
        hidden = model.model(inputs_embeds=inputs[f"text_embeds.{i}"], **with_cache(cache.fork())).last_hidden_state
        results |= {f"text_hidden.{i}": hidden, f"text_logits.{i}": model.lm_head(hidden)}
    return results


def _hidden(model: Any, inputs: dict[str, Tensor], cache: DynamicCache | None) -> Tensor:
    return model.model(
        inputs_embeds=inputs["inputs_embeds"],
        attention_mask=inputs["attention_mask"],
        position_ids=inputs["position_ids"],
        video_layout=VideoLayout.from_kinds(inputs["kinds"]),
        **with_cache(cache),
        use_cache=cache is not None,
    ).last_hidden_state


def _model(case: GoldenCase, dtype: torch.dtype) -> Any:
    sizes = {name: value for name, value in case.file.config.items() if name not in ("rope", "rope_theta")}
    theta = case.file.config["rope_theta"]
    config = LlamaConfig(**sizes, rope_parameters={"rope_type": "default", "rope_theta": theta}, pad_token_id=None)
    # Made in its dtype: a cast would round the inverse frequencies too.
    model = AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation="longreel", trust_remote_code=False
    ).eval()
    # The files have embeddings of rows, not of ids.
    missing, unexpected = model.load_state_dict(case.file.weights(dtype), strict=False)
    if missing != ["model.embed_tokens.weight"] or unexpected:
        raise KeyError(f"the file's weights lack {missing}, and have {unexpected} that the model does not")
    return model
