"""The model's own window or chunks, with a layout and without."""

from torch import Tensor

from longreel.layout import VideoLayout
from longreel.layout.documents import chunked, chunks, text_documents, windowed, without_first


def own_chunks(whole: int, chunk: int, padding: Tensor | None, batch: int, dropped: int) -> VideoLayout:
    """Documents of `chunk` rows behind the padding, `whole` rows in all, without the keys that a cache let go."""
    pads = [0] * batch if padding is None else padding.to("cpu").flatten().tolist()
    samples = [text_documents(chunks(whole - pad, chunk), padding=pad) for pad in (min(int(p), whole) for p in pads)]
    return without_first(VideoLayout(tuple(samples)), dropped)


def narrowed(layout: VideoLayout, window: int | None, chunk: int | None) -> VideoLayout:
    """`layout` and the model's own window or chunks, both.

    Raises:
        ValueError: no layout says that.
    """
    both = layout if window is None else windowed(layout, window)
    if both is not None and chunk is not None:
        both = chunked(both, chunk)
    if both is None:
        own = f"window of {window}" if chunk is None else f"chunks of {chunk}"
        raise ValueError(
            f"this model's own {own} rows cannot be combined with a layout of VoCo or VST tokens, sinks"
            f"{'' if chunk is None else ' or several documents'} that is longer; allowed: text"
        )
    return both
