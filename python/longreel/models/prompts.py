"""Questions as ids of the language model that answers them."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longreel.files.foreign import first_line
from longreel.measure.memory import no_room

QUESTION = "What happens in this video?"
"""Asked where nothing else is."""
BOS, _BYTES = 1, 4
# Ids of an answer, and of what random weights say in its place.
ANSWER, IDS = 64, 8
# Vicuna's conversation, as the released command lines frame a question.
CONVERSATION = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """P questions.

    `prompts` are the language model's ids before and after the frames, of each; `between` stands behind every frame where
    the system has something there; `length` the ids to choose at most; `stop` ends an answer early; `decode` makes text of
    ids, None where no vocabulary is there.
    """

    texts: tuple[str, ...]
    prompts: tuple[tuple[Tensor, Tensor], ...]
    length: int
    between: tuple[int, ...] = ()
    stop: int | None = None
    decode: Callable[[list[int]], str] | None = None

    @property
    def longest(self) -> int:
        """Ids that the longest question takes of the language model, its answer included."""
        return max(len(before) + len(after) for before, after in self.prompts) + self.length


def check(questions: Sequence[str]) -> None:
    """ValueError for none, or an empty one."""
    if not questions or not all(questions):
        raise ValueError("a question is empty" if questions else "at least one question is needed")


def as_bytes(text: str) -> list[int]:
    """UTF-8 bytes as ids: the tokenizer of presets without a released vocabulary."""
    return [byte + _BYTES for byte in text.encode()]


def by_bytes(questions: Sequence[str], length: int = IDS, *, before: str = "") -> Prompts:
    """Questions for random weights: behind BOS the frames, then `before` and the question as bytes; `length` ids to choose."""
    check(questions)
    ids = tuple((torch.tensor([BOS]), torch.tensor(as_bytes(before + text))) for text in questions)
    return Prompts(texts=tuple(questions), prompts=ids, length=length)


def tokenizer(folder: Path) -> Any:
    """The language model's, from a checkpoint's folder; None where it has none, ValueError where it cannot be read."""
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        return None
    from transformers import AutoTokenizer

    # A released config.json may name a type that transformers warns of; its tokenizer does not depend on that.
    told = logging.getLogger("transformers.configuration_utils")
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        return read_vocabulary(
            folder, lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        )
    finally:
        told.setLevel(level)


def read_vocabulary(folder: Path, read: Callable[[], Any]) -> Any:
    """What `read` gives; ValueError in one line for whatever it raises."""
    try:
        return read()
    except Exception as error:  # what a damaged vocabulary raises differs by kind
        if no_room(error) is not None:
            raise
        raise ValueError(f"{folder}: its tokenizer cannot be read ({first_line(error)})") from None


def ids_of(speech: Any, text: str) -> Tensor:
    """int64 [T], without the BOS that a tokenizer may put in front."""
    ids = speech(text).input_ids
    return torch.tensor(ids[1:] if ids and ids[0] == speech.bos_token_id else ids, dtype=torch.long)


def decoder(speech: Any) -> Callable[[list[int]], str]:
    """Ids -> text, without special ids."""
    return lambda chosen: str(speech.decode(chosen, skip_special_tokens=True)).strip()
