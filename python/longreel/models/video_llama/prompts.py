"""Questions around the tokens of a video, and of its sound where there is some: sound first, each between words of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from longreel.models.prompts import BOS, Prompts, as_bytes, check, decoder, ids_of, tokenizer

# Tags that the released conversation has, in Llama-2's frame; the words between them are this package's own.
_BEGIN, _END = "[INST] ", " [/INST]"
_OPEN, _CLOSE = "<Video>", "</Video> "
_HEAR, _SHOWN = "This is heard: ", "This is seen: "


@dataclass(frozen=True, kw_only=True)
class HeardQuestions(Prompts):
    """P questions; `prompts` are for a video without sound. hearing: with sound, the ids before the sound, between the two, and
    behind the video, of each."""

    hearing: tuple[tuple[Tensor, Tensor, Tensor], ...]

    @property
    def longest(self) -> int:
        """Ids that the longest question takes of the language model, its answer included."""
        return max(max(sum(map(len, parts)) for parts in (*self.prompts, *self.hearing)) + self.length, 0)


def by_bytes(questions: Sequence[str], length: int) -> HeardQuestions:
    """Questions for random weights: bytes as ids, `length` to choose."""
    check(questions)
    bos = torch.tensor([BOS])
    between = torch.tensor(as_bytes("\n"))
    after = [torch.tensor(as_bytes(text)) for text in questions]
    return HeardQuestions(
        texts=tuple(questions), length=length, prompts=tuple((bos, ids) for ids in after),
        hearing=tuple((bos, between, ids) for ids in after),
    )  # fmt: skip


def by_vocabulary(questions: Sequence[str], folder: Path, length: int) -> HeardQuestions | None:
    """Questions in a checkpoint's own vocabulary; None where `folder` has no tokenizer.

    Raises:
        ValueError: the tokenizer cannot be read.
    """
    check(questions)
    speech = tokenizer(folder)
    if speech is None:
        return None

    def begun(text: str) -> Tensor:
        return torch.cat([torch.tensor([speech.bos_token_id]), ids_of(speech, text)])

    after = [ids_of(speech, f"{_CLOSE}{text}{_END}") for text in questions]
    video, audio = begun(f"{_BEGIN}{_OPEN}"), begun(f"{_BEGIN}{_HEAR}{_OPEN}")
    between = ids_of(speech, f"{_CLOSE}{_SHOWN}{_OPEN}")
    return HeardQuestions(
        texts=tuple(questions), length=length, prompts=tuple((video, ids) for ids in after),
        hearing=tuple((audio, between, ids) for ids in after), stop=speech.eos_token_id, decode=decoder(speech),
    )  # fmt: skip
