"""What can go wrong with media, in two names; and what is no fault of theirs."""

import errno


class MediaError(ValueError):
    """The input cannot be used at all: one line saying which file and why."""


class MediaWarning(UserWarning):
    """The input was damaged; every whole frame was delivered, and the text says where it stopped or what was lost."""


def check_room(error: Exception) -> None:
    """MemoryError where FFmpeg failed for want of memory, or of threads, which need some: the file is not damaged."""
    if getattr(error, "errno", None) in (errno.ENOMEM, errno.EAGAIN):
        raise MemoryError("out of memory: the decoder has too little of it, or too few threads") from None
