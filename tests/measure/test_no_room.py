"""What an error says of memory that is not there."""

import pytest

from longreel.measure.memory import no_room

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), "out of memory"),
        (MemoryError("std::bad_alloc"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3221225472 bytes."),
         "out of memory: 3.00 GiB more are not there"),
        (RuntimeError("you tried to allocate 1048576 bytes. Error code 12 (Cannot allocate memory)"),
         "out of memory: 1.00 MiB more are not there"),
        (RuntimeError("can't start new thread"), "out of memory"),
        # One word for every reason: it is not said for certain.
        (RuntimeError("could not create a primitive"), "out of memory, most likely: oneDNN could not create a primitive"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (ValueError("out of memory"), None),
    ],
)  # fmt: skip
def test_what_it_says(error: BaseException, short: str | None) -> None:
    assert no_room(error) == short
