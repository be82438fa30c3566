"""Stand-ins for the public repositories of LLaMA-VID, Video-LLaMA and Video-XL: their class, attribute, argument and parameter
names around what longreel.patch takes the place of, written for these tests. Vision towers and language models are linears."""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from bert_qformer import BertLMHeadModel, config
from torch import Tensor, nn
from voco_repository import voco_llama

# LLaMA-VID


class LLaMAVIDMetaForCausalLM:
    def get_vision_tower(self):
        return self.get_model().get_vision_tower()

    def encode_images(self, images, prompts=None, image_counts=None, long_video=False):
        features = images if long_video else self.get_model().get_vision_tower()(images)
        return self.vlm_attention(features, prompts=prompts, image_counts=image_counts, long_video=long_video)

    def vlm_attention(self, image_features, prompts=None, image_counts=None, long_video=False):
        model, found, start = self.get_model(), [], 0
        for index, texts in enumerate(prompts):
            token = model.vlm_att_tokenlizer(texts)
            count = 1 if image_counts is None else image_counts[index]
            seen, start = image_features[start : start + count], start + count
            pairs = len(texts) * count
            ids, mask = (
                t[:, None].expand(-1, count, -1).flatten(0, 1) for t in (token.input_ids, token.attention_mask)
            )
            seen = seen[None].expand(len(texts), -1, -1, -1).flatten(0, 1)
            ones = torch.ones(pairs, model.vlm_att_query.shape[1], dtype=torch.long)
            rows = model.vlm_att_encoder.bert(
                ids,
                query_embeds=model.vlm_att_query.expand(pairs, -1, -1),
                attention_mask=torch.cat([ones, mask], 1),
                encoder_hidden_states=model.vlm_att_ln(seen.clone()),
                encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long),
                return_dict=True,
            ).last_hidden_state[:, : ones.shape[1]]
            if self.config.mm_vision_select_feature == "patch" and seen.shape[1] % 2 == 1:
                seen = seen[:, 1:]
            tokens = self.token_generation(model.vlm_att_projector(rows), seen, long_video=long_video)
            if image_counts is not None:
                tokens = tokens.reshape(len(texts), count, *tokens.shape[-2:]).flatten(1, 2)
            found.append(tokens)
        return found

    def token_generation(self, text_q, vis_embed, long_video=False):
        model, kind = self.get_model(), self.config.compress_type
        scores = text_q @ model.vlm_att_key_projector(vis_embed).mT / vis_embed.shape[-1] ** 0.5
        context = model.vlm_att_val_projector((scores.softmax(-1) @ vis_embed).mean(1)[:, None])
        if kind is not None and "grid" in kind:
            side = int(vis_embed.shape[1] ** 0.5)
            stride = side // int(kind.split("grid:")[-1])
            grid = vis_embed.reshape(len(vis_embed), side, side, -1).permute(0, 3, 1, 2)
            vis_embed = F.avg_pool2d(grid, stride, stride).permute(0, 2, 3, 1).flatten(1, 2)
        elif kind is not None and "mean" in kind:
            vis_embed = vis_embed.mean(dim=1, keepdim=True)
        return torch.cat([context, model.mm_projector(vis_embed)], dim=1)

    def update_prompt(self, prompts=None):
        self.prompts = prompts


class LlavaLlamaAttModel(nn.Module):
    def __init__(self, vision: int, llm: int, qformer: SimpleNamespace, queries: int) -> None:
        super().__init__()
        width = qformer.hidden_size
        self.vision_tower = nn.Linear(3, vision)
        self.vlm_att_query = nn.Parameter(torch.randn(1, queries, width))
        self.vlm_att_encoder = BertLMHeadModel(qformer)
        self.vlm_att_ln = nn.LayerNorm(vision)
        self.vlm_att_projector = nn.Linear(width, vision)
        self.vlm_att_key_projector = nn.Linear(vision, vision)
        self.vlm_att_val_projector = nn.Linear(vision, llm)
        self.mm_projector = nn.Sequential(nn.Linear(vision, llm), nn.GELU(), nn.Linear(llm, llm))
        self.vlm_att_tokenlizer = words

    def get_vision_tower(self):
        return self.vision_tower


def words(texts: list[str]) -> SimpleNamespace:
    """Characters for word pieces, padded to the longest."""
    length = max(map(len, texts))
    ids = torch.tensor([[ord(c) % 40 for c in text] + [0] * (length - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
    return SimpleNamespace(input_ids=ids, attention_mask=mask)


class LlavaLlamaAttForCausalLM(nn.Module, LLaMAVIDMetaForCausalLM):
    def __init__(self, model: LlavaLlamaAttModel, compress_type: str | None = "mean") -> None:
        super().__init__()
        self.config = SimpleNamespace(
            compress_type=compress_type, mm_vision_select_feature="patch", bert_type="qformer_pretrain"
        )
        self.model = model
        self.lm_head = nn.Linear(model.mm_projector[-1].out_features, 60, bias=False)

    def get_model(self):
        return self.model

    def forward(self, images: Tensor, prompts: list[list[str]], image_counts: list[int] | None = None) -> Tensor:
        """Logits of the tokens of all samples."""
        found = self.encode_images(images, prompts, image_counts)
        return self.lm_head(torch.cat([tokens.flatten(0, 1) for tokens in found]))


def llama_vid(compress_type: str | None = "mean", **qformer: Any) -> tuple[nn.Module, dict[str, Any]]:
    sizes = config(vocab_size=50, encoder_width=48, **qformer)
    model = LlavaLlamaAttForCausalLM(LlavaLlamaAttModel(48, 40, sizes, 6), compress_type)
    asked = [["what is it", "who"], ["where"]]
    return model.eval(), {"images": torch.randn(5, 17, 3), "prompts": asked, "image_counts": [3, 2]}


# Video-LLaMA


class VideoLLAMA(nn.Module):
    def __init__(
        self,
        frames: SimpleNamespace,
        video: SimpleNamespace,
        audio: SimpleNamespace | None,
        llm: int,
        queries: int = 32,
    ) -> None:
        super().__init__()
        width = video.hidden_size
        self.visual_encoder = nn.Identity()
        self.ln_vision = nn.LayerNorm(frames.encoder_width)
        self.query_tokens = nn.Parameter(torch.randn(1, queries, width))
        self.Qformer, self.video_Qformer = BertLMHeadModel(frames), BertLMHeadModel(video)
        self.video_query_tokens = nn.Parameter(torch.randn(1, queries, width))
        self.video_frame_position_embedding = nn.Embedding(32, width)
        self.llama_proj = nn.Linear(width, llm)
        if audio is not None:
            self.audio_Qformer = BertLMHeadModel(audio)
            self.audio_query_tokens = nn.Parameter(torch.randn(1, min(queries, 8), width))
            self.audio_position_embedding = nn.Embedding(8, audio.encoder_width)
            self.audio_llama_proj = nn.Linear(width, llm)

    def encode_videoQformer_visual(self, image):
        """image: here what the tower gives, [B, T, N, C]."""
        batch, frames = image.shape[:2]
        seen = self.ln_vision(self.visual_encoder(image.flatten(0, 1)))
        rows = _read(self.Qformer, self.query_tokens, seen)
        at = self.video_frame_position_embedding(torch.arange(frames))
        rows = (rows.unflatten(0, (batch, frames)) + at[:, None]).flatten(1, 2)
        tokens = self.llama_proj(_read(self.video_Qformer, self.video_query_tokens, rows))
        return tokens, torch.ones(tokens.shape[:-1], dtype=torch.long)

    def encode_audioQformer(self, audio, modality_type="audio"):
        """audio: here the embeddings of clips, [B, clips, C]."""
        seen = audio + self.audio_position_embedding(torch.arange(audio.shape[1]))
        tokens = self.audio_llama_proj(_read(self.audio_Qformer, self.audio_query_tokens, seen))
        return tokens, torch.ones(tokens.shape[:-1], dtype=torch.long)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        return torch.cat([self.encode_audioQformer(audio)[0], self.encode_videoQformer_visual(image)[0]], 1)


def _read(qformer: nn.Module, queries: Tensor, seen: Tensor) -> Tensor:
    return qformer.bert(
        query_embeds=queries.expand(len(seen), -1, -1),
        encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long),
        return_dict=True,
    ).last_hidden_state


def video_llama() -> tuple[nn.Module, dict[str, Any]]:
    """Eight queries on 40 patches take fewer FLOPs absorbed, on four clips projected."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4}
    video, audio = (config(cross_attention_freq=1, num_hidden_layers=2, encoder_width=c, **sizes) for c in (64, 80))
    model = VideoLLAMA(config(encoder_width=48, num_hidden_layers=2, **sizes), video, audio, 56, queries=8)
    return model.eval(), {"image": torch.randn(2, 5, 41, 48), "audio": torch.randn(2, 4, 80)}


# Video-XL


class LlavaMetaForCausalLM:
    def get_vision_tower(self):
        return self.get_model().get_vision_tower()

    def get_2dPool(self, image_feature):
        side = self.get_vision_tower().num_patches_per_side
        grid = image_feature.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        pool = F.avg_pool2d if self.config.mm_spatial_pool_mode == "average" else F.max_pool2d
        return pool(grid, self.config.mm_spatial_pool_stride).permute(0, 2, 3, 1).flatten(1, 2)

    def encode_multimodals(self, videos_or_images, video_idx_in_batch, split_sizes=None):
        features = torch.split(self.get_model().get_vision_tower()(videos_or_images), split_sizes, dim=0)
        found = []
        for index, feat in enumerate(features):
            feat = self.get_model().mm_projector(feat)
            found.append(self.get_2dPool(feat) if index in video_idx_in_batch else feat)
        return found


class Tower(nn.Linear):
    num_patches_per_side = 6


class LlavaQwenModel(nn.Module):
    def __init__(self, vision: int, llm: int) -> None:
        super().__init__()
        self.vision_tower = Tower(3, vision)
        self.mm_projector = nn.Sequential(nn.Linear(vision, llm), nn.GELU(), nn.Linear(llm, llm))

    def get_vision_tower(self):
        return self.vision_tower


class LlavaQwenForCausalLM(nn.Module, LlavaMetaForCausalLM):
    def __init__(self, mode: str = "average", stride: int = 2) -> None:
        super().__init__()
        self.config = SimpleNamespace(mm_spatial_pool_mode=mode, mm_spatial_pool_stride=stride, beacon_window=1440)
        self.model = LlavaQwenModel(32, 40)
        self.lm_head = nn.Linear(40, 60, bias=False)

    def get_model(self):
        return self.model

    def forward(self, images: Tensor, video_idx_in_batch: list[int], split_sizes: list[int]) -> Tensor:
        found = self.encode_multimodals(images, video_idx_in_batch, split_sizes)
        return self.lm_head(torch.cat([tokens.flatten(0, 1) for tokens in found]))


def video_xl(mode: str = "average", stride: int = 2) -> tuple[nn.Module, dict[str, Any]]:
    given = {"images": torch.randn(5, 36, 3), "video_idx_in_batch": [0, 2], "split_sizes": [2, 1, 2]}
    return LlavaQwenForCausalLM(mode, stride).eval(), given


REPOSITORIES = {build.__name__: build for build in (llama_vid, video_llama, video_xl, voco_llama)}
