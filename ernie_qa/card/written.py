"""A card's files in a directory that holds more than them: all of them are there, or none is new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ernie_qa.durable import FULL, cannot
from ernie_qa.errors import InputError, RecordError, UnavailableError
from ernie_qa.together import settle, together
from ernie_qa.toml_input import one_line

README = "README.md"


def check_free(directory: Path, names: Sequence[str], overwrite: bool) -> None:
    """InputError where one of `names` is in `directory` already and not to be replaced, or the directory
    neither is there nor can be made."""
    if directory.exists() and not directory.is_dir():
        raise InputError(one_line(f"{directory}: not a directory; name one for the card"))
    if not directory.exists() and not directory.absolute().parent.is_dir():
        raise InputError(
            one_line(f"{directory}: {directory.absolute().parent} is no directory; make it first")
        )
    try:
        settle(directory, names)
    except OSError as problem:
        raise UnavailableError(cannot(directory, problem)) from None
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
    try:
        with together(directory, names, over=overwrite) as new:
            yield new
    except (OSError, RecordError) as problem:
        # a record says itself that it cannot be written, but not what to do about a card
        cause = problem if isinstance(problem, OSError) else problem.__cause__
        if not isinstance(cause, OSError):
            raise
        full = cause.errno in FULL
        why = "the disk is full; make room" if full else f"cannot be written: {cause.strerror or cause}"
        raise UnavailableError(
            one_line(f"{directory}: {why}, or name another with --output; what was there is as it was")
        ) from None
