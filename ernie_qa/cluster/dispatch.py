"""Who is given what: the chunks of a plan on the workers of any executor, and what becomes of what is lost.

BF16 comes first, and is shared; then every other arm, the longest first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ernie_qa.baseline.store import files_about
from ernie_qa.cluster.chunks import Chunk, check_size, chunks
from ernie_qa.cluster.gathered import Gathered
from ernie_qa.cluster.work import TRIES, Broke, Done, Task, places, work
from ernie_qa.errors import ErnieQAError
from ernie_qa.execute import Session
from ernie_qa.fingerprint import sources
from ernie_qa.pieces import Pieces, pieces, shares
from ernie_qa.recipe import REFERENCE, find_recipe
from ernie_qa.turns import accepted_seconds, longest_first

if TYPE_CHECKING:
    from ernie_qa.exchange import Exchange
    from ernie_qa.plan import Plan
    from ernie_qa.recipe import Recipe
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
    gathered = Gathered(kept, told)
    dispatch = _Dispatch(plan, settings, workers, chunk, gathered, progress, told)
    interrupted = False
    try:
        dispatch.draw([find_recipe(REFERENCE)])
        if REFERENCE in gathered.records:
            dispatch.draw(dispatch.others())
    except KeyboardInterrupt:
        interrupted = True
        if not gathered.records:
            raise
    if lost := next((why for name, why in gathered.broke.items() if dispatch.is_needed(name)), None):
        raise ErnieQAError(lost)
    session.adopt(gathered.records, {*gathered.records, *gathered.broke}, names)
    if interrupted:
        session.interrupt()
    return session


class _NoWorkerError(Exception):
    """Nobody is left to draw, and nobody came in `GRACE`."""


class _Dispatch:
    """What was given out and is not back."""

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        workers: Workers,
        size: int | None,
        gathered: Gathered,
        progress: Progress,
        told: Told,
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._workers = workers
        self._size = size
        self._gathered = gathered
        self._progress = progress
        self._told = told
        self._left: dict[Future[Done | Broke], Chunk] = {}
        self._tries = Counter[str]()
        self._places = places(plan)
        files = files_about(settings.baselines, plan.model.name) if settings.baselines else {}
        self._files = {name: file.read_bytes() for name, file in files.items()}
        self._shared: tuple[Any, Any] | None = None

    def is_needed(self, recipe: str) -> bool:
        """Whether there is nothing to tell without that recipe: BF16, and the only one."""
        return recipe == REFERENCE or all(one.name in (REFERENCE, recipe) for one in self._plan.recipes)

    def others(self) -> list[Recipe]:
        """The recipes beside BF16, the one that took longest when it was accepted first."""
        machine = self._gathered.records[REFERENCE].fingerprint.machine
        seconds = accepted_seconds(self._settings.baselines, self._plan.model.name, machine)
        named = {recipe.name: recipe for recipe in self._plan.recipes if recipe.name != REFERENCE}
        return [named[name] for name in longest_first(named, seconds)]

    def draw(self, recipes: Sequence[Recipe]) -> None:
        """Draw the arms of `recipes`, all of them on all workers."""
        self._shared = None
        try:
            for recipe in recipes:
                self._begin(recipe)
            self._wait()
        except _NoWorkerError:
            for recipe in recipes:
                if not self._is_over(recipe.name):
                    self._break_off(
                        recipe.name, f"{recipe.name} was not drawn: no worker is left; start some"
                    )
        finally:
            for future in self._left:
                future.cancel()
            self._left.clear()

    def _begin(self, recipe: Recipe) -> None:
        cases = [case.id for case in self._plan.suite.cases]
        (whole,) = chunks(recipe, pieces(cases, 0))
        try:
            if self._find(whole):
                return
            for chunk in chunks(recipe, self._pieces(recipe, cases)):
                if not self._is_over(recipe.name) and (chunk == whole or not self._find(chunk)):
                    self._submit(chunk)
        except ErnieQAError as problem:
            self._break_off(recipe.name, f"{recipe.name}: {problem}")

    def _is_over(self, recipe: str) -> bool:
        return recipe in self._gathered.records or recipe in self._gathered.broke

    def _find(self, chunk: Chunk) -> bool:
        found = self._gathered.find(chunk)
        if found:
            self._progress(chunk.recipe.name, len(chunk.cases))
        return found

    def _pieces(self, recipe: Recipe, cases: Sequence[str]) -> Pieces:
        if self._size is None and recipe.name == REFERENCE:
            return shares(cases, max(1, self._workers.count()), self._plan.teacher_cases)
        return pieces(cases, self._size or 0)

    def _wait(self) -> None:
        seen = time.monotonic()
        while self._left:
            ended, _ = wait(self._left, timeout=POLL, return_when=FIRST_COMPLETED)
            if ended or self._workers.count():
                seen = time.monotonic()
            elif time.monotonic() - seen > GRACE:
                raise _NoWorkerError
            lost = [chunk for future in ended if (chunk := self._receive(future))]
            if lost:
                # what was shared may have gone with them
                self._shared = None
            for chunk in lost:
                # of which another part, lost or not, was the end
                if not self._is_over(chunk.recipe.name):
                    self._submit(chunk)

    def _submit(self, chunk: Chunk) -> None:
        self._tries[chunk.name] += 1
        earlier = self._gathered.earlier
        task = Task(self._plan, self._settings, chunk, self._places, sources(), self._workers.begun, earlier)
        try:
            if self._shared is None:
                reference = self._gathered.records.get(REFERENCE)
                self._shared = self._workers.share(self._files), self._workers.share(reference)
            self._left[self._workers.executor.submit(work, task, *self._shared)] = chunk
        except Exception as problem:
            if isinstance(problem, TimeoutError) and not self._workers.count():
                raise _NoWorkerError from None
            # as of a pool of which a process has died, or a scheduler that has
            self._break_off(chunk.recipe.name, f"{chunk} was not drawn: {_said(problem)}")

    def _receive(self, future: Future[Done | Broke]) -> Chunk | None:
        """Take in what is back; the chunk where that was lost, and is to be given out again."""
        chunk = self._left.pop(future, None)
        if chunk is None:
            # of an arm that ended or broke off meanwhile
            return None
        name = chunk.recipe.name
        try:
            found = future.result()
        except Exception as problem:
            times = self._tries[chunk.name]
            # where it is counted how often it was begun, being lost before that costs it nothing
            if _is_loss(problem) and times < (LOSSES if self._workers.begun else TRIES):
                self._told(f"{chunk} was lost, and is given out again: {_said(problem)}")
                return chunk
            self._break_off(name, f"{chunk} was not drawn, given out {times} times: {_said(problem)}")
            return None
        if isinstance(found, Broke):
            self._break_off(name, found.why)
            return None
        if found.begun > 1:
            self._told(f"{chunk} was lost with its worker, and drawn again")
        try:
            self._gathered.take(chunk, found.record)
        except ErnieQAError as problem:
            # as a full disk: what is there is judged all the same
            self._break_off(name, f"{chunk}: {problem}")
            return None
        if name in self._gathered.records:
            self._recall(name)
        self._progress(name, len(chunk.cases))
        return None

    def _break_off(self, recipe: str, why: str) -> None:
        self._recall(recipe)
        # what ends the run is raised, and so told
        if self._gathered.break_off(recipe, why) and not self.is_needed(recipe):
            self._told(why)

    def _recall(self, recipe: str) -> None:
        """What is out of an arm of which no more is needed is not begun, where it is not yet."""
        for future, chunk in list(self._left.items()):
            if chunk.recipe.name == recipe:
                del self._left[future]
                future.cancel()


def _is_loss(problem: Exception) -> bool:
    """Whether a worker, or the way to it, was lost; anything else would happen again."""
    # Dask's own name for a task that ended too many workers
    return (
        isinstance(problem, CancelledError | BrokenExecutor | OSError)
        or type(problem).__name__ == "KilledWorker"
    )


def _said(problem: BaseException) -> str:
    """What an executor raised, in one line."""
    if isinstance(problem, CancelledError):
        return "what it was sent went with a worker"
    if isinstance(problem, TimeoutError):
        return "no worker is left; start some"
    first = next(iter(str(problem).strip().splitlines()), "")
    return f"{type(problem).__name__}: {first}" if first else type(problem).__name__
