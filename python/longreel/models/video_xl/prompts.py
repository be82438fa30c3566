"""Questions behind the video: Qwen2's conversation, of which the first part stands before the first frame."""

from collections.abc import Sequence
from pathlib import Path

import torch

from longreel.models.prompts import BOS, Prompts, as_bytes, check, decoder, ids_of, tokenizer

_BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
_AFTER = "\n{}<|im_end|>\n<|im_start|>assistant\n"


def by_bytes(questions: Sequence[str], length: int = 8) -> Prompts:
    """Questions for random weights: bytes as ids, `length` to choose."""
    check(questions)
    before = torch.tensor([BOS])
    prompts = tuple((before, torch.tensor(as_bytes(f"\n{text}"))) for text in questions)
    return Prompts(texts=tuple(questions), prompts=prompts, length=length)


def by_vocabulary(questions: Sequence[str], folder: Path, length: int) -> Prompts | None:
    """Questions in a checkpoint's own vocabulary and conversation; None where `folder` has no tokenizer."""
    check(questions)
    speech = tokenizer(folder)
    if speech is None:
        return None
    before = ids_of(speech, _BEFORE)
    prompts = tuple((before, ids_of(speech, _AFTER.format(text))) for text in questions)
    return Prompts(
        texts=tuple(questions), prompts=prompts, length=length, stop=speech.eos_token_id, decode=decoder(speech)
    )
