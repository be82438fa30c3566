"""The stand-ins compute what the public repositories did, and so they do patched: golden files of their own runs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bert_qformer import config
from repositories import LlavaLlamaAttForCausalLM, LlavaLlamaAttModel, VideoLLAMA
from safetensors.torch import load_file
from snapshot import apart
from torch import Tensor, nn
from voco_repository import LlavaLlamaForCausalLM
from voco_repository import config as llama_config

import longreel
from longreel.integrations.patches import qformer


class Group:
    """One pair of golden files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.meta: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        self.tensors, self.config = load_file(folder / f"{name}.safetensors"), self.meta["config"]

    def weights(self) -> dict[str, Tensor]:
        found = {key.removeprefix("weights/"): t for key, t in self.tensors.items() if key.startswith("weights/")}
        return {key: t.float() if t.is_floating_point() else t for key, t in found.items()}

    def get(self, case: str, name: str) -> Tensor:
        tensor = self.tensors[self.meta["cases"][case]["tensors"][name]["key"]]
        return tensor.float() if tensor.is_floating_point() else tensor

    def qformer(self, key: str, **more: Any) -> SimpleNamespace:
        sizes = dict(self.config[key])
        del sizes["hidden_act"]
        self.queries = sizes.pop("num_query")
        return config(**(sizes | more))


@pytest.fixture(autouse=True)
def _absorbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their heads are narrower than released ones, so that projecting the keys would take fewer FLOPs."""
    monkeypatch.setattr(qformer, "_projects", lambda *_: False)


def both(model: nn.Module, run: Any) -> list[Any]:
    """What it gives plain, and patched."""
    with torch.no_grad():
        plain = run()
        with longreel.patch(model) as report:
            patched = run()
            assert report.patched
            assert not report.left
    assert not report.aside
    return [plain, patched]


def test_llama_vid_attention(golden_folder: Path) -> None:
    group = Group(golden_folder, "llama_vid_attention")
    inner = LlavaLlamaAttModel(group.config["vision_width"], group.config["llm_width"], group.qformer("qformer"), 32)
    model = LlavaLlamaAttForCausalLM(inner).eval()
    given = group.weights()
    lacking, over = model.load_state_dict(given, strict=False)
    assert not over
    assert set(lacking) == {"lm_head.weight", "model.vision_tower.weight", "model.vision_tower.bias"}
    model.get_model().vision_tower = nn.Identity()
    for case, about in group.meta["cases"].items():
        params = about["params"]
        if case.endswith("_grad"):
            continue
        model.config.compress_type = params["compress_type"]
        counts = params["image_counts"]
        asked = params["prompts_per_sample"]
        texts = [
            (group.get(case, f"in/input_ids.{i}"), group.get(case, f"in/text_mask.{i}")) for i in range(len(asked))
        ]
        for out in both(
            model, lambda t=texts, c=counts, p=params, n=case: _ask(model, group.get(n, "in/image_features"), t, c, p)
        ):
            for index, tokens in enumerate(out):
                assert apart(tokens, group.get(case, f"truth/tokens.{index}")) < 1e-5, case


def _ask(model: Any, features: Tensor, texts: list[Any], counts: Any, params: dict[str, Any]) -> list[Tensor]:
    waiting = iter(texts)

    def tokens(_: list[str]) -> SimpleNamespace:
        ids, mask = next(waiting)
        return SimpleNamespace(input_ids=ids, attention_mask=mask.long())

    model.get_model().vlm_att_tokenlizer = tokens
    prompts = [[""] * len(ids) for ids, _ in texts]
    return model.encode_images(features, prompts, counts, params["long_video"])


def test_llama_vid_token_generation(golden_folder: Path) -> None:
    group = Group(golden_folder, "llama_vid_token_generation")
    inner = LlavaLlamaAttModel(group.config["vision_width"], group.config["llm_width"], config(vocab_size=9), 4)
    model = LlavaLlamaAttForCausalLM(inner).eval()
    assert not model.load_state_dict(group.weights(), strict=False)[1]
    for case, about in group.meta["cases"].items():
        model.config.compress_type = about["params"]["compress_type"]
        given = (group.get(case, "in/text_q"), group.get(case, "in/vis_embed"), about["params"]["long_video"])
        for tokens in both(model, lambda g=given: model.token_generation(*g)):
            assert apart(tokens, group.get(case, "truth/tokens")) < 1e-5, case


@pytest.mark.parametrize("branch", ["video", "audio"])
def test_video_llama_branches(golden_folder: Path, branch: str) -> None:
    group = Group(golden_folder, f"videollama_{branch}_branch")
    if branch == "video":
        sizes = group.qformer("frame_qformer"), group.qformer("video_qformer"), None
    else:
        audio = group.qformer("audio_qformer")
        sizes = config(), config(hidden_size=audio.hidden_size), audio
    model = VideoLLAMA(*sizes, group.config["llm_width"], group.queries).eval()
    given = {key: value for key, value in group.weights().items() if not key.endswith("position_ids")}
    assert not model.load_state_dict(given, strict=False)[1]
    for case in group.meta["cases"]:
        name, run = (
            ("vision_features", model.encode_videoQformer_visual)
            if branch == "video"
            else ("audio_embeddings", model.encode_audioQformer)
        )
        seen = group.get(case, f"in/{name}")
        if branch == "video":
            params = group.meta["cases"][case]["params"]
            seen = seen.unflatten(0, (params["batch"], params["frames"]))
        for tokens in both(model, lambda r=run, s=seen: r(s)[0]):
            assert apart(tokens, group.get(case, "truth/tokens")) < 1e-5, case


def test_voco_llama_decoder(golden_folder: Path) -> None:
    group = Group(golden_folder, "voco_decoder")
    sizes = {key: value for key, value in group.config.items() if key in vars(llama_config())}
    model = LlavaLlamaForCausalLM(llama_config(**sizes)).eval()
    lacking, over = model.load_state_dict(group.weights(), strict=False)
    assert not over
    assert lacking == ["model.embed_tokens.weight"]
    for case, about in group.meta["cases"].items():
        if "truth/hidden" not in about["tensors"]:
            continue
        kinds = group.get(case, "in/kinds")
        back = [[kinds.shape[1] - 1 - i for i in (row == 3).nonzero().flatten().tolist()] for row in kinds]
        given = {
            "inputs_embeds": group.get(case, "in/inputs_embeds"),
            "position_ids": group.get(case, "in/position_ids"),
        }
        mask = group.get(case, "in/attention_mask").long()
        for out in both(model, lambda g=given, m=mask, b=back: model.model(**g, attention_mask=m, voco_loc_back=b)):
            real = mask.bool()
            assert apart(out.last_hidden_state[real], group.get(case, "truth/hidden")[real]) < 1e-5, case
