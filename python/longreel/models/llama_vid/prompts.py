"""Questions as ids: for the text decoder that looks at the frames, and for the language model that answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from longreel.models.prompts import BOS, CONVERSATION, Prompts, as_bytes, check, decoder, ids_of, read_vocabulary
from longreel.models.prompts import tokenizer as language_tokenizer

_LONGEST_QUESTION = 256
BERT_FOLDER = "bert-base-uncased"


@dataclass(frozen=True, kw_only=True)
class Questions(Prompts):
    """P questions: those of the language model, and `ids` and `mask` [P, T] of the text decoder, padded on the right."""

    ids: Tensor
    mask: Tensor


def byte_ids(questions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """UTF-8 bytes as ids [P, T], padded on the right, and their mask [P, T], True for a byte."""
    check(questions)
    return _padded([as_bytes(question) for question in questions])


def by_bytes(questions: Sequence[str], positions: int, length: int = 8) -> Questions:
    """Questions for random weights: bytes as ids, `length` to choose. ValueError for one longer than `positions`."""
    ids, mask = byte_ids(questions)
    if ids.shape[1] > positions:
        raise ValueError(f"a question has {ids.shape[1]} bytes, this preset reads at most {positions}")
    bos = torch.tensor([BOS])
    prompts = tuple((bos, row[valid]) for row, valid in zip(ids, mask, strict=True))
    return Questions(texts=tuple(questions), ids=ids, mask=mask, prompts=prompts, length=length)


def by_vocabulary(questions: Sequence[str], folder: Path, positions: int, length: int) -> Questions | None:
    """Questions in a checkpoint's own vocabularies: the language model's in `folder`, BERT's in `folder`/bert-base-uncased.

    Returns:
        None where `folder` has no tokenizer.

    Raises:
        ValueError: only one of the two is there, or one cannot be read.
    """
    check(questions)
    speech = language_tokenizer(folder)
    if speech is None:
        return None
    bert_folder = folder / BERT_FOLDER
    if not (bert_folder / "vocab.txt").exists():
        raise ValueError(f"{bert_folder}/vocab.txt: missing; the text decoder's tokenizer is read there")
    from transformers import BertTokenizer

    bert = read_vocabulary(
        folder,
        lambda: BertTokenizer.from_pretrained(bert_folder, truncation_side="left", local_files_only=True),
    )
    longest = min(_LONGEST_QUESTION, positions)
    ids, mask = _padded([bert(text, truncation=True, max_length=longest).input_ids for text in questions])
    before = torch.tensor(speech(f"{CONVERSATION} USER: ").input_ids)
    after = (ids_of(speech, f"\n{text} ASSISTANT:") for text in questions)
    return Questions(
        texts=tuple(questions), ids=ids, mask=mask, prompts=tuple((before, chunk) for chunk in after), length=length,
        stop=speech.eos_token_id, decode=decoder(speech),
    )  # fmt: skip


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return ids, mask
