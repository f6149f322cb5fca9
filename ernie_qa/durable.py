"""Files and directories that are there whole or not at all, whenever the process or the machine stops.

What is new is written beside its place, under a name of its own that ends in `SUFFIX`, flushed to the disk,
and renamed. While it is written, the kernel holds a lock on it for the process: what nobody holds was left by
one that was killed, and is removed by the next that writes in the same directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ernie_qa.errors import ErnieQAError
from ernie_qa.toml_input import one_line

SUFFIX = ".ernie-qa-new"
FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_UNKNOWN = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)
"""What a file system says that knows no locks, or that flushes no directories."""


def write(
    file: Path, content: str | bytes, *, over: bool = True, check: Callable[[Path], object] | None = None
) -> None:
    """Write `file`, text as UTF-8. OSError where that is refused: then what was there is as it was.

    FileExistsError where something is there and not to be written `over`. `check` may refuse the new file
    before it takes its place.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    clear(file.parent)
    temporary, handle = _made(file.parent, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with open(handle, "wb") as opened:  # noqa: PTH123 - the lock is on this descriptor
            opened.write(data)
            opened.flush()
            os.fsync(handle)
            if check:
                check(temporary)
            if not over and (file.exists() or file.is_symlink()):
                raise FileExistsError(errno.EEXIST, "exists already", str(file))
            move(temporary, file)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def directory(target: Path) -> Iterator[Path]:
    """A directory to write in, which takes the name `target` when the block ends well, and is removed else.

    The directory above is made where it is not there. OSError where `target` holds something by then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    clear(target.parent)
    temporary, handle = _made(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with named(temporary, target):
            yield temporary
        flush_all(temporary)
        move(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


@contextmanager
def named(hidden: Path, place: Path) -> Iterator[None]:
    """Name `place` in errors about what is written in `hidden`."""
    try:
        yield
    except ErnieQAError as problem:
        said = str(problem).replace(str(hidden), str(place))
        raise type(problem)(said) from problem.__cause__


@contextmanager
def held(place: Path, *, wait: bool = False) -> Iterator[None]:
    """Make the directory `place`, where it is not there, and keep other processes out of it.

    BlockingIOError where another one is in there, or removed it while this one had to `wait`. The lock is the
    kernel's: a killed process has none.
    """
    other = BlockingIOError(errno.EAGAIN, "another process is writing it", str(place))
    place.mkdir(exist_ok=True)
    try:
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise other from None
    try:
        if not _lock(handle, place, wait):
            raise other
        yield
    finally:
        os.close(handle)


def move(source: Path, target: Path) -> None:
    """Rename, and flush the directory that holds `target` to the disk."""
    os.rename(source, target)  # noqa: PTH104 - a file, a directory, or over an empty one
    flush(target.parent)


def flush(path: Path) -> None:
    """Wait until the disk has a file, or which names a directory holds."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as problem:
        if problem.errno not in _UNKNOWN or not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise
    finally:
        os.close(handle)


def flush_all(place: Path) -> None:
    """Wait until the disk has everything below the directory `place`, and itself."""
    for entry in sorted(place.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            flush_all(entry)
        elif entry.is_file() and not entry.is_symlink():
            flush(entry)
    flush(place)


def discard(place: Path) -> None:
    """Remove a directory that must not be met half removed: under its own name it is there whole or not."""
    temporary = place.parent / f".{uuid.uuid4().hex[:16]}{SUFFIX}"
    os.rename(place, temporary)  # noqa: PTH104 - as in `move`
    shutil.rmtree(temporary, ignore_errors=True)


def is_left(name: str) -> bool:
    """Whether a file of that name is one that is being written, or that a killed process left."""
    return name.startswith(".") and name.endswith(SUFFIX)


def clear(place: Path) -> None:
    """Remove what killed processes left in the directory `place`; what cannot be removed stays."""
    with suppress(OSError):
        for path in [entry for entry in place.iterdir() if is_left(entry.name)]:
            with suppress(OSError):
                _remove_left(path)


def cannot(place: Path, problem: OSError) -> str:
    """Why `place` is not written, and what to do, in one line."""
    if problem.errno in FULL:
        to_do = "make room on that disk and run the same command again"
    elif problem.errno in _FORBIDDEN:
        to_do = "look at who may write there, or name another place"
    elif problem.errno == errno.EIO:
        to_do = "the disk itself failed: look at the system's log before you trust it, or name another place"
    elif problem.errno == errno.EEXIST:
        to_do = "name another place"
    elif problem.errno == errno.EAGAIN:
        to_do = "run the same command again when that one has ended"
    else:
        to_do = "name another place, or mend this one, and run the same command again"
    return one_line(f"{place}: cannot be written: {problem.strerror or problem}; {to_do}")


def _made(place: Path, how: int) -> tuple[Path, int]:
    """A new name in `place`, and a descriptor that holds the lock on it."""
    while True:
        path = place / f".{uuid.uuid4().hex[:16]}{SUFFIX}"
        if how & os.O_DIRECTORY:
            path.mkdir()
        try:
            handle = os.open(path, how, 0o666)
        except OSError as problem:
            if not how & os.O_DIRECTORY:
                raise
            if isinstance(problem, FileNotFoundError) and place.is_dir():
                # as below: somebody who clears this directory was faster
                continue
            with suppress(OSError):
                path.rmdir()
            raise
        try:
            if _lock(handle, path):
                return path, handle
        except BaseException:
            os.close(handle)
            with suppress(OSError):
                path.rmdir() if how & os.O_DIRECTORY else path.unlink()
            raise
        # somebody who clears this directory was faster than the lock
        os.close(handle)


def _lock(handle: int, path: Path, wait: bool = False) -> bool:
    """Lock what `handle` has open; False where another has it, or it was removed since."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as problem:
        if problem.errno not in _UNKNOWN:
            raise
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _remove_left(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        # without locks nobody can tell whether somebody is at work on it
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(handle)
