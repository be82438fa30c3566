"""What trains in every stage of every system: by names, and by a step of an optimiser."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_video_xl import TINY as XL
from torch import Tensor, nn

from longreel.models import stages
from longreel.models.llama_vid import LlamaVid
from longreel.models.llama_vid import Preset as VidPreset
from longreel.models.llama_vid.presets import QFormerSize
from longreel.models.sizes import LanguageSize, TowerSize
from longreel.models.video_xl import VideoXL
from longreel.models.voco_llama import IMAGE, VoCoLlama, VoCoPreset

TOWER = TowerSize(image=56, patch=14, width=32, layers=1, heads=2, mlp=64)
LANGUAGE = LanguageSize(width=32, layers=2, heads=4, kv_heads=2, mlp=64, vocabulary=260, positions=512)
QFORMER = QFormerSize(width=24, layers=2, heads=2, mlp=48, queries=5, vocabulary=260, positions=64)
PIXELS = torch.randint(0, 256, (2, 56, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Step = tuple[nn.Module, Callable[[], Tensor]]


def llama_vid() -> Step:
    model = LlamaVid(
        VidPreset(name="t", tower=TOWER, qformer=QFORMER, language=LANGUAGE, compress="mean", chunk=4, dtype="float32")
    )
    features = model.encode(PIXELS)

    def loss() -> Tensor:
        tokens = model.compress(model.query(torch.tensor([[5, 6, 7]]), features), features)
        answer = torch.tensor([[9, 10, 11, 12]])
        embeds = torch.cat([tokens, model.language.get_input_embeddings()(answer)], 1)
        labels = torch.cat([torch.full((1, tokens.shape[1]), -100), answer], 1)
        return model.language(inputs_embeds=embeds, labels=labels).loss

    return model, loss


def with_pictures(model: Any) -> Step:
    batch: dict[str, Any] = {"input_ids": torch.tensor([[1, IMAGE, IMAGE, 5, 6, 7]])}
    if isinstance(model, VoCoLlama):
        batch = model.collator()([{"input_ids": batch["input_ids"][0], "pixels": PIXELS}])
    else:
        batch |= {"labels": batch["input_ids"].masked_fill(batch["input_ids"] == IMAGE, -100), "pixels": PIXELS}
    return model, lambda: model(**batch).loss


MODELS: dict[str, Callable[[], Step]] = {
    "llama-vid": llama_vid,
    "voco-llama": lambda: with_pictures(VoCoLlama(VoCoPreset(name="t", tower=TOWER, language=LANGUAGE))),
    "video-xl": lambda: with_pictures(VideoXL(XL, ratio=4)),
}
EXPECTED = {
    ("llama-vid", "paper"): [r"adapter\.attention\..*", r"(adapter|language)\..*", r"(adapter|language)\..*"],
    ("llama-vid", "released"): [
        r"adapter\.attention\.(vlm_att_(key_|val_)?projector|mm_projector\.[02])\.(weight|bias)",
        r"(adapter|language)\..*",
        r"language\..*|adapter\.attention\.mm_projector\..*",
    ],
    ("voco-llama", "paper"): [r"projector\..*", r"(projector|decoder\.language)\..*"],
    ("voco-llama", "released"): [r"projector\..*", r"(projector|decoder\.language)\..*"],
    ("video-xl", "paper"): [r"projector\..*", r"(tower|projector|decoder\.language)\..*"],
    ("video-xl", "released"): [r"projector\..*", r"(tower|projector|decoder\.language)\..*"],
}
# Without a gradient by what they are: queries of rows that nobody reads, the text half of a Q-Former's last layer, and the
# rows of an embedding that no id names.
IDLE = re.compile(
    r".*layers\.2\.self_attn\.beacon_q_proj\..*|adapter\.vlm_att_encoder\.encoder\.layer\..*|adapter\.attention\.vlm_att_key_projector\.bias"
    r"|tower\..*k_proj\.bias"
)


@pytest.mark.parametrize(
    ("system", "source", "stage"), [(*key, i + 1) for key, each in EXPECTED.items() for i in range(len(each))]
)
def test_a_step_of_every_stage(system: str, source: Any, stage: int) -> None:
    model, loss = MODELS[system]()
    trained = stages(system, stage, source).set(model)
    expected = EXPECTED[system, source][stage - 1]
    assert trained == [name for name, _ in model.named_parameters() if re.fullmatch(expected, name)]
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(trained)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss().backward()
    optimiser.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= set(trained)
    assert {name for name in set(trained) - moved if not IDLE.fullmatch(name)} == set()


def test_refused() -> None:
    with pytest.raises(ValueError, match="stages 1 to 2"):
        stages("voco-llama", 3)
    with pytest.raises(ValueError, match="'paper' or 'released'"):
        stages("voco-llama", 1, "code")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is"):
        stages("else", 1)
    model, _ = llama_vid()
    with pytest.raises(ValueError, match="LlamaVid has no parameter"):
        stages("voco-llama", 1).set(model)
    assert not any(p.requires_grad for p in model.parameters())
