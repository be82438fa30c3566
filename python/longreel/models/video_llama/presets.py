"""Sizes of the Video-LLaMA reference model."""

from dataclasses import dataclass, replace

from longreel.models.sizes import NATIVE, LanguageSize, TowerSize


@dataclass(frozen=True, slots=True)
class BranchSize:
    """BERT over `queries` learned queries that attend to what it reads in every `every`-th layer; it reads no text."""

    width: int
    layers: int
    heads: int
    mlp: int
    queries: int
    every: int = 1


@dataclass(frozen=True, slots=True)
class AudioTowerSize:
    """ImageBind's audio trunk: spectrograms `mels` x `length` in patches of `kernel`, one every `stride`; `out` wide."""

    width: int
    layers: int
    heads: int
    mlp: int
    out: int
    mels: int = 128
    length: int = 204
    kernel: int = 16
    stride: int = 10

    @property
    def tokens(self) -> int:
        """CLS and the patches."""
        rows, columns = ((side - self.kernel) // self.stride + 1 for side in (self.mels, self.length))
        return 1 + rows * columns


@dataclass(frozen=True, slots=True)
class VideoLlamaPreset:
    """One size of the whole system.

    `frame`, `video`, `listen`: the Q-Formers of a frame, of the frames' tokens, and of the sound. `frames`, `clips`: rows of the
    two tables of positions. `chunk`: frames at a time; `dtype`: on a CPU (a GPU computes in bfloat16).
    """

    name: str
    tower: TowerSize
    frame: BranchSize
    video: BranchSize
    listen: BranchSize
    audio: AudioTowerSize
    language: LanguageSize
    frames: int = 32
    clips: int = 8
    chunk: int = 64
    dtype: str = "float32"


TINY = VideoLlamaPreset(
    name="tiny",
    dtype=NATIVE,
    tower=TowerSize(image=224, patch=14, width=192, layers=4, heads=3, mlp=768),
    frame=BranchSize(width=192, layers=4, heads=3, mlp=768, queries=32, every=2),
    video=BranchSize(width=192, layers=2, heads=3, mlp=768, queries=32),
    listen=BranchSize(width=192, layers=2, heads=3, mlp=768, queries=8),
    audio=AudioTowerSize(width=96, layers=2, heads=3, mlp=384, out=128),
    language=LanguageSize(width=256, layers=4, heads=4, kv_heads=2, mlp=704, vocabulary=260, positions=4096),
)

SMALL = VideoLlamaPreset(
    name="small",
    dtype=NATIVE,
    tower=TowerSize(image=224, patch=14, width=384, layers=12, heads=6, mlp=1536),
    frame=BranchSize(width=384, layers=6, heads=6, mlp=1536, queries=32, every=2),
    video=BranchSize(width=384, layers=2, heads=6, mlp=1536, queries=32),
    listen=BranchSize(width=384, layers=2, heads=6, mlp=1536, queries=8),
    audio=AudioTowerSize(width=192, layers=4, heads=3, mlp=768, out=256),
    language=LanguageSize(width=512, layers=8, heads=8, kv_heads=4, mlp=1408, vocabulary=260, positions=4096),
)

# EVA-g without its last block and norm, BERT-base, ImageBind-Huge's audio trunk, Llama-2-7B: the released sizes.
_BERT = BranchSize(width=768, layers=2, heads=12, mlp=3072, queries=32)
SEVEN_B = VideoLlamaPreset(
    name="7b",
    tower=TowerSize(image=224, patch=14, width=1408, layers=39, heads=16, mlp=6144),
    frame=replace(_BERT, layers=12, every=2),
    video=_BERT,
    listen=replace(_BERT, queries=8),
    audio=AudioTowerSize(width=768, layers=12, heads=12, mlp=3072, out=1024),
    language=LanguageSize(width=4096, layers=32, heads=32, kv_heads=32, mlp=11008, vocabulary=32000, positions=4096),
    dtype="bfloat16",
)

PRESETS = {preset.name: preset for preset in (TINY, SMALL, SEVEN_B)}
