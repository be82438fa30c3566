"""compress_video(): the inputs of a video model of transformers with fewer video tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from longreel import _transformers
from longreel.compression.cuts import METHODS
from longreel.compression.prompt import CompressedInputs, counts_of, read


@torch.no_grad()
def compress_video(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    method: str = "evs",
    keep: float | None = None,
    tokens: int | None = None,
    query: Tensor | Sequence[Tensor] | None = None,
    chunk_frames: int = 64,
) -> CompressedInputs:
    """Inputs of a video model with fewer video tokens, by transformers' public arguments: no weight and no class is touched.

    The model's own tower is run once, in chunks of frames. What stays keeps its position (of time, height and width where the
    model has them), all text stays (timestamps among it), images stay whole. The count is exact, and of equal scores the first
    token wins.
    With ``keep=1`` nothing is scored and the model's logits are its own, bit for bit, as long as the videos have no more than
    `chunk_frames` frames together (the tower's products may round otherwise in pieces).

    Methods:
        "pool": adaptive average pooling of every frame (`adaptive_pool`) to the largest grid of its shape that fits, so that the
            count may be smaller; a cell has the position of the token in its middle.
        "context": saliency by query, the weights of LLaMA-VID's context token (arXiv 2311.17043, equation 1) over the video.
        "evs": difference in time, Efficient Video Sampling (arXiv 2510.14624): 1 - cos to the token before, first frame first.
        "vidcom2": uniqueness, VidCom2 (arXiv 2505.14454): budgets by frame, then tokens unlike their frame and the video.
        "merge": density peaks within segments, each the average of the tokens about it, in the manner of FastVID (arXiv
            2503.11187).

    Args:
        model: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, VideoLLaMA3, LLaVA-OneVision, LLaVA-NeXT-Video, InternVL or SmolVLM of transformers
            5.18 or newer, as it is generated with. InternVL and SmolVLM have pictures and no videos: all pictures of a row are
            one video.
        inputs: what the processor gives: input_ids ``[B, S]``, attention_mask, pixels and grids; rows padded on either side.
        method: one of the above.
        keep: share of each video's tokens that stays, above 0 and up to 1; the nearest count, at least one.
        tokens: instead of `keep`: video tokens that a row of the batch may have, shared by its videos by their lengths.
        query: "context" alone: ``[M, C]`` in the decoder's width C, or one a row. None: the embeddings of the text behind a row's
            last video token.
        chunk_frames: frames (of a tower's time step) that go through the tower at a time.

    Returns:
        Keyword arguments for ``model(**...)`` and ``model.generate(**...)``, with `cuts`. `rope_deltas` of the model are set, as
        its own forward does, for calls that continue behind these inputs.

    Raises:
        ImportError: transformers is absent or older than 5.18.
        ValueError: a model, inputs or options that cannot be compressed, and why.
    """
    _transformers.require("compress_video")
    check_options(method, keep, tokens, query)
    prompt = read(model, inputs, chunk_frames)
    counts = counts_of(prompt.videos, prompt.rows, keep, tokens)
    return prompt.inputs(prompt.cuts(method, counts, query))


def check_options(method: str, keep: float | None, tokens: int | None, query: Any) -> None:
    """
    Raises:
        ValueError: options that mean nothing, or nothing together.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; allowed: {', '.join(METHODS)}")
    if (keep is None) == (tokens is None):
        raise ValueError(
            f"give one of keep (a share) and tokens (a budget of each row), not keep={keep}, tokens={tokens}"
        )
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}; allowed: above 0 and up to 1")
    if tokens is not None and tokens < 1:
        raise ValueError(f"tokens is {tokens}; allowed: 1 and more")
    if query is not None and method != "context":
        raise ValueError(f"a query is read by method 'context' alone, the method is {method!r}")
