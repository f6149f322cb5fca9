"""The lock on a directory of baselines, and who holds it.

The lock is the kernel's, on the directory itself: it ends with the process, however that ends, and needs no
clearing. A writer also leaves its name in `OWNER`, with a lock on that file too: a text that nobody holds is
of a command that was killed, blocks nobody, and goes with the next writer.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

from ernie_qa.errors import BaselineError
from ernie_qa.toml_input import one_line

OWNER = ".ernie-qa-lock"
_MOST = 4096


@dataclass(frozen=True, slots=True)
class Owner:
    """A command that writes, its process id and when it began (UTC, ISO 8601); never a host or a path."""

    command: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"`{self.command}` (process {self.pid}, since {self.since}{self._age()})"

    def _age(self) -> str:
        try:
            age = datetime.now(UTC) - datetime.fromisoformat(self.since)
        except (TypeError, ValueError):
            return ""
        return f", {max(0, round(age.total_seconds()))} s ago"


@contextmanager
def locked(root: Path, *, exclusive: bool = True) -> Iterator[None]:
    """Keep accepts away from `root` while it is read; with `exclusive`, readers too.

    A reader waits; a second writer gets a BaselineError that names the first, and so does everybody where
    `root` is no directory.
    """
    if not root.is_dir():
        raise BaselineError(one_line(f"{root}: no such directory; name the one that holds the baselines"))
    try:
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as problem:
        raise BaselineError(one_line(f"{root}: {problem.strerror or problem}")) from problem
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
        except BlockingIOError:
            owner, holds = _read(root)
            who = f"{owner} is" if owner and holds else "another command, which reads it, is"
            raise BaselineError(
                one_line(f"{root}: {who} at work here; run it again when that has ended")
            ) from None
        except OSError as problem:
            # of a file system that knows no locks
            raise BaselineError(
                one_line(
                    f"{root}: cannot be locked: {problem.strerror or problem}; name a directory elsewhere"
                )
            ) from problem
        with _named(root, exclusive):
            yield
    finally:
        os.close(handle)


def left_by(root: Path) -> Owner | None:
    """The writer that was killed at work in `root`, and whose lock ended with it; None where none was."""
    owner, holds = _read(root)
    return None if holds else owner


@contextmanager
def _named(root: Path, exclusive: bool) -> Iterator[None]:
    """Leave this command's name in `root` meanwhile. It only explains: without it the lock holds as well."""
    file, handle = root / OWNER, None
    if exclusive:
        with suppress(OSError):
            file.unlink(missing_ok=True)
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            os.write(handle, json.dumps(asdict(Owner(_command(), os.getpid(), now))).encode())
    try:
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                file.unlink(missing_ok=True)
            os.close(handle)


def _command() -> str:
    """This command and its own, as `ernie-qa baseline accept`: its other arguments may name directories."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name
    words = takewhile(lambda word: word.isascii() and word.isalpha(), sys.argv[1:3])
    return " ".join(("python" if name in ("", "-c") else name, *words))


def _read(root: Path) -> tuple[Owner | None, bool]:
    """Whom the text in `root` names, None where there is none to read, and whether that one is at work."""
    try:
        handle = os.open(root / OWNER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError):
        # no such file, or no name that a file could have
        return None, False
    try:
        stored = json.loads(os.read(handle, _MOST))
        owner = Owner(str(stored["command"]), int(stored["pid"]), str(stored["since"]))
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return owner, True
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None, False
    finally:
        os.close(handle)
    return owner, False
