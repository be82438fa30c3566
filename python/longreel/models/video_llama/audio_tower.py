"""ImageBind's audio trunk, under the names of its own checkpoint (`imagebind_huge.pth`), without the other modalities.

ImageBind (arXiv 2305.05665): a spectrogram is cut into patches as a picture is; every block has one learned key and value more.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from longreel.models.video_llama.presets import AudioTowerSize

# The norm of an embedding as released: exp(log_logit_scale), which is 20, and never more than 100.
_SCALE, _MOST = 20.0, 100.0
# Few clips at a time keep the wide activations in memory that is reused.
_CPU_CLIPS = 8


class AudioTower(nn.Module):
    """Spectrograms to embeddings of a norm of 20."""

    def __init__(self, size: AudioTowerSize) -> None:
        super().__init__()
        self.size = size
        self.modality_preprocessors = nn.ModuleDict({"audio": _Stem(size)})
        blocks = nn.ModuleList(_Block(size) for _ in range(size.layers))
        self.modality_trunks = nn.ModuleDict({"audio": nn.ModuleDict({"blocks": blocks})})
        head = (nn.LayerNorm(size.width, eps=1e-6), nn.Identity(), nn.Linear(size.width, size.out, bias=False))
        self.modality_heads = nn.ModuleDict({"audio": nn.Sequential(*head)})
        self.modality_postprocessors = nn.ModuleDict({"audio": nn.ModuleDict({"1": _Scale()})})
        for name, parameter in self.named_parameters():
            if name.endswith("weight") and parameter.dim() in (2, 4):
                # Wide enough that the sound matters to the end.
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)

    def forward(self, mels: Tensor) -> tuple[Tensor, Tensor]:
        """mels [A, mels, length] -> CLS after the last norm [A, width], and embeddings [A, out]."""
        step = _CPU_CLIPS if mels.device.type == "cpu" else max(len(mels), 1)
        encoded = torch.cat([self._cls(few) for few in torch.split(mels, step)])
        head, scale = self.modality_heads["audio"], self.modality_postprocessors["audio"]
        assert isinstance(head, nn.Sequential)
        cls = head[0](encoded)
        # As released, in float32 at least.
        embedded = F.normalize(head[2](cls).to(torch.promote_types(cls.dtype, torch.float32)), dim=-1)
        return cls, scale["1"](embedded).to(cls.dtype)  # type: ignore[index]

    def _cls(self, mels: Tensor) -> Tensor:
        """[A, width] after all blocks; of the last one nobody reads another row."""
        states = self.modality_preprocessors["audio"](mels)
        *blocks, last = self.modality_trunks["audio"]["blocks"]  # type: ignore[index]
        for block in blocks:
            states = block(states, states.shape[1])
        return last(states, 1)[:, 0]


class _Stem(nn.Module):
    """[A, mels, length] -> [A, 1 + patches, width]: patches, their norm, CLS and positions.

    In float32 also where the blocks compute in less: it is little work, and what it rounds all blocks inherit.
    """

    def __init__(self, size: AudioTowerSize) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, size.width))
        patches = nn.Conv2d(1, size.width, size.kernel, size.stride, bias=False)
        self.rgbt_stem = nn.ModuleDict({"proj": patches, "norm_layer": nn.LayerNorm(size.width)})
        self.pos_embedding_helper = _Positions(size.tokens, size.width)

    def forward(self, mels: Tensor) -> Tensor:
        proj, norm, dtype = self.rgbt_stem["proj"], self.rgbt_stem["norm_layer"], self.cls_token.dtype
        wide = torch.promote_types(dtype, torch.float32)
        with torch.autocast(mels.device.type, enabled=False):
            normed = _called_in(wide, norm, _called_in(wide, proj, mels[:, None]).flatten(2).mT)
            states = torch.cat([self.cls_token.to(wide).expand(len(mels), -1, -1), normed], 1)
            return (states + self.pos_embedding_helper.pos_embed.to(wide)).to(dtype)


def _called_in(dtype: torch.dtype, module: nn.Module, x: Tensor) -> Tensor:
    """module(x) with its weights as they are, in `dtype`; hooks on it act."""
    weights = {name: weight.to(dtype) for name, weight in module.named_parameters()}
    out: Tensor = functional_call(module, weights, (x.to(dtype),))
    return out


class _Positions(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width) * width**-0.5)


class _Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, size: AudioTowerSize) -> None:
        super().__init__()
        width = size.width
        self.norm_1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.MultiheadAttention(width, size.heads, add_bias_kv=True, batch_first=True)
        self.norm_2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, size.mlp), "fc2": nn.Linear(size.mlp, width)})

    def forward(self, states: Tensor, rows: int) -> Tensor:
        """The first `rows` of states [A, S, width] after the block."""
        normed = self.norm_1(states)
        states = states[:, :rows] + self.attn(normed[:, :rows], normed, normed, need_weights=False)[0]
        return states + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm_2(states))))


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_logit_scale = nn.Parameter(torch.tensor(_SCALE).log())

    def forward(self, embedded: Tensor) -> Tensor:
        return embedded * self.log_logit_scale.to(embedded.dtype).exp().clamp_max(_MOST)
