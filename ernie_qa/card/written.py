"""A card's files in a directory that holds more than them: all of them are there, or none is new."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ernie_qa.errors import InputError, RecordError, UnavailableError
from ernie_qa.toml_input import one_line

README = "README.md"
_HIDDEN = ".ernie-qa-card-unfinished"


def check_free(directory: Path, names: Sequence[str], overwrite: bool) -> None:
    """InputError where one of `names` is in `directory` already and not to be replaced, or the directory
    neither is there nor can be made."""
    if directory.exists() and not directory.is_dir():
        raise InputError(one_line(f"{directory}: not a directory; name one for the card"))
    if not directory.exists() and not directory.absolute().parent.is_dir():
        raise InputError(
            one_line(f"{directory}: {directory.absolute().parent} is no directory; make it first")
        )
    there = [name for name in names if (directory / name).exists() or (directory / name).is_symlink()]
    if there and not overwrite:
        raise InputError(
            one_line(
                f"{directory}: holds {', '.join(there)} already; --overwrite replaces {', '.join(names)}, "
                "--output names another directory"
            )
        )


@contextmanager
def replacing(directory: Path, names: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """A hidden directory in `directory` to write `names` in; when the block ends well they take the place of
    those in `directory`, the last of `names` last. One that was not written is taken away there.

    Ended otherwise, everything is as it was. InputError as `check_free` has it, UnavailableError where
    something cannot be written.
    """
    check_free(directory, names, overwrite)
    made = not directory.exists()
    hidden = directory / _HIDDEN
    try:
        directory.mkdir(exist_ok=True)
        shutil.rmtree(hidden, ignore_errors=True)
        (hidden / "old").mkdir(parents=True)
        (hidden / "new").mkdir()
        yield hidden / "new"
        _swap(directory, hidden, names)
        made = False
    except (OSError, RecordError) as problem:
        # a record says itself that it cannot be written, but names the hidden directory
        cause = problem if isinstance(problem, OSError) else problem.__cause__
        if not isinstance(cause, OSError):
            raise
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full; make room" if full else f"cannot be written: {cause.strerror or cause}"
        raise UnavailableError(
            one_line(f"{directory}: {why}, or name another with --output; nothing was left there")
        ) from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if made and directory.is_dir():
            directory.rmdir()


def _swap(directory: Path, hidden: Path, names: Sequence[str]) -> None:
    """Move what is in the way aside and the new ones in; all back where one of them cannot be moved."""
    done: list[tuple[Path, Path]] = []
    try:
        for name in names:
            for source, target in (
                (directory / name, hidden / "old" / name),
                (hidden / "new" / name, directory / name),
            ):
                if source.exists() or source.is_symlink():
                    source.rename(target)
                    done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            target.rename(source)
        raise
