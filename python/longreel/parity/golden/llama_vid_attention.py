"""LLaMA-VID's vlm_attention: frames and questions to the language model's tokens, Q-Former included, and its gradients."""

from collections.abc import Mapping

import torch
from torch import Tensor

from longreel.models.llama_vid import Adapter, Ops, QFormerSize, from_released, released_name
from longreel.parity.golden.files import GoldenCase


def replay(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """``tokens.i`` [P, F * (1 + n), H] and ``qformer_out.i`` [P * F, M, E] of every sample; ``grad.*`` where there is a loss."""
    inputs, adapter = case.inputs(dtype), _adapter(case, backend, dtype)
    features = inputs["image_features"]
    trained = "loss_weight.0" in inputs
    ops: Ops = "reference" if backend == "reference" else "longreel"
    counts = case.params["image_counts"] or [1] * len(features)
    results: dict[str, Tensor] = {}
    loss = torch.zeros((), dtype=dtype)
    with torch.set_grad_enabled(trained):
        features.requires_grad_(trained)
        for index, frames in enumerate(torch.split(features, counts)):
            queries = adapter.query(inputs[f"input_ids.{index}"], frames, inputs[f"text_mask.{index}"], ops=ops)
            tokens = adapter.compress(queries, frames)
            results[f"qformer_out.{index}"] = queries.flatten(0, 1).detach()
            results[f"tokens.{index}"] = tokens.detach()
            if trained:
                loss = loss + (tokens * inputs[f"loss_weight.{index}"]).sum()
    if trained:
        torch.autograd.backward(loss)
        results["grad.image_features"] = _gradient(features)
        for name, parameter in adapter.named_parameters():
            results["grad." + released_name(name).removeprefix("model.")] = _gradient(parameter)
    return results


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _adapter(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> Adapter:
    config, params = case.file.config, case.params
    # The released parity rule, which our API replaces by a number: an odd count of tokens loses its first.
    prefix = params["tokens_per_frame"] % 2 if params["mm_vision_select_feature"] == "patch" else 0
    adapter = Adapter(
        qformer_size(config["qformer"]),
        config["vision_width"],
        config["llm_width"],
        compress=params["compress_type"],
        num_prefix_tokens=prefix,
        backend=backend,
    ).to(dtype)
    adapter.load_state_dict(from_released(case.file.weights(dtype), adapter))
    return adapter.eval()


def qformer_size(config: Mapping[str, int]) -> QFormerSize:
    """The sizes of a golden file's Q-Former."""
    return QFormerSize(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp=config["intermediate_size"],
        queries=config["num_query"],
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
    )
