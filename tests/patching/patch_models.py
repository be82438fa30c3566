"""Models that longreel.patch knows, tiny: those of transformers, and the stand-ins for public repositories."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integrations"))
import tiny_vlms
from repositories import REPOSITORIES
from transformers.models.perception_lm.modeling_perception_lm import PerceptionLMMultiModalProjector

CLOSE = 1e-5
Made = tuple[nn.Module, dict[str, Any]]


class PerceptionLM(nn.Module):
    """The projector alone: its tower is another library's."""

    def __init__(self, ratio: int = 2) -> None:
        super().__init__()
        sizes = SimpleNamespace(
            vision_config=SimpleNamespace(model_args={"embed_dim": 32}),
            text_config=SimpleNamespace(hidden_size=48),
            projector_pooling_ratio=ratio,
        )
        self.multi_modal_projector = PerceptionLMMultiModalProjector(sizes)

    def forward(self, features: Tensor) -> Tensor:
        return self.multi_modal_projector(features)


def perception_lm() -> Made:
    return PerceptionLM().eval(), {"features": torch.randn(3, 25, 32)}


def onevision_odd() -> Made:
    """A side of 5 patches is pooled to 3."""
    model_class, config, _ = tiny_vlms.llava_onevision()
    config.vision_config.image_size = 10
    torch.manual_seed(0)
    model = tiny_vlms._widened(model_class._from_config(config, attn_implementation="sdpa"))
    ids = tiny_vlms.ids(*[tiny_vlms.VIDEO] * 28)
    return model, {"input_ids": ids, "pixel_values_videos": tiny_vlms.pixels(2, 3, 3, 10, 10)}


def _transformers(build: Callable[[], Any], attention: str) -> Callable[[], Made]:
    return lambda: tiny_vlms.made(build, attention)


MODELS: dict[str, Callable[[], Made]] = {
    f"{build.__name__}-{attention}": _transformers(build, attention)
    for build, attention in (
        (tiny_vlms.instructblip_video, "sdpa"),
        (tiny_vlms.instructblip_video, "eager"),
        (tiny_vlms.blip2_opt, "sdpa"),
        (tiny_vlms.blip2_t5, "eager"),
        (tiny_vlms.llava_next_video, "sdpa"),
        (tiny_vlms.llava_onevision, "sdpa"),
    )
}
MODELS |= {"perception_lm": perception_lm, "onevision_odd": onevision_odd, **REPOSITORIES}


def logits(model: nn.Module, given: dict[str, Any]) -> Tensor:
    out = model(**given)
    return out if isinstance(out, Tensor) else out.logits
