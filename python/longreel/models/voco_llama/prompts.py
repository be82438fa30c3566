"""Questions behind the VoCo tokens: BOS, then every frame with a newline and its VoCo tokens, then newline and conversation."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from longreel.models.prompts import CONVERSATION, Prompts, as_bytes, check, decoder, ids_of, tokenizer
from longreel.models.prompts import by_bytes as plainly


def by_bytes(questions: Sequence[str], length: int = 8) -> Prompts:
    """Questions for random weights: bytes as ids, `length` to choose."""
    return replace(plainly(questions, length, before="\n"), between=tuple(as_bytes("\n")))


def by_vocabulary(questions: Sequence[str], folder: Path, length: int, vocabulary: int | None = None) -> Prompts | None:
    """Questions in a checkpoint's own vocabulary and conversation; None where `folder` has no tokenizer.

    vocabulary: rows of the model's embedding, the last of which is taken for the VoCo token.

    Raises:
        ValueError: the tokenizer cannot be read, or has a VoCo token elsewhere.
    """
    check(questions)
    speech = tokenizer(folder)
    if speech is None:
        return None
    for name, token in speech.get_added_vocab().items():
        if vocabulary is not None and "voco" in name.lower() and token != vocabulary - 1:
            raise ValueError(
                f"{folder}: its tokenizer has {name} as {token}, and the vocabulary ends with {vocabulary - 1}: the VoCo token"
                " must be the last id, without padding behind it"
            )
    before = torch.tensor([speech.bos_token_id])
    after = (ids_of(speech, f"\n{CONVERSATION} USER: {text} ASSISTANT:") for text in questions)
    return Prompts(
        texts=tuple(questions), prompts=tuple((before, chunk) for chunk in after),
        between=tuple(ids_of(speech, "\n").tolist()), length=length, stop=speech.eos_token_id, decode=decoder(speech),
    )  # fmt: skip
