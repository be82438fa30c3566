"""The one writer: a file, or a folder, appears under its name when it is whole, and what a killed run left of one is removed."""

import atexit
import errno
import hashlib
import os
import re
import secrets
import shutil
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
        try:
            if self._target.exists() and not self._target.is_file():
                raise OSError(errno.EEXIST, "it is no regular file")
            _remove_left(self._target)
            handle = self._create()
        except OSError as error:
            # What could not be made, in a folder that is a file, cannot be removed either.
            with suppress(OSError):
                remove_unfinished(self)
            raise _refused(self.path, error) from None
        self.file = os.fdopen(handle, "w+b")

    def _create(self) -> int:
        while True:
            self.part = _new_part(self, self._target)
            try:
                handle = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue
            _lock(handle, wait=True)
            # Another run may have taken it for one that was left, in the moment before it was locked.
            if os.fstat(handle).st_nlink:
                return handle
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


class OutputFolder:
    """A folder that grows under a name of its own beside `path`, where nothing or an empty folder is: write into `part`. In all
    else as `OutputFile`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._target = Path(os.path.realpath(self.path))
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            _remove_left(self._target)
            self._handle = self._create()
        except OSError as error:
            with suppress(OSError):
                remove_unfinished(self)
            raise _refused(self.path, error) from None

    def _create(self) -> int | None:
        while True:
            self.part = _new_part(self, self._target)
            try:
                self.part.mkdir()
            except FileExistsError:
                continue
            if sys.platform == "win32":
                return None
            with suppress(FileNotFoundError):
                handle = os.open(self.part, os.O_RDONLY)
                _lock(handle, wait=True)
                if self.part.exists():
                    return handle
                os.close(handle)

    def __enter__(self) -> "OutputFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if self._target.exists():
                    self._target.rmdir()
                self.part.rename(self._target)
        except OSError as failed:
            raise _refused(self.path, failed) from None
        finally:
            if self._handle is not None:
                os.close(self._handle)
            remove_unfinished(self)


_unfinished: dict[OutputFile | OutputFolder, Path] = {}


def _new_part(of: OutputFile | OutputFolder, target: Path) -> Path:
    """A name beside `target`, noted before it is there: a signal comes at any moment."""
    _unfinished[of] = part = target.with_name(f"{_before(target)}{secrets.token_hex(4)}.part")
    return part


def _before(target: Path) -> str:
    """What the names of its parts begin with."""
    name = os.fsencode(target.name)
    return f".{target.name if len(name) <= _LONGEST_NAME else hashlib.sha256(name).hexdigest()}-"


def _remove_left(target: Path) -> None:
    """Parts of a name that nobody has locked, files and folders."""
    ours = re.compile(re.escape(_before(target)) + r"[a-z0-9_]{8}\.part")
    try:
        left = [
            (entry.path, entry.is_dir(follow_symlinks=False))
            for entry in os.scandir(target.parent)
            if ours.fullmatch(entry.name)
        ]
    except OSError:
        return
    for path, folder in left:
        try:
            way = os.O_RDONLY if folder else os.O_RDWR
            handle = os.open(path, way | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError:
            continue
        try:
            mode = os.fstat(handle).st_mode
            if (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and _lock(handle, wait=False):
                _remove(Path(path))
        except OSError:
            pass
        finally:
            os.close(handle)


def _remove(part: Path) -> None:
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part)
    else:
        part.unlink(missing_ok=True)


def remove_unfinished(of: OutputFile | OutputFolder | None = None) -> None:
    """What one, or all of this process, has not finished: a signal may come before its `with` has begun."""
    for each in [*_unfinished] if of is None else [of]:
        part = _unfinished.get(each)
        if part is not None:
            try:
                _remove(part)
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
        # Without waiting for a reader, should it be a pipe.
        wait = getattr(os, "O_NONBLOCK", 0)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | wait, 0o666)
        if wait:
            os.set_blocking(handle, True)
        with os.fdopen(handle, "ab", buffering=0) as file:
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
