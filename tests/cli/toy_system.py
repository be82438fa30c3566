"""A whole system in few lines: frames and sound, an option and a saved memory of its own. Nothing more is asked of one."""

from dataclasses import dataclass

import torch

from longreel.models.record import EXACT, OURS
from longreel.models.sizes import LanguageSize, TowerSize
from longreel.models.system import LANGUAGE, Answer, AudioSpec, Stage, System, option
from longreel.models.tensor_session import TensorSession


@dataclass(frozen=True)
class ToyPreset:
    name: str = "tiny"
    tower: TowerSize = TowerSize(image=28, patch=14, width=12, layers=0, heads=1, mlp=0)  # noqa: RUF009
    language: LanguageSize = LanguageSize(12, 0, 1, 1, 0, 260, 1 << 20)  # noqa: RUF009
    chunk: int = 3
    dtype: str = "float32"


@dataclass(frozen=True)
class ToyOptions:
    loudness: float = option(1.0, "how much the sound counts.")


class ToyModel:
    def __init__(self, preset, options, device):
        self.preset, self.options, self.device, self.dtype = preset, options, device, torch.float32
        self.table = torch.randn(260, 12, generator=torch.Generator().manual_seed(0))

    def encode(self, pixels):
        patches = pixels.float().unflatten(1, (2, 14)).unflatten(3, (2, 14)).mean((2, 4))
        return patches.flatten(1, 2).repeat(1, 1, 4) / 255

    def encode_audio(self, samples):
        return samples.unflatten(1, (2, 12, -1)).abs().mean(3)  # two tokens a clip


class ToySession(TensorSession):
    FORMAT, backend = "toy/1", "toy"

    def __init__(self, model, prompts, path):
        self.model, self.prompts, self.tokens, self.halves = model, prompts, [], path != OURS
        self.dtype = torch.float64 if path == EXACT else torch.float32

    def consume(self, chunk, clock):
        with clock("sum"):
            for part, weight in ((chunk.frames, 1.0), (chunk.audio, self.model.options.loudness)):
                if part is not None:
                    part = weight * part.to(self.dtype)
                    self.tokens.append(part[:, ::2].sum(1) + part[:, 1::2].sum(1) if self.halves else part.sum(1))

    def gather(self):
        return torch.cat(self.tokens)

    def answer(self, index, on_first):
        asked, table = self.prompts.prompts[index][1], self.model.table.to(self.dtype)
        logits = table[asked] * (self.cached.mean(0) + torch.arange(12)).cos() @ table.T
        on_first()
        return Answer(logits[-1].topk(self.prompts.length).indices, logits)


class ToySystem(System):
    name, presets, Options = "toy", {"tiny": ToyPreset()}, ToyOptions
    stages = (Stage("sum", "sums", ours=True), LANGUAGE)
    audio, memory = AudioSpec(rate=240, seconds=0.5), "sums of frames and of sound"

    def build(self, preset, options, given, prompts, *, device, checkpoint=None, backend=None):
        return ToyModel(preset, options, device)

    def session(self, model, prompts, path, *, expected, compare):
        return ToySession(model, prompts, path)


SYSTEM = ToySystem()
