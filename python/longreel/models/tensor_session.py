"""What paths share that keep one tensor of the frames."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from longreel.data import MediaError
from longreel.models.system import Cached, Clock, Session


class TensorSession(Session):
    """A path that keeps one tensor [..., tokens, width] of the frames: it is compared in it, and saved as it.

    FORMAT: "name/version" of its saved memories, where the system has them. backend: that ran the system's own stage.
    """

    FORMAT: ClassVar[str]
    backend: str | None = None
    cached: Tensor

    @abstractmethod
    def gather(self) -> Tensor:
        """What is cached, once the last chunk was taken."""

    def finish(self, clock: Clock) -> Cached:
        return self._keep(self.gather())

    def compared(self) -> Tensor:
        return self.cached

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        from longreel.cache.file import write

        write(path, {"format": self.FORMAT, "about": dict(about)}, {"cached": self.cached.contiguous()})

    def load(self, path: Path, frames: int) -> Cached:
        from longreel.cache.file import CacheFile

        file = CacheFile(path, "saved memory", "cpu")
        if file.header.get("format") != self.FORMAT or file.names != {"cached"}:
            raise MediaError(f"{path}: a saved memory of format {file.header.get('format')!r}, this is {self.FORMAT!r}")
        return self._keep(file.tensor("cached"))

    def _keep(self, cached: Tensor) -> Cached:
        self.cached = cached
        return Cached(cached.shape[-2], cached.nbytes, backend=self.backend)
