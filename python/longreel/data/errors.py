"""What can go wrong with media, in two names."""


class MediaError(ValueError):
    """The input cannot be used at all: one line saying which file and why."""


class MediaWarning(UserWarning):
    """The input was damaged; every whole frame was delivered, and the text says where it stopped or what was lost."""
