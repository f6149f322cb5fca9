"""A directory that is there whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ernie_qa.durable import FULL, flush_all, move
from ernie_qa.errors import ErnieQAError, InputError, UnavailableError
from ernie_qa.toml_input import one_line


@dataclass(frozen=True, slots=True)
class Terms:
    """How a directory comes to be.

    `smaller` is what to do instead where the disk is too small. `kept` tells of the hidden directory whether
    a later try goes on with what is in it, and takes away what no later try can use. `replaceable` says of
    a directory that holds something whether the new one may take its place.
    """

    smaller: str
    kept: Callable[[Path], bool] = lambda hidden: False
    replaceable: Callable[[Path], bool] = lambda target: False
    refusal: str = "not empty; name a new or an empty directory"


@contextmanager
def unfinished(directory: Path, needed: Callable[[Path], int], terms: Terms) -> Iterator[Path]:
    """A hidden directory beside `directory` to write in; it takes that name when the block ends well.

    Ended otherwise, it is removed, but for what `terms` keep; what a killed process left is treated alike by
    the next one for the same `directory`. `needed` gives the bytes that are still to be written, from the
    hidden directory. InputError where `directory` holds something that may not be replaced, UnavailableError
    where fewer bytes are free, something cannot be written, or another process is at work here.
    """
    taken, kept, room = False, False, 0
    try:
        target = directory.resolve()
        check_new(directory, terms)
        hidden = target.with_name(f".{target.name}.ernie-qa-unfinished")
        with ExitStack() as undo:
            _lock(directory, hidden, undo)

            def leave() -> None:
                nonlocal kept
                kept = not taken and terms.kept(hidden)
                if not kept and not taken:
                    shutil.rmtree(hidden, ignore_errors=True)

            undo.callback(leave)
            # what was there before the lock was held, and a directory that came to be since
            if not terms.kept(hidden):
                _empty(hidden)
            _restore(target)
            check_new(directory, terms)
            room = needed(hidden)
            _check_room(directory, hidden, room, terms)
            yield hidden
            _take(hidden, target)
            taken = True
    except OSError as problem:
        raise _refused(directory, problem, room, kept) from None


def check_new(directory: Path, terms: Terms) -> None:
    """InputError unless `directory` is a name that is free, or a directory that can be replaced."""
    what, target = None, directory.resolve()
    if target.exists() and not target.is_dir():
        what = "not a directory; name a new or an empty one"
    elif target == Path.cwd() or target.is_mount():
        what = f"cannot be replaced; name a new directory in it, as {directory / 'new'}"
    elif target.is_dir() and any(target.iterdir()) and not terms.replaceable(target):
        what = terms.refusal
    elif not target.parent.is_dir():
        what = f"{target.parent} is no directory; make it first"
    if what:
        raise InputError(one_line(f"{directory}: {what}"))


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.ernie-qa-replaced")


def _restore(target: Path) -> None:
    """What a process that was killed while it replaced `target` left: back to its name, or away."""
    old = _old(target)
    if old.is_dir() and not target.exists():
        move(old, target)
    shutil.rmtree(old, ignore_errors=True)


def _take(hidden: Path, target: Path) -> None:
    """Give `hidden` the name `target`, and remove what had it."""
    flush_all(hidden)
    if not target.is_dir() or not any(target.iterdir()):
        move(hidden, target)
        return
    old = _old(target)
    try:
        move(target, old)
        move(hidden, target)
    except BaseException:
        if not target.exists():
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


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


def _check_room(directory: Path, hidden: Path, needed: int, terms: Terms) -> None:
    free = shutil.disk_usage(hidden).free
    if free < needed:
        raise UnavailableError(
            one_line(
                f"{directory}: needs {needed:,} bytes of disk and {free:,} are free in {hidden.parent}; "
                f"make room, name a directory on another disk, or {terms.smaller}"
            )
        )


def _refused(directory: Path, problem: OSError, needed: int, kept: bool) -> ErnieQAError:
    if problem.errno in FULL:
        what = f"the disk is full: {needed:,} bytes are needed; make room, or name a directory elsewhere"
    else:
        what = f"cannot be written: {problem.strerror or problem}; name a directory elsewhere"
    left = "what was done is kept, and the same command goes on there" if kept else "nothing was left there"
    return UnavailableError(one_line(f"{directory}: {what}; {left}"))
