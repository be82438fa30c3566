"""The rules, token by token: an independent mask, positions and slots from what a sequence is made of, never from a layout.

A token is (document, kind, unit, rank): unit is its frame or chunk, -1 before the first, and one past the last for text.
"""

from dataclasses import dataclass, field

import numpy as np

from longreel.layout import VideoLayout

PADDING, TEXT, VISION, VOCO, VST, PREFIX = range(6)


@dataclass
class Tokens:
    """Tokens of one document, and its rule as a function of two token numbers."""

    rule: str
    kind: list[int] = field(default_factory=list)
    unit: list[int] = field(default_factory=list)
    options: dict = field(default_factory=dict)

    def add(self, kind: int, count: int, unit: int) -> None:
        self.kind += [kind] * count
        self.unit += [unit] * count

    def __len__(self) -> int:
        return len(self.kind)

    def mask(self) -> np.ndarray:
        n = len(self)
        if self.rule == "blocks":
            return np.array([[self.in_blocks(q, k) for k in range(n)] for q in range(n)], bool).reshape(n, n)
        return np.array([[k <= q and self.attends(q, k) for k in range(n)] for q in range(n)], bool).reshape(n, n)

    def in_blocks(self, q: int, k: int) -> bool:
        """Whether row q sees key k, before or behind it."""
        block, o = self.unit, self.options
        alike = block[q] == block[k] >= 0
        chunk = o["chunk"] is None or q // o["chunk"] == k // o["chunk"]
        if o["causal"]:
            return (k <= q or alike) and chunk and (o["window"] is None or k > q - o["window"])
        return alike and chunk and (o["window"] is None or abs(q - k) < o["window"])

    def attends(self, q: int, k: int) -> bool:
        """Whether row q sees key k <= q."""
        kind, unit, o = self.kind, self.unit, self.options
        if self.rule == "padding":
            return False
        if self.rule == "text":
            return True
        if self.rule == "window":
            return q - k < o["window"] or k < o["sinks"]
        if self.rule == "image":
            voco = [i for i, what in enumerate(kind) if what == VOCO]
            if not voco or q <= voco[-1] or k >= voco[0]:
                return True
            return o["text_sees_prefix"] and kind[k] == PREFIX
        if self.rule == "vst":
            return unit[k] == unit[q] or kind[k] in (PREFIX, VST)
        # VoCo video.
        is_text = unit[q] == o["frames"]
        if kind[q] == PREFIX:
            return True
        if kind[k] == PREFIX:
            return o["text_sees_prefix"] if is_text else unit[q] == 0 or o["frames_see_prefix"]
        return unit[k] == unit[q] or (kind[k] == VOCO and (is_text or self.rule == "causal"))

    def positions(self) -> list[int]:
        """Rotary positions: Video-XL's memory and VoCo video's compact ones, else the token's number."""
        if self.rule == "vst":
            out, memory = [], 0
            for unit in dict.fromkeys(self.unit):
                own = [kind for kind, u in zip(self.kind, self.unit, strict=True) if u == unit]
                out += range(memory, memory + len(own))
                memory += own.count(VST) if VST in own or VISION in own else len(own)
            return out
        if self.rule in ("independent", "causal"):
            prefix, frames = self.kind.count(PREFIX), self.options["frames"]
            out, first = list(range(prefix)), prefix
            for frame in range(frames):
                own = [kind for kind, u in zip(self.kind, self.unit, strict=True) if u == frame and kind != PREFIX]
                out += range(first, first + len(own))
                first += own.count(VOCO)
            return out + list(range(out[-1] + 1, out[-1] + 1 + len(self) - len(out)))
        return list(range(len(self)))

    def cached(self) -> list[int]:
        """Tokens that one more text token would see."""
        if self.rule == "padding":
            return []
        grown = Tokens(self.rule, [*self.kind, TEXT], [*self.unit, self.options.get("frames", 0)], self.options)
        if self.rule == "blocks":
            grown.unit[-1] = -1
            return [k for k in range(len(self)) if grown.in_blocks(len(self), k)]
        return [k for k in range(len(self)) if grown.attends(len(self), k)]


def block_diagonal(masks: list[np.ndarray]) -> np.ndarray:
    n = sum(len(mask) for mask in masks)
    out, at = np.zeros((n, n), bool), 0
    for mask in masks:
        out[at : at + len(mask), at : at + len(mask)] = mask
        at += len(mask)
    return out


@dataclass
class Sample:
    """One sample: the layout under test, and its documents as tokens."""

    layout: VideoLayout
    documents: list[Tokens]

    def mask(self) -> np.ndarray:
        return block_diagonal([document.mask() for document in self.documents])

    def kinds(self) -> list[int]:
        return [kind for document in self.documents for kind in document.kind]

    def positions(self) -> list[int]:
        return [p for d in self.documents for p in ([0] * len(d) if d.rule == "padding" else d.positions())]

    def cached(self) -> list[int]:
        out, at = [], 0
        for document in self.documents:
            out += [at + k for k in document.cached()]
            at += len(document)
        return out


def padding(rows: int) -> list[Tokens]:
    tokens = Tokens("padding")
    tokens.add(PADDING, rows, 0)
    return [tokens] if rows else []


def random_voco(rng: np.random.Generator) -> Sample:
    frames, vision, voco = int(rng.integers(1, 6)), int(rng.integers(1, 9)), int(rng.integers(1, 4))
    prefix, separator, text = int(rng.integers(0, 5)), int(rng.integers(0, 3)), int(rng.integers(0, 9))
    mode = str(rng.choice(["independent", "causal"]))
    visible_to = str(rng.choice(["first", "frames", "all"]))
    text_attends = bool(rng.integers(2))
    layout = VideoLayout.voco(
        frames=frames, vision=vision, voco=voco, text=text, prefix=prefix, separator=separator, mode=mode,
        prefix_visible_to=visible_to, text_sees_prefix=text_attends,
    )  # fmt: skip
    options = {
        "frames": frames, "frames_see_prefix": visible_to != "first", "text_sees_prefix": text_attends or visible_to == "all",
    }  # fmt: skip
    tokens = Tokens(mode, options=options)
    tokens.add(PREFIX, prefix, -1)
    for frame in range(frames):
        tokens.add(VISION, vision, frame)
        tokens.add(TEXT, separator, frame)
        tokens.add(VOCO, voco, frame)
    tokens.add(TEXT, text, frames)
    return Sample(layout, [tokens])


def random_vst(rng: np.random.Generator) -> Sample:
    prefix, text, chunk = int(rng.integers(0, 4)), int(rng.integers(0, 7)), int(rng.integers(1, 14))
    style = rng.integers(3)
    if style == 0:
        visual, ratio = int(rng.integers(0, 40)), int(rng.integers(1, 7))
        layout = VideoLayout.vst(visual=visual, chunk=chunk, ratio=ratio, prefix=prefix, text=text)
        chunks = [(min(chunk, visual - at), ratio) for at in range(0, visual, chunk)]
    elif style == 1:
        chunks = [(int(rng.integers(1, 4)) * r, r) for r in rng.integers(1, 6, int(rng.integers(0, 4))).tolist()]
        layout = VideoLayout.vst(ratio=chunks, prefix=prefix, text=text)
    else:
        visual, chunk, seed = int(rng.integers(0, 40)) // 4 * 4, 12, int(rng.integers(100))
        layout = VideoLayout.vst(visual=visual, chunk=chunk, ratio_mix=(2, 4, 5), seed=seed, prefix=prefix, text=text)
        drawn = np.random.default_rng(seed)
        chunks = [(min(chunk, visual - at), int(drawn.choice([2, 4]))) for at in range(0, visual, chunk)]
    tokens = Tokens("vst", options={"frames": len(chunks)})
    tokens.add(PREFIX, prefix, -1)
    since = 0
    for number, (length, ratio) in enumerate(chunks):
        # A VST row after every `ratio` visual rows, those left over by the chunk before included.
        if since == ratio:
            tokens.add(VST, 1, number)
            since = 0
        for _ in range(length):
            tokens.add(VISION, 1, number)
            since += 1
            if since == ratio:
                tokens.add(VST, 1, number)
                since = 0
    tokens.add(TEXT, text, len(chunks))
    return Sample(layout, [tokens])


def random_kinds(rng: np.random.Generator) -> Sample:
    """The released rule on any sequence of text, vision and VoCo tokens, padded on both sides."""
    before, after = int(rng.integers(0, 4)), int(rng.integers(0, 3))
    runs = [(int(rng.integers(1, 4)), int(rng.integers(1, 6))) for _ in range(int(rng.integers(1, 8)))]
    kinds = [kind for kind, count in runs for _ in range(count)]
    text_attends = bool(rng.integers(2))
    layout = VideoLayout.from_kinds(np.array([[0] * before + kinds + [0] * after]), text_sees_prefix=text_attends)
    if VOCO in kinds:
        lead = next((i for i, kind in enumerate(kinds) if kind != TEXT), 0)
        kinds[:lead] = [PREFIX] * lead
    tokens = Tokens("image", kinds, [0] * len(kinds), {"text_sees_prefix": text_attends})
    return Sample(layout, [*padding(before), tokens, *padding(after)])


def random_frames_from_kinds(rng: np.random.Generator) -> Sample:
    """Frames of unequal size, with text inside, from kinds."""
    mode = str(rng.choice(["independent", "causal"]))
    flags = {"frames_see_prefix": bool(rng.integers(2)), "text_sees_prefix": bool(rng.integers(2))}
    frames, prefix, text = int(rng.integers(1, 5)), int(rng.integers(0, 4)), int(rng.integers(0, 6))
    tokens = Tokens(mode, options={"frames": frames, **flags})
    tokens.add(PREFIX, prefix, -1)
    for frame in range(frames):
        tokens.add(VISION, int(rng.integers(1, 6)), frame)
        tokens.add(TEXT, int(rng.integers(0, 3)), frame)
        tokens.add(VOCO, int(rng.integers(1, 4)), frame)
    tokens.add(TEXT, text, frames)
    before = int(rng.integers(0, 4))
    kinds = [0] * before + [TEXT if kind == PREFIX else kind for kind in tokens.kind]
    return Sample(VideoLayout.from_kinds([kinds], mode=mode, **flags), [*padding(before), tokens])


def random_text(rng: np.random.Generator) -> Sample:
    n = int(rng.integers(1, 40))
    if rng.integers(2):
        window, sinks = int(rng.integers(1, 12)), int(rng.integers(0, 6))
        tokens = Tokens("window", options={"window": window, "sinks": sinks})
        layout = VideoLayout.sliding_window(n, window, sinks)
    else:
        tokens, layout = Tokens("text"), VideoLayout.causal(n)
    tokens.add(TEXT, n, 0)
    return Sample(layout, [tokens])


def random_blocks(rng: np.random.Generator) -> Sample:
    """Blocks between text, whole or in several parts, under windows and chunks, causal or alone."""
    causal = bool(rng.integers(4))
    window, chunk = (int(rng.integers(1, 14)) if rng.integers(3) == 0 else None for _ in range(2))
    parted = rng.integers(3) == 0 and (causal or window is None)
    ids: list[int] = []
    for number in range(int(rng.integers(1, 7))):
        ids += [-1] * int(rng.integers(0, 5)) + [0 if parted else number] * int(rng.integers(1, 9))
    ids += [-1] * int(rng.integers(0, 6))
    layout = VideoLayout.blocks(ids, window=window, chunk=chunk, causal=causal)
    tokens = Tokens("blocks", options={"causal": causal, "window": window, "chunk": chunk})
    for block in ids:
        tokens.add(TEXT if block < 0 else VISION, 1, block)
    return Sample(layout, [tokens])


ONE = (random_voco, random_vst, random_kinds, random_frames_from_kinds, random_text, random_blocks)


def random_packed(rng: np.random.Generator) -> Sample:
    parts = [ONE[int(rng.integers(len(ONE)))](rng) for _ in range(int(rng.integers(2, 5)))]
    return Sample(VideoLayout.packed([p.layout for p in parts]), [d for p in parts for d in p.documents])


EVERY = (*ONE, random_packed)


def random_batch(rng: np.random.Generator) -> tuple[VideoLayout, list[Sample]]:
    """A layout of one to three samples of any constructor, padded on either side."""
    samples = [EVERY[int(rng.integers(len(EVERY)))](rng) for _ in range(int(rng.integers(1, 4)))]
    if len(samples) == 1:
        return samples[0].layout, samples
    side = str(rng.choice(["left", "right"]))
    longest = max(sample.layout.length for sample in samples)
    for sample in samples:
        pad = padding(longest - sample.layout.length)
        sample.documents = [*pad, *sample.documents] if side == "left" else [*sample.documents, *pad]
    return VideoLayout.batch([sample.layout for sample in samples], side), samples
