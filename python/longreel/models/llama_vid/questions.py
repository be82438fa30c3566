"""Questions as ids: for the text decoder that looks at the frames, and for the language model that answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_BOS, _BYTES = 1, 4
# Vicuna's conversation, as the released command line frames a question.
_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_LONGEST_QUESTION = 256
BERT_FOLDER = "bert-base-uncased"


@dataclass(frozen=True)
class Questions:
    """P questions.

    `ids` and `mask` [P, T] are the text decoder's, padded on the right; `prompts` the language model's ids before and after
    the visual tokens of each; `length` the ids to choose at most; `stop` ends an answer early; `decode` makes text of ids,
    None where no vocabulary is there.
    """

    texts: tuple[str, ...]
    ids: Tensor
    mask: Tensor
    prompts: tuple[tuple[Tensor, Tensor], ...]
    length: int
    stop: int | None = None
    decode: Callable[[list[int]], str] | None = None

    @property
    def longest(self) -> int:
        """Ids that the longest question takes of the language model, its answer included."""
        return max(len(before) + len(after) for before, after in self.prompts) + self.length


def byte_ids(questions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """UTF-8 bytes as ids [P, T], padded on the right, and their mask [P, T], True for a byte.

    The tokenizer of presets without a released vocabulary.
    """
    _check(questions)
    return _padded([[byte + _BYTES for byte in question.encode()] for question in questions])


def by_bytes(questions: Sequence[str], positions: int, length: int = 8) -> Questions:
    """Questions for random weights: bytes as ids, `length` to choose. ValueError for one longer than `positions`."""
    ids, mask = byte_ids(questions)
    if ids.shape[1] > positions:
        raise ValueError(f"a question has {ids.shape[1]} bytes, this preset reads at most {positions}")
    bos = torch.tensor([_BOS])
    prompts = tuple((bos, row[valid]) for row, valid in zip(ids, mask, strict=True))
    return Questions(tuple(questions), ids, mask, prompts, length)


def by_vocabulary(questions: Sequence[str], folder: Path, positions: int, length: int) -> Questions | None:
    """Questions in a checkpoint's own vocabularies: the language model's in `folder`, BERT's in `folder`/bert-base-uncased.

    Returns:
        None where `folder` has no tokenizer.

    Raises:
        ValueError: only one of the two is there, or one cannot be read.
    """
    _check(questions)
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        return None
    bert_folder = folder / BERT_FOLDER
    if not (bert_folder / "vocab.txt").exists():
        raise ValueError(f"{bert_folder}/vocab.txt: missing; the text decoder's tokenizer is read there")
    from transformers import AutoTokenizer, BertTokenizer

    try:
        speech = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        bert = BertTokenizer.from_pretrained(bert_folder, truncation_side="left", local_files_only=True)
    except Exception as error:  # what a damaged vocabulary raises differs by kind
        raise ValueError(f"{folder}: its tokenizer cannot be read ({str(error).splitlines()[0]})") from None
    longest = min(_LONGEST_QUESTION, positions)
    ids, mask = _padded([bert(text, truncation=True, max_length=longest).input_ids for text in questions])
    before = torch.tensor(speech(f"{_SYSTEM} USER: ").input_ids)
    bos = speech.bos_token_id
    after = []
    for text in questions:
        chunk = speech(f"\n{text} ASSISTANT:").input_ids
        after.append(torch.tensor(chunk[1:] if chunk and chunk[0] == bos else chunk))
    return Questions(
        tuple(questions), ids, mask, tuple((before, ids) for ids in after), length, speech.eos_token_id,
        lambda chosen: str(speech.decode(chosen, skip_special_tokens=True)).strip(),
    )  # fmt: skip


def _check(questions: Sequence[str]) -> None:
    if not questions or not all(questions):
        raise ValueError("a question is empty" if questions else "at least one question is needed")


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return ids, mask
