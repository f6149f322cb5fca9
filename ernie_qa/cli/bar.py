"""How far the long commands are: a bar on a terminal, and now and then a line in a log."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

APART = 30.0
"""Seconds that are between two lines in a log, at least, and before the first one."""


class Bar:
    """Says what is being done, and how much of it is done in `unit`s: `shown` is the bar, and `file` where
    it is."""

    def __init__(self, shown: tqdm, unit: str, file: TextIO) -> None:
        self._shown = shown
        self._unit = unit
        self._file = file
        self._done = shown.n
        self._began = self._said = time.monotonic()

    def at(self, done: int, total: int | None, what: str) -> None:
        """So many are `done` of `total`, and now it is at `what`."""
        self._done = done
        if self._shown.disable:
            self._write(total, what)
            return
        self._shown.total = total
        self._shown.set_description(what[:40], refresh=False)
        self._shown.update(done - self._shown.n)
        self._shown.refresh()

    def on(self, more: int, what: str) -> None:
        """So many `more` are done, and now it is at `what`."""
        self.at(self._done + more, self._shown.total, what)

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        self._shown.write(f"ernie-qa: {line}", file=self._file)
        self._file.flush()

    def _write(self, total: int | None, what: str) -> None:
        now = time.monotonic()
        if now - self._said < APART:
            return
        self._said = now
        minutes, seconds = divmod(round(now - self._began), 60)
        self.say(f"{what}: {self._amount(total)} after {minutes}:{seconds:02}")

    def _amount(self, total: int | None) -> str:
        if self._unit == "B":
            done, whole = f"{self._done / 1e9:.1f}", f"{(total or 0) / 1e9:.1f} GB"
        else:
            done, whole = str(self._done), f"{total} {self._unit}s"
        return f"{done} of {whole}"


@contextmanager
def progress_bar(unit: str, total: int | None = None, done: int = 0) -> Iterator[Bar]:
    """A bar on stderr, which counts in `unit`s, "B" for bytes; where that is no terminal, a line from time
    to time."""
    from tqdm import tqdm

    # a descriptor of its own, for stderr is turned away while libraries write to it
    with (
        os.fdopen(os.dup(2), "w") as terminal,
        tqdm(
            total=total,
            initial=done,
            unit=unit,
            unit_scale=unit == "B",
            disable=None,
            leave=False,
            file=terminal,
        ) as bar,
    ):
        yield Bar(bar, unit, terminal)
