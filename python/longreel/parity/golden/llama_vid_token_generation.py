"""LLaMA-VID's token generation: patches and text queries to context and content tokens, and its gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.nn import ContextAttention
from longreel.parity.golden.files import GoldenCase

# What the gradient files call the parameters.
PARAMETERS = {
    "Wp": "vlm_att_projector",
    "Wk": "vlm_att_key_projector",
    "Wv": "vlm_att_val_projector",
    "mm0": "mm_projector.0",
    "mm2": "mm_projector.2",
}


def replay(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """``tokens`` [rows, 1 + n, H] and its two parts; where there is a loss, ``grad.*`` of inputs and parameters."""
    inputs = case.inputs(dtype)
    if "loss_weight" in inputs:
        return _gradients(case, backend, dtype, inputs)
    text, patches = inputs["text_q"], inputs["vis_embed"]
    with torch.no_grad():
        return _parts(_module(case, backend, dtype, projected=True)(text, patches))


def _gradients(
    case: GoldenCase, backend: str | None, dtype: torch.dtype, inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """All through the fully folded module, but text_q's: that tensor exists only where the queries arrive projected."""
    patches = inputs["vis_embed"].requires_grad_()
    module = _module(case, backend, dtype, projected=False)
    tokens = module(inputs["mm_output"], patches)
    (tokens * inputs["loss_weight"]).sum().backward()
    weight, bias = (module.get_parameter(f"vlm_att_projector.{kind}") for kind in ("weight", "bias"))
    text_q = F.linear(inputs["mm_output"], weight, bias).detach().requires_grad_()
    shorter = _module(case, backend, dtype, projected=True)
    (shorter(text_q, patches.detach()) * inputs["loss_weight"]).sum().backward()
    results = {**_parts(tokens.detach()), "grad.text_q": _gradient(text_q), "grad.vis_embed": _gradient(patches)}
    for short, name in PARAMETERS.items():
        for kind in ("weight", "bias"):
            results[f"grad.{short}.{kind}"] = _gradient(module.get_parameter(f"{name}.{kind}"))
    return results


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _parts(tokens: Tensor) -> dict[str, Tensor]:
    return {"tokens": tokens, "tokens (context only)": tokens[..., :1, :], "tokens (content only)": tokens[..., 1:, :]}


def _module(case: GoldenCase, backend: str | None, dtype: torch.dtype, projected: bool) -> ContextAttention:
    config, weights = case.file.config, case.file.weights(dtype)
    released = {key.removeprefix("model."): value for key, value in weights.items()}
    if projected:
        released = {key: value for key, value in released.items() if not key.startswith("vlm_att_projector.")}
    module = ContextAttention(
        None if projected else config["qformer_width"],
        config["vision_width"],
        config["llm_width"],
        compress=case.params["compress_type"],
        backend=backend,
        dtype=dtype,
    )
    module.load_state_dict(released)
    return module
