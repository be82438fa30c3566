"""What a run of a system takes, by formula: FLOPs and bytes of every stage, tensors alive at its peak, what is cached."""

from dataclasses import dataclass, replace

from longreel.models.sizes import LanguageSize, TowerSize

# Frames of the tower at a time on a CPU: few keep its wide activations in memory that is reused, not mapped anew at every layer.
TOWER_FRAMES = 8
# Tokens of a prefill, as `longreel.models.generation` has them.
PREFILL_TOKENS = 256
FLOAT = 4


@dataclass(frozen=True)
class Setting:
    """frames: of the whole input. held: of the chunk that memory is counted for. done: before it. itemsize: bytes of a number.
    gpu: the tower takes a whole chunk there.

    before, after, length: ids of the language model before and behind the frames, and of the answer. between: behind every frame.
    questions: that are asked.
    """

    frames: int
    held: int
    done: int
    itemsize: int
    gpu: bool
    before: int
    after: int
    length: int
    between: int = 0
    questions: int = 1

    @property
    def text(self) -> int:
        """Ids of a question and its answer."""
        return self.before + self.after + self.length

    @property
    def tower_frames(self) -> int:
        """Frames that go through the tower together."""
        return self.held if self.gpu else min(self.held, TOWER_FRAMES)


@dataclass(frozen=True)
class StageCost:
    """name: of a `Stage`. flops: over the whole run, a multiply-add is 2. bytes: that its matrices and what it reads and writes
    take of the memory's bandwidth, at least. live: bytes of tensors at its peak, without the weights."""

    name: str
    flops: int
    bytes: int
    live: int

    def beside(self, held: int) -> "StageCost":
        """With so many bytes alive beside it."""
        return replace(self, live=self.live + held)


@dataclass(frozen=True)
class SystemCost:
    """tokens, cached: as `Cached` has them, in number and bytes. cache: bytes of keys and values that stand in memory when a
    question is answered, buffers included. read: tokens of the frames that the language model reads. positions, limit: that it
    takes and that it has."""

    tokens: int
    cached: int
    cache: int
    read: int
    positions: int
    limit: int
    stages: tuple[StageCost, ...]

    @property
    def kept(self) -> int:
        """`cached`, by its name until 0.1.0."""
        return self.cached

    @property
    def live(self) -> int:
        """Bytes of tensors at the peak of the run, without the weights."""
        return max(stage.live for stage in self.stages)

    def or_more(self, other: "SystemCost") -> "SystemCost":
        """The same run with the memory of another chunk: of every stage what is more."""
        both = zip(self.stages, other.stages, strict=True)
        return replace(self, stages=tuple(replace(one, live=max(one.live, two.live)) for one, two in both))

    @property
    def flops(self) -> int:
        return sum(stage.flops for stage in self.stages)


def kv_bytes(size: LanguageSize, itemsize: int) -> int:
    """Of the keys and values of one token in all layers."""
    return 2 * size.layers * size.kv_heads * size.head * itemsize


def linear_flops(size: LanguageSize) -> int:
    """Of one token through the layers of the language model, attention's pairs not counted."""
    own, kv = size.heads * size.head, 2 * size.kv_heads * size.head
    return 2 * size.layers * size.width * (2 * own + kv + 3 * size.mlp)


def pair_flops(size: LanguageSize) -> int:
    """Of one (query, key) pair in all layers and heads."""
    return 4 * size.layers * size.heads * size.head


def tower(size: TowerSize, setting: Setting, features: int, hidden: int) -> StageCost:
    """The vision tower; features: tokens of a frame that it gives. hidden: tensors of the MLP's width that are alive at once, 2
    of GELU, 3 of quick GELU."""
    tokens, step = size.tokens, setting.tower_frames
    each = size.layers * (tokens * 2 * (4 * size.width + 2 * size.mlp) * size.width + 4 * tokens**2 * size.width)
    each += 2 * size.patches * 3 * size.patch**2 * size.width
    pixels = 3 * size.image**2 * step
    # Embeddings, a layer's input, the sum behind attention, its norm.
    rows = step * tokens * (4 * size.width + hidden * size.mlp) + pixels
    # Normalised in float32, from one copy to the next.
    working = max(setting.itemsize * rows, 2 * FLOAT * pixels)
    out = features_bytes(size, setting, features)
    passes = -(-setting.frames // step)
    moved = setting.itemsize * (passes * size.parameters + setting.frames * features * size.width)
    return StageCost("tower", each * setting.frames, moved, out + working)


def features_bytes(size: TowerSize, setting: Setting, features: int) -> int:
    """Of a chunk's features."""
    return setting.held * features * size.width * setting.itemsize


def answer_behind(size: LanguageSize, setting: Setting, tokens: int, held: int) -> StageCost:
    """A question behind `tokens` embeddings and ids, all prefilled, then the answer: `longreel.models.generation.answer_behind`.
    held: bytes that stay alive beside it."""
    needed = tokens + setting.after + setting.length
    block = min(PREFILL_TOKENS, needed)
    # Keys and values of all heads, where several share one, and a mask of the block's rows; then a layer's MLP.
    groups = size.heads // size.kv_heads
    attention = setting.itemsize * 2 * size.heads * size.head * needed * (groups > 1) + block * needed
    working = setting.itemsize * block * 4 * size.width + max(attention, setting.itemsize * 3 * block * size.mlp)
    live = held + working + kv_bytes(size, setting.itemsize) * needed
    pairs = needed * (needed + 1) // 2
    flops = linear_flops(size) * needed + pair_flops(size) * pairs
    flops += 2 * size.vocabulary * size.width * (setting.after + setting.length)
    passes = -(-tokens // PREFILL_TOKENS) + 1 + setting.length
    moved = passes * size.parameters * setting.itemsize + kv_bytes(size, setting.itemsize) * needed * setting.length
    return StageCost("language", flops * setting.questions, moved * setting.questions, live)


def answer_of_memory(size: LanguageSize, setting: Setting, cached: int, live: int) -> StageCost:
    """A question on a memory of `cached` tokens; live: bytes at its peak."""
    asked = setting.after + setting.length
    pairs = asked * cached + asked * (asked + 1) // 2
    flops = (linear_flops(size) + 2 * size.vocabulary * size.width) * asked + pair_flops(size) * pairs
    each = size.parameters * setting.itemsize + kv_bytes(size, setting.itemsize) * (cached + asked)
    return StageCost("language", flops * setting.questions, each * (1 + setting.length) * setting.questions, live)
