"""A limit on the time that one step of an arm may take: past it the process writes down where every thread
is, and ends.

Nothing less ends a call into C that never returns, as a kernel that is waited for: no exception is raised
there and no signal handler runs. faulthandler's timer is a thread of C that needs neither, nor the GIL.
docs/decisions/0010-a-hung-step-ends-its-process.md says why.
"""

from __future__ import annotations

import faulthandler
from dataclasses import dataclass
from pathlib import Path

MOST = 30 * 24 * 60 * 60
"""Seconds: no step takes a month, and faulthandler's timer does not know every number."""
_DUMPED = "Timeout ("
"""What faulthandler begins with where it was not told to stop in time."""


class Watchdog:
    """Ends this process with exit code 1 where a step takes longer than `seconds`; `hung` reads from `file`
    what it was at. faulthandler has one timer a process."""

    def __init__(self, file: Path, seconds: float) -> None:
        # faulthandler writes to the descriptor: it must stay open
        self._file = file.open("w", encoding="utf-8")
        self._seconds = seconds

    def step(self, recipe: str, doing: str) -> None:
        """A step begins, and the one before has ended; `recipe` is empty before any has begun."""
        self.rest()
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"{recipe}\nno progress for {self._seconds:g} s while {doing}\n")
        self._file.flush()
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)

    def rest(self) -> None:
        """The step has ended, and none begins."""
        faulthandler.cancel_dump_traceback_later()


@dataclass(frozen=True, slots=True)
class Hung:
    """How a watched process ended: at which `recipe`, `why` in one line, and the `stack` of every thread."""

    recipe: str
    why: str
    stack: str


def hung(file: Path) -> Hung | None:
    """What ended the process that wrote `file`; None where that was not its watchdog."""
    if not file.is_file():
        return None
    recipe, _, rest = file.read_text(encoding="utf-8", errors="replace").partition("\n")
    why, _, stack = rest.partition("\n")
    return Hung(recipe, why, stack) if stack.startswith(_DUMPED) else None
