"""The progress bar of the long commands."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """What tells how many are done, of how many, and what is being done: a bar on stderr, which shows only
    where that is a terminal."""
    from tqdm import tqdm

    # a descriptor of its own, for stderr is turned away while libraries write to it
    with (
        os.fdopen(os.dup(2), "w") as terminal,
        tqdm(unit=unit, disable=None, leave=False, file=terminal) as bar,
    ):

        def progress(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.set_description(what, refresh=False)
            bar.update(done - bar.n)
            bar.refresh()

        yield progress
