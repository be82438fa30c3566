"""The one writer: a file appears under its name when it is whole, and what a run that was killed left of one is removed."""

import atexit
import errno
import hashlib
import os
import re
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

# Of a name that leaves room for what stands around it in a part's.
_LONGEST_NAME = 200
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


class OutputFile:
    """A file that grows under a name of its own beside `path`. `with` renames it to `path` at its end, over what is there; where
    an exception ends it, nothing is left. A link is written through.

    Write to `file`, or to `part` by its name. It is locked while it grows: what is not was left by a run that was killed, and is
    removed with the next file of that name.

    Raises:
        OSError: it cannot be written: one line with `path` and why.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._target = Path(os.path.realpath(self.path))
        name = self._target.name
        short = name if len(os.fsencode(name)) <= _LONGEST_NAME else hashlib.sha256(os.fsencode(name)).hexdigest()
        self._before = f".{short}-"
        try:
            if self._target.exists() and not self._target.is_file():
                raise OSError(errno.EEXIST, "it is no regular file")
            self._remove_left()
            handle = self._create()
        except OSError as error:
            # What could not be made, in a folder that is a file, cannot be removed either.
            with suppress(OSError):
                remove_unfinished(self)
            raise _refused(self.path, error) from None
        self.file = os.fdopen(handle, "w+b")

    def _create(self) -> int:
        while True:
            self.part = self._target.with_name(f"{self._before}{secrets.token_hex(4)}.part")
            _unfinished[self] = self.part  # before it exists: a signal comes at any moment
            try:
                handle = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue
            _lock(handle, wait=True)
            # Another run may have taken it for one that was left, in the moment before it was locked.
            if os.fstat(handle).st_nlink:
                return handle
            os.close(handle)

    def _remove_left(self) -> None:
        ours = re.compile(re.escape(self._before) + r"[a-z0-9_]{8}\.part")
        try:
            left = [entry.path for entry in os.scandir(self._target.parent) if ours.fullmatch(entry.name)]
        except OSError:
            return
        for path in left:
            try:
                handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            except OSError:
                continue
            try:
                if stat.S_ISREG(os.fstat(handle).st_mode) and _lock(handle, wait=False):
                    os.unlink(path)
            except OSError:
                pass
            finally:
                os.close(handle)

    def __enter__(self) -> "OutputFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            try:
                if kind is None:
                    self._finish()
            finally:
                self._discard()
        except OSError as failed:
            raise _refused(self.path, failed) from None
        if isinstance(error, OSError) and self._ours(error):
            raise _refused(self.path, error) from None

    def _finish(self) -> None:
        self.file.flush()
        if self._target.exists():
            self.part.chmod(stat.S_IMODE(self._target.stat().st_mode))
        os.replace(self.part, self._target)

    def _discard(self) -> None:
        try:
            self.file.close()
        except OSError:
            # What could not be written before cannot now.
            pass
        finally:
            # Gone already where it was renamed.
            remove_unfinished(self)

    def _ours(self, error: OSError) -> bool:
        return error.filename == str(self.part) or (error.filename is None and error.errno in _FULL)


_unfinished: dict[OutputFile, Path] = {}


def remove_unfinished(file: OutputFile | None = None) -> None:
    """What a file, or every file of this process, has not finished: a signal may come before its `with` has begun."""
    for each in [*_unfinished] if file is None else [file]:
        part = _unfinished.get(each)
        if part is not None:
            try:
                part.unlink(missing_ok=True)
            finally:
                del _unfinished[each]


atexit.register(remove_unfinished)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unfinished.clear)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """A file of UTF-8, as `OutputFile`."""
    with OutputFile(path) as out:
        out.file.write(text.encode())


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """A line more, whole or not at all; lines of several runs stand one behind the other. A last line that a killed run left
    without its end gets one.

    Raises:
        OSError: it cannot be written: one line with `path` and why.
    """
    path = Path(path)
    try:
        with path.open("ab", buffering=0) as file:
            plain = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            if plain:
                _lock(file.fileno(), wait=True)
            size = os.fstat(file.fileno()).st_size if plain else 0
            data = b"\n" * (_last_byte(path, size) not in (b"", b"\n")) + line.encode() + b"\n"
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                if plain:
                    file.truncate(size)
                raise
    except OSError as error:
        raise _refused(path, error) from None


def _last_byte(path: Path, size: int) -> bytes:
    if not size:
        return b""
    try:
        with path.open("rb") as file:
            file.seek(size - 1)
            return file.read(1)
    except OSError:
        return b""


def _lock(handle: int, *, wait: bool) -> bool:
    """Whether this process alone has the file from now on; however it ends, the lock ends with it."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _refused(path: Path, error: OSError) -> OSError:
    said = error.strerror or str(error)
    if said.startswith("cannot be written"):
        return error
    return OSError(error.errno or errno.EIO, f"cannot be written ({said})", str(path))
