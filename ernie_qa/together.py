"""Several files and folders of one directory that change together, though the directory itself stays.

All of them are written to a hidden directory in it. One rename there makes them the new state; then each
takes its name, and what had it is moved aside. A process killed before that rename changed nothing; what one
killed after it has not moved yet, the next one moves (`settle`).
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ernie_qa.durable import flush, flush_all, held, move, named

HIDDEN = ".ernie-qa-unfinished"
_GONE = ".gone"


@contextmanager
def together(directory: Path, names: Sequence[str] = (), *, over: bool = False) -> Iterator[Path]:
    """A hidden directory to write in; when the block ends well, what is in it takes its place in `directory`,
    which is made where it is not there.

    `names` that were not written are taken away in `directory`. Ended otherwise, everything is as it was.
    OSError where something cannot be written, FileExistsError where something is in the way and `over` is not
    said. An error that names the hidden directory names `directory` instead.
    """
    made = not directory.exists()
    hidden, finished = directory / HIDDEN, False
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with held(hidden):
            try:
                _settle(directory, hidden, names)
                (hidden / "new").mkdir()
                with named(hidden / "new", directory):
                    yield hidden / "new"
                _commit(directory, hidden, names, over)
                finished = True
            finally:
                # what is committed and could not be moved back is left for the next to move on
                if not (hidden / "ready").exists():
                    shutil.rmtree(hidden, ignore_errors=True)
    finally:
        if made and not finished:
            with suppress(OSError):
                directory.rmdir()


def settle(directory: Path, names: Sequence[str] = ()) -> None:
    """Finish or clear away what a killed process left in `directory`, where it left something; one that is at
    work there is waited for. OSError where that is refused."""
    hidden = directory / HIDDEN
    while hidden.is_dir() and not hidden.is_symlink():
        # of several that wait here the first removes it
        with suppress(BlockingIOError), held(hidden, wait=True):
            _settle(directory, hidden, names)
            shutil.rmtree(hidden)


def _settle(directory: Path, hidden: Path, names: Sequence[str]) -> None:
    for part in ("new", "ready", "old", "done"):
        # nothing here is ever a link: whoever put one there would have other files moved
        if (hidden / part).is_symlink():
            (hidden / part).unlink()
    if (hidden / "ready").is_dir():
        _swap(directory, hidden, names, [])
    for entry in hidden.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _commit(directory: Path, hidden: Path, names: Sequence[str], over: bool) -> None:
    """Make what is in `new` the state of `directory`; all as it was where one of them cannot be moved."""
    new, ready = hidden / "new", hidden / "ready"
    for entry in sorted(new.iterdir()):
        if not over and os.path.lexists(directory / entry.name):
            raise FileExistsError(errno.EEXIST, "exists already", str(directory / entry.name))
    (new / _GONE).mkdir()
    for name in names:
        if not os.path.lexists(new / name):
            (new / _GONE / name).mkdir()
    flush_all(new)
    flush(directory)
    done: list[tuple[Path, Path]] = []
    try:
        move(new, ready)
        _swap(directory, hidden, names, done)
    except BaseException:
        if not (hidden / "done").exists():
            for source, target in reversed(done):
                os.rename(target, source)  # noqa: PTH104 - a link as well, which is not followed
            if ready.exists():
                os.rename(ready, new)  # noqa: PTH104
        raise


def _swap(directory: Path, hidden: Path, names: Sequence[str], done: list[tuple[Path, Path]]) -> None:
    """Move what is in the way aside and what is in `ready` in, the last of `names` last; each move is added
    to `done`. May be begun again at any point."""
    ready, old = hidden / "ready", hidden / "old"
    old.mkdir(exist_ok=True)
    written = {entry.name for entry in ready.iterdir()} - {_GONE}
    order = sorted(written - {*names}) + [name for name in names if name in written]
    # what is taken away is written there: who finishes this may not know the names
    gone = sorted(entry.name for entry in (ready / _GONE).iterdir())
    for name in (*gone, *order):
        moves = [(ready / name, directory / name)] if name in written else []
        if os.path.lexists(directory / name):
            # a name of its own: one of an earlier try may be there
            moves.insert(0, (directory / name, old / uuid.uuid4().hex))
        for source, target in moves:
            os.rename(source, target)  # noqa: PTH104
            done.append((source, target))
    flush(directory)
    move(ready, hidden / "done")
