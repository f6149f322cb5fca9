"""A directory that is there whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ernie_qa.errors import ErnieQAError, InputError, UnavailableError
from ernie_qa.toml_input import one_line

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def unfinished(directory: Path, needed: int) -> Iterator[Path]:
    """A hidden directory beside `directory` to write in; it takes that name when the block ends well.

    Ended otherwise, it is removed; what a killed process left is removed by the next one for the same
    `directory`. InputError where `directory` holds something, UnavailableError where fewer than `needed`
    bytes are free, something cannot be written, or another process is at work here.
    """
    try:
        target = directory.resolve()
        _check_new(directory, target)
        hidden = target.with_name(f".{target.name}.ernie-qa-unfinished")
        with ExitStack() as undo:
            _lock(directory, hidden, undo)
            undo.callback(shutil.rmtree, hidden, ignore_errors=True)
            # what was there before the lock was held, and a directory that came to be since
            _empty(hidden)
            _check_new(directory, target)
            _check_room(directory, hidden, needed)
            yield hidden
            hidden.rename(target)
    except OSError as problem:
        raise _refused(directory, problem, needed) from None


def _check_new(directory: Path, target: Path) -> None:
    """InputError unless `target` is a name that is free, or an empty directory that can be replaced."""
    what = None
    if target.exists() and not target.is_dir():
        what = "not a directory; name a new or an empty one"
    elif target.is_dir() and any(target.iterdir()):
        what = "not empty; name a new or an empty directory"
    elif target == Path.cwd() or target.is_mount():
        what = f"cannot be replaced; name a new directory in it, as {directory / 'replica'}"
    elif not target.parent.is_dir():
        what = f"{target.parent} is no directory; make it first"
    if what:
        raise InputError(one_line(f"{directory}: {what}"))


def _lock(directory: Path, hidden: Path, undo: ExitStack) -> None:
    """Make `hidden` and hold it until `undo`: the lock is the kernel's, so that a killed process has none."""
    hidden.mkdir(exist_ok=True)
    handle = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    undo.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # it may have been renamed or removed between the two
        mine = os.path.samestat(os.fstat(handle), hidden.stat())
    except (BlockingIOError, FileNotFoundError):
        mine = False
    if not mine:
        raise UnavailableError(
            one_line(f"{directory}: another process is writing it; wait for that, or name another directory")
        )


def _empty(hidden: Path) -> None:
    for file in hidden.iterdir():
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink()


def _check_room(directory: Path, hidden: Path, needed: int) -> None:
    free = shutil.disk_usage(hidden).free
    if free < needed:
        raise UnavailableError(
            one_line(
                f"{directory}: needs {needed:,} bytes of disk and {free:,} are free in {hidden.parent}; "
                f"make room, name a directory on another disk, or write a smaller one with --scale"
            )
        )


def _refused(directory: Path, problem: OSError, needed: int) -> ErnieQAError:
    if problem.errno in _FULL:
        what = f"the disk is full: {needed:,} bytes are needed; make room, or name a directory elsewhere"
    else:
        what = f"cannot be written: {problem.strerror or problem}; name a directory elsewhere"
    return UnavailableError(one_line(f"{directory}: {what}; nothing was left there"))
