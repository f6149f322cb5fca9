"""What several processes of one host that run one plan leave for each other, in a directory:

began/<recipe>      the worker that began the arm
broke/<recipe>      why it broke off there, in one line
records/<recipe>/   its record, whole or not at all
steps/<worker>      what its watchdog watches, and the stacks where that ended it

and for an arm that several draw in pieces the same once more, below its name, by piece.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ernie_qa.durable import write
from ernie_qa.errors import ErnieQAError
from ernie_qa.pieces import arm_of
from ernie_qa.recipe import REFERENCE
from ernie_qa.record import Record, load_record
from ernie_qa.toml_input import one_line
from ernie_qa.watchdog import Hung, Watchdog, hung

_FOLDERS = ("began", "broke", "records", "steps")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One process's access to `directory`, which belongs to one run alone and which `make` has made.

    `worker` is the process's name in messages. `apart` is empty, or names what it keeps apart from the others
    where kernels are compiled: how many one process compiled is told by its own directory. `earlier` are the
    recipes whose records were there before this run began. It is one `among` so many workers.
    """

    directory: Path
    worker: str
    apart: str = ""
    earlier: frozenset[str] = frozenset()
    among: int = 1

    def make(self) -> None:
        """Make the folders, where they are not there."""
        for folder in _FOLDERS:
            (self.directory / folder).mkdir(parents=True, exist_ok=True)

    def below(self, recipe: str) -> Exchange:
        """Where the pieces of one arm are left."""
        found = replace(self, directory=self.directory / recipe)
        found.make()
        return found

    def begin(self, recipe: str) -> None:
        """Say that this process begins an arm. An arm is begun once: ErnieQAError where it was before, and
        where nothing can be written."""
        file = self.directory / "began" / recipe
        try:
            with file.open("x", encoding="utf-8") as opened:
                opened.write(self.worker)
        except FileExistsError:
            raise ErnieQAError(self.ended(recipe)) from None
        except OSError as problem:
            raise ErnieQAError(one_line(f"{file}: cannot be written: {problem.strerror}")) from problem

    def broke(self, recipe: str, why: str) -> None:
        """Say why the arm that this process began has no record."""
        # the error itself is raised as well
        with suppress(OSError):
            write(self.directory / "broke" / recipe, why)

    def keep(self, recipe: str, record: Record) -> None:
        """Leave the record of the arm that this process began. RecordError where it cannot be written."""
        record.save(self.directory / "records" / recipe)

    def record(self, recipe: str) -> Record | None:
        """The arm's record, every hash checked; None where there is none. RecordError where it is damaged."""
        place = self.directory / "records" / recipe
        return load_record(place) if place.is_dir() else None

    @property
    def begun(self) -> tuple[str, ...]:
        """The recipes that somebody began, by name."""
        return tuple(sorted(file.name for file in (self.directory / "began").iterdir()))

    def forget(self, recipe: str) -> None:
        """Remove what there is of an arm that nobody is at work on: it may be begun again."""
        for folder in ("broke", "began"):
            (self.directory / folder / recipe).unlink(missing_ok=True)
        shutil.rmtree(self.directory / "records" / recipe, ignore_errors=True)

    def forget_steps(self) -> None:
        """Remove what watchdogs wrote of processes that are gone."""
        for file in (self.directory / "steps").iterdir():
            file.unlink()

    def is_told(self, recipe: str) -> bool:
        """Whether whoever began the arm left its record, or why there is none."""
        told = any((self.directory / folder / recipe).exists() for folder in ("records", "broke"))
        return told or self.hung(recipe) is not None

    def watchdog(self, seconds: float) -> Watchdog:
        """What ends this process where one step takes longer, and tells the others."""
        return Watchdog(self.directory / "steps" / self.worker, seconds)

    def hung(self, recipe: str) -> Hung | None:
        """How the watchdog of whoever began the arm ended it there; None where it did not. Of the empty name,
        one that was ended before it began any."""
        found = (hung(file) for file in (self.directory / "steps").iterdir())
        return next((one for one in found if one and one.recipe == recipe), None)

    def ended(self, recipe: str) -> str:
        """Why an arm that somebody began, and that nobody is at work on, has no record, in one line."""
        if stuck := self.hung(recipe):
            return f"{recipe} broke off: {stuck.why}"
        who = (self.directory / "began" / recipe).read_text(encoding="utf-8")
        broke = self.directory / "broke" / recipe
        if broke.is_file():
            return f"{recipe} broke off before, in worker {who}: {broke.read_text(encoding='utf-8')}"
        others = ", and nothing can be compared without it" if arm_of(recipe) == REFERENCE else ""
        return f"{recipe} broke off: worker {who} died while it was at it{others}; run again"

    def gather(self, begun: Collection[str]) -> tuple[dict[str, Record], list[str]]:
        """The records of the arms that were `begun`, and a line for each that left none that can be read."""
        found, lines = {}, []
        for name in begun:
            try:
                record = self.record(name)
            except ErnieQAError as error:
                lines.append(f"{name}: {error}")
                continue
            if record:
                found[name] = record
            else:
                lines.append(self.ended(name))
        return found, lines

    @contextmanager
    def turn(self, of: str = "turn", wait: bool = True) -> Iterator[bool]:
        """Wait until no other process is in the turn of that name; the kernel lets the next one in when a
        process dies. How long the one in there may take, its watchdog says. Without `wait`, False where
        there is one."""
        with (self.directory / f"{of}.lock").open("w") as lock:
            try:
                # a lock of flock's would live on in what a killed process had forked
                fcntl.lockf(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as problem:
                if wait or problem.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                yield False
            else:
                yield True
