"""Which transformers there is: the versions that work, and the names that changed between them."""

import sys
from importlib import metadata
from typing import Any

# Tried by `make matrix`, which runs the tests of integrations/ and cache/ on it.
OLDEST = (5, 18)
# From here on a model's cache is the keyword `cache` (`past_key_values` before), and so is the output's field.
RENAMED = (5, 24)


def version() -> tuple[int, int] | None:
    """(major, minor) of the transformers that is imported, or would be; None: there is none."""
    found = _found()
    if found is None:
        return None
    major, minor = found.split(".")[:2]
    return int(major), int(minor)


def _found() -> str | None:
    # What is imported counts, and is read without a look at the disk.
    imported: str | None = getattr(sys.modules.get("transformers"), "__version__", None)
    try:
        return imported or metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return None


def require(room: str) -> None:
    """One line for an environment in which `room` cannot work.

    Raises:
        ImportError: transformers is absent or too old.
    """
    found, wanted = version(), ".".join(map(str, OLDEST))
    if found is None or found < OLDEST:
        given = "none is installed" if found is None else f"this environment has {_found()}"
        raise ImportError(
            f"{room} needs transformers {wanted} or newer, {given}: pip install 'transformers>={wanted}' (longreel's ops do"
            " without it)"
        )


def with_cache(cache: Any) -> dict[str, Any]:
    """The keyword by which a model's forward takes `cache`."""
    return {"cache" if (version() or OLDEST) >= RENAMED else "past_key_values": cache}


def cache_of(outputs: Any) -> Any:
    """The cache that a model's outputs carry."""
    return outputs["cache"] if "cache" in outputs else outputs["past_key_values"]
