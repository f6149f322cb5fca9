"""Who is given what: the chunks of a plan on the workers of any executor, and what becomes of what is lost.

BF16 comes first, and is shared; then every other arm, the longest first. A record that is back is kept, where
somebody may go on with this run, and an arm of which all are back is one record (`ernie_qa.join`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ernie_qa.baseline.store import files_about
from ernie_qa.cluster.chunks import Chunk, check_size, chunks
from ernie_qa.cluster.work import TRIES, Broke, Done, Task, places, work
from ernie_qa.errors import ErnieQAError
from ernie_qa.execute import Session
from ernie_qa.join import join
from ernie_qa.pieces import Pieces, pieces, shares
from ernie_qa.recipe import REFERENCE, find_recipe
from ernie_qa.spool import Spool
from ernie_qa.turns import accepted_seconds, longest_first

if TYPE_CHECKING:
    from ernie_qa.exchange import Exchange
    from ernie_qa.plan import Plan
    from ernie_qa.recipe import Recipe
    from ernie_qa.record import Record
    from ernie_qa.settings import Settings

POLL = 5.0
"""Seconds between two looks at whether any worker is left."""
LOSSES = 8
"""How often a chunk may be lost, begun or not, before it is given up: chosen."""
GRACE = 60.0
"""Seconds in which a worker that has ended may be replaced, as Dask's nannies do."""

Progress = Callable[[str, int], None]
"""Called with a recipe, and how many of its pictures are there that were not."""
Told = Callable[[str], None]
"""Called with a line about something that broke off or was lost."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Workers behind an `executor`, which must run what it is given in other processes or one at a time.

    `share` makes of a value what stands for it in many calls. `begun` counts, across workers, how often the
    chunk of a name was begun, this time counted in; it is pickled, and needed where the executor begins again
    by itself what a worker lost. `count` says how many workers there are.
    """

    executor: Executor
    share: Callable[[Any], Any] = lambda value: value
    begun: Callable[[str], int] | None = None
    count: Callable[[], int] = lambda: 1


def run(
    plan: Plan,
    settings: Settings,
    workers: Workers,
    *,
    chunk: int | None = None,
    kept: Exchange | None = None,
    progress: Progress = lambda recipe, drawn: None,
    told: Told = lambda line: None,
) -> Session:
    """Observe the arms of `plan` on `workers` and judge them here.

    A worker is given `chunk` cases of an arm at a time; all with 0; with None all of a recipe, and of BF16,
    for which the others would wait, each a share.
    The model, a shipped one, a hub id or a directory, must be found in the same way by every worker. What is
    `kept` of an earlier run is not drawn again, and the rest is left there. The session is whole but for arms
    that broke off, which are `told`; after Ctrl-C it holds what was drawn to its end. InputError where
    `chunk` is too small; ErnieQAError where BF16, or the only recipe, broke off.
    """
    check_size(chunk, plan)
    session = Session(plan, baselines=settings.baselines, require_baseline=settings.require_baseline)
    names = {REFERENCE, *(recipe.name for recipe in plan.recipes)}
    dispatch = _Dispatch(plan, settings, workers, chunk, kept, progress, told)
    interrupted = False
    try:
        dispatch.draw([find_recipe(REFERENCE)])
        if REFERENCE in dispatch.records:
            dispatch.draw(dispatch.others())
    except KeyboardInterrupt:
        interrupted = True
        if not dispatch.records:
            raise
    if lost := next((why for name, why in dispatch.broke.items() if dispatch.is_needed(name)), None):
        raise ErnieQAError(lost)
    session.adopt(dispatch.records, {*dispatch.records, *dispatch.broke}, names)
    if interrupted:
        session.interrupt()
    return session


class _Dispatch:
    """The `records` of the arms that are whole, and why others `broke` off."""

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        workers: Workers,
        size: int | None,
        kept: Exchange | None,
        progress: Progress,
        told: Told,
    ) -> None:
        self.records: dict[str, Record] = {}
        self.broke: dict[str, str] = {}
        self._plan = plan
        self._settings = settings
        self._workers = workers
        self._size = size
        self._kept = kept
        self._progress = progress
        self._told = told
        self._tries = Counter[str]()
        self._earlier = False
        self._parts: dict[str, dict[int, Record]] = {}
        self._places = places(plan)
        self._spool = Spool()
        files = files_about(settings.baselines, plan.model.name) if settings.baselines else {}
        self._files = {name: file.read_bytes() for name, file in files.items()}
        self._shared: tuple[Any, Any] | None = None
        self._gone = False

    def is_needed(self, recipe: str) -> bool:
        """Whether there is nothing to tell without that recipe: BF16, and the only one."""
        return recipe == REFERENCE or all(one.name in (REFERENCE, recipe) for one in self._plan.recipes)

    def others(self) -> list[Recipe]:
        """The recipes beside BF16, the one that took longest when it was accepted first."""
        machine = self.records[REFERENCE].fingerprint.machine
        seconds = accepted_seconds(self._settings.baselines, self._plan.model.name, machine)
        named = {recipe.name: recipe for recipe in self._plan.recipes if recipe.name != REFERENCE}
        return [named[name] for name in longest_first(named, seconds)]

    def draw(self, recipes: Iterable[Recipe]) -> None:
        """Draw the arms of `recipes`, all of them on all workers."""
        self._shared = None
        left: dict[Future[Done | Broke], Chunk] = {}
        try:
            for chunk in [one for recipe in recipes for one in chunks(recipe, self._pieces(recipe))]:
                if found := self._found(chunk):
                    self._take(chunk, found)
                else:
                    self._submit(chunk, left)
            seen = time.monotonic()
            while left:
                ended, _ = wait(left, timeout=POLL, return_when=FIRST_COMPLETED)
                if ended or self._workers.count():
                    seen = time.monotonic()
                elif time.monotonic() - seen > GRACE:
                    for chunk in left.values():
                        self._break_off(chunk, Broke(f"{chunk} was not drawn: no worker is left; start some"))
                    return
                for future in ended:
                    self._receive(left.pop(future), future, left)
        finally:
            for future in left:
                future.cancel()

    def _pieces(self, recipe: Recipe) -> Pieces:
        cases = [case.id for case in self._plan.suite.cases]
        if self._size is None and recipe.name == REFERENCE:
            return shares(cases, max(1, self._workers.count()), self._plan.teacher_cases)
        return pieces(cases, self._size or 0)

    def _submit(self, chunk: Chunk, left: dict[Future[Done | Broke], Chunk]) -> None:
        self._tries[chunk.name] += 1
        task = Task(self._plan, self._settings, chunk, self._places, self._workers.begun, self._earlier)
        try:
            if self._gone:
                raise TimeoutError
            if self._shared is None:
                reference = self.records.get(REFERENCE)
                self._shared = self._workers.share(self._files), self._workers.share(reference)
            left[self._workers.executor.submit(work, task, *self._shared)] = chunk
        except Exception as problem:
            # as of a pool of which a process has died, or a scheduler that has
            # who waited in vain for workers has waited for all chunks
            self._gone = self._gone or (isinstance(problem, TimeoutError) and not self._workers.count())
            self._break_off(chunk, Broke(f"{chunk} was not drawn: {_said(problem)}"))

    def _receive(
        self, chunk: Chunk, future: Future[Done | Broke], left: dict[Future[Done | Broke], Chunk]
    ) -> None:
        if chunk.recipe.name in self.broke:
            # of an arm of which another part broke off
            return
        try:
            found = future.result()
        except Exception as lost:
            # where it is counted how often it was begun, being lost before that costs it nothing
            if self._tries[chunk.name] < (LOSSES if self._workers.begun else TRIES):
                self._told(f"{chunk} was lost, and is given out again: {_said(lost)}")
                # what was shared may have been lost as well
                self._shared = None
                self._submit(chunk, left)
            else:
                times = self._tries[chunk.name]
                self._break_off(chunk, Broke(f"{chunk} was lost {times} times, lastly by {_said(lost)}"))
            return
        if isinstance(found, Broke):
            self._break_off(chunk, found)
            return
        if found.begun > 1:
            self._told(f"{chunk} was lost with its worker, and drawn again")
        try:
            self._keep(chunk, found.record)
            self._take(chunk, found.record)
        except ErnieQAError as problem:
            # as a full disk: what is there is judged all the same
            self._break_off(chunk, Broke(f"{chunk}: {problem}"))

    def _break_off(self, chunk: Chunk, broke: Broke) -> None:
        name = chunk.recipe.name
        if name in self.broke:
            return
        self.broke[name] = broke.why
        # what ends the run is raised, and so told
        if not self.is_needed(name):
            self._told(broke.why)

    def _take(self, chunk: Chunk, found: Record) -> None:
        """Take in a part, and make one record of an arm's where it was the last."""
        name = chunk.recipe.name
        pictures = tuple(picture.spooled(self._spool) for picture in found.pictures)
        parts = self._parts.setdefault(name, {})
        parts[chunk.number] = replace(found, pictures=pictures)
        if len(parts) == chunk.of:
            self._join(chunk)
        self._progress(name, len(chunk.cases))

    def _join(self, last: Chunk) -> None:
        name = last.recipe.name
        parts = self._parts.pop(name)
        try:
            whole = [parts[number] for number in sorted(parts)]
            self.records[name] = join(whole, None if name == REFERENCE else self.records[REFERENCE])
        except ErnieQAError as problem:
            self._break_off(last, Broke(str(problem)))

    def _found(self, chunk: Chunk) -> Record | None:
        """What an earlier run kept of `chunk`, measured against this BF16; anything else is forgotten."""
        if not self._kept or chunk.name not in self._kept.earlier:
            return None
        found = self._kept.record(chunk.name)
        bf16 = self.records.get(REFERENCE)
        if found and found.reference == (bf16.hash if bf16 else None):
            self._earlier = self._earlier or chunk.recipe.name == REFERENCE
            return found
        self._kept.forget(chunk.name)
        return None

    def _keep(self, chunk: Chunk, found: Record) -> None:
        if self._kept:
            self._kept.begin(chunk.name)
            self._kept.keep(chunk.name, found)


def _said(problem: BaseException) -> str:
    """What an executor raised, in one line."""
    if isinstance(problem, CancelledError):
        return "what it was sent went with a worker"
    if isinstance(problem, TimeoutError):
        return "no worker is left; start some"
    first = next(iter(str(problem).strip().splitlines()), "")
    return f"{type(problem).__name__}: {first}" if first else type(problem).__name__
