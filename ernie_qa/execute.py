"""A session: the arms of one plan observed and judged, here or from what other processes observed."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.floor import unmeasured
from ernie_qa.judge import judge
from ernie_qa.observer import Observer, Progress
from ernie_qa.recipe import REFERENCE
from ernie_qa.settings import Settings
from ernie_qa.verdict import Status, worst

if TYPE_CHECKING:
    from ernie_qa.exchange import Exchange
    from ernie_qa.plan import Plan
    from ernie_qa.recipe import Recipe
    from ernie_qa.record import Record
    from ernie_qa.verdict import Verdict
    from ernie_qa.watchdog import Watchdog


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one arm was observed to do, and what that amounts to."""

    record: Record
    verdict: Verdict


class Session:
    """The arms of one plan, each observed by `observer` when it is first asked for, and judged at once.

    The BF16 arm is observed before any other, whether or not it was asked for. `progress`, `exchange`,
    `watchdog` and `alone` are the observer's.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        baselines: Path | None = None,
        require_baseline: bool = False,
        any_allocator: bool = False,
        all_rungs: bool = False,
        progress: Progress = lambda recipe, drawn, wanted: None,
        exchange: Exchange | None = None,
        watchdog: Watchdog | None = None,
        alone: bool = False,
    ) -> None:
        self.plan = plan
        self._settings = Settings(baselines, require_baseline, any_allocator, all_rungs)
        self.observer = Observer(
            plan, self._settings, progress=progress, exchange=exchange, watchdog=watchdog, alone=alone
        )
        self._unfinished: tuple[str, ...] = ()
        self._outcomes: dict[str, Outcome] = {}

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What has been judged so far, in the order of the plan."""
        return tuple(
            self._outcomes[recipe.name] for recipe in self.plan.recipes if recipe.name in self._outcomes
        )

    @property
    def records(self) -> dict[str, Record]:
        """Recipe -> record, the reference included though nobody asked for it."""
        first = {name: record for name, record in self.observer.records.items() if name == REFERENCE}
        return first | {outcome.verdict.recipe: outcome.record for outcome in self.outcomes}

    @property
    def status(self) -> Status:
        """What all arms amount to; one that broke off or was not finished is not comparable."""
        found = [outcome.verdict.status for outcome in self.outcomes]
        return worst([*found, *(Status.NOT_COMPARABLE for _ in (*self.broken, *self.unfinished))])

    @property
    def broken(self) -> tuple[str, ...]:
        """The recipes that began and ended in an error: nothing is known of them."""
        found = self.observer
        return tuple(sorted(found.begun - set(found.records) - {found.running}))

    @property
    def unfinished(self) -> tuple[str, ...]:
        """The recipes that an interruption left without a verdict, in the order of the plan."""
        return self._unfinished

    def interrupt(self, wanted: Collection[str] | None = None) -> None:
        """End the session here: the arm that runs is dropped, what was drawn to its end is judged, and the
        rest of the recipes `wanted` (all of the plan) is unfinished."""
        self.observer.begun.discard(self.observer.running)
        self.observer.drop()
        left = [one for one in self.plan.recipes if wanted is None or one.name in wanted]
        for recipe in left:
            if recipe.name in self.observer.records:
                self.outcome(recipe)
        ended = {*self._outcomes, *self.broken}
        self._unfinished = tuple(one.name for one in left if one.name not in ended)

    @property
    def leaked(self) -> str:
        """What is still on the GPU of the arms that were dropped, in one line; empty where nothing is."""
        return self.observer.leaked

    @property
    def compared(self) -> str:
        """What the arms are compared with besides their limits, in one line; empty without baselines."""
        if self._settings.baselines is None:
            return ""
        if self.observer.baseline is None:
            return f"compared with nothing: none of this was accepted in {self._settings.baselines}"
        path, here = self.observer.baseline.path, Path.cwd()
        near = path.relative_to(here) if path.is_relative_to(here) else path
        return f"compared with what was accepted in {near}"

    @property
    def floor(self) -> str:
        """Whether there is a noise floor, in one line; empty without baselines or an outcome."""
        if self._settings.baselines is None or not self._outcomes:
            return ""
        noise = self.observer.noise
        record = next(iter(self._outcomes.values())).record
        if why := unmeasured(record, noise):
            return f"{why.removesuffix('`')} --baselines {shlex.quote(str(self._settings.baselines))}`"
        assert noise is not None
        if noise.deterministic:
            return "noise floor: deterministic"
        return f"noise floor: BF16 itself under {', '.join(noise.changes)}"

    def __iter__(self) -> Iterator[Outcome]:
        return (self.outcome(recipe) for recipe in self.plan.recipes)

    def prepare(self) -> None:
        """What every arm needs. Errors are those of `Observer.prepare`."""
        self.observer.prepare()

    def adopt(self, records: Mapping[str, Record], begun: Collection[str], asked: Collection[str]) -> None:
        """Judge here what other processes observed: the `records` of the recipes that were `asked` for.

        Of what was `begun`, the recipes without a record broke off. Nothing is loaded, and no GPU looked at:
        the machine is the one that BF16's record names. Without that nothing is judged. BaselineError where
        what was accepted is damaged.
        """
        self.observer.records.update(records)
        self.observer.begun.update(begun)
        if REFERENCE not in records:
            return
        self.observer.find_accepted(records[REFERENCE].fingerprint.machine)
        for recipe in self.plan.recipes:
            if recipe.name in asked and recipe.name in records:
                self.outcome(recipe)

    def outcome(self, recipe: Recipe) -> Outcome:
        """The outcome of one arm, drawn to its end. One that broke off is not tried again: ErnieQAError."""
        if recipe.name not in self._outcomes:
            bf16 = self.observer.bf16()
            reference = None if recipe.name == REFERENCE else bf16
            record = self.observer.record(recipe)
            verdict = judge(
                record,
                reference,
                recipe,
                self.observer.baseline,
                require_baseline=self._settings.require_baseline,
                noise=self.observer.noise,
            )
            self._outcomes[recipe.name] = Outcome(record, verdict)
        return self._outcomes[recipe.name]

    def begin(self, recipe: Recipe) -> int:
        """Load one arm, BF16 drawn before any other; how many pictures are left. Errors are `outcome`'s."""
        return self.observer.begin(recipe)

    def warm_up(self, recipe: Recipe) -> None:
        """Get a GPU ready for the next picture of an arm that `begin` loaded."""
        self.observer.warm_up(recipe)

    def draw(self, recipe: Recipe) -> None:
        """Draw the next picture of an arm that `begin` loaded."""
        self.observer.draw(recipe)
