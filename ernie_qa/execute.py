"""Arms, one after the other: BF16 first as the reference, then each recipe, never two in memory."""

from __future__ import annotations

import os
import shlex
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ernie_qa import allocator, compile_cache
from ernie_qa.baseline.noise import find_noise
from ernie_qa.baseline.store import find_baseline
from ernie_qa.broken import KEPT, forget, held, release, settle, told
from ernie_qa.errors import BaselineError, ErnieQAError, UnavailableError
from ernie_qa.fidelity.lpips_weights import fetch
from ernie_qa.fingerprint import machine_of
from ernie_qa.floor import unmeasured
from ernie_qa.helped import helped
from ernie_qa.judge import judge
from ernie_qa.meter import require_device
from ernie_qa.observe import Observation, arm_of
from ernie_qa.pieces import shares
from ernie_qa.pipeline import import_classes, load_pipeline
from ernie_qa.quiet import hushed
from ernie_qa.recipe import REFERENCE, find_recipe
from ernie_qa.redaction import without_secrets
from ernie_qa.settings import Part
from ernie_qa.suite import more_seeds
from ernie_qa.verdict import Status, worst

if TYPE_CHECKING:
    from ernie_qa.baseline.noise import Noise
    from ernie_qa.baseline.pictures import Pictures
    from ernie_qa.baseline.store import Baseline
    from ernie_qa.exchange import Exchange
    from ernie_qa.pieces import Pieces
    from ernie_qa.plan import Plan
    from ernie_qa.recipe import Recipe
    from ernie_qa.record import Record
    from ernie_qa.verdict import Verdict
    from ernie_qa.watchdog import Watchdog

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with a recipe, and how many of its pictures are drawn and wanted: as many as wanted when it ends."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one arm was observed to do, and what that amounts to."""

    record: Record
    verdict: Verdict


class Session:
    """The arms of one plan. Each is observed once, when it is first asked for, and judged at once.

    The BF16 arm is observed before any other, whether or not it was asked for, and is the reference of all.
    An arm's pipeline is dropped before the next one is loaded. With an `exchange` other processes run arms of
    the same plan beside this one: BF16 is drawn by whoever comes first while the others wait, no arm is begun
    twice, and every record is left there. A `watchdog` ends this process where a step hangs. A session for a
    `part` gives a record, and judges nothing. Where the process is the session's `alone`, what is in memory
    once BF16 is dropped is left out of the collections around the other arms.
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
        part: Part | None = None,
        alone: bool = False,
    ) -> None:
        self.plan = plan
        self._watchdog = watchdog
        self._exchange = exchange
        self._any_allocator = any_allocator
        self._all_rungs = all_rungs
        self._baselines = baselines
        self._baseline: Baseline | None = None
        self._noise: Noise | None = None
        self._require_baseline = require_baseline
        self._progress = progress
        self._prepared = False
        self._before: int | None = None
        self._last = ""
        self._lacking: ErnieQAError | None = None
        self._begun: set[str] = set()
        self._unfinished: tuple[str, ...] = ()
        self._running: tuple[str, Observation] | None = None
        self._part = part
        self._alone = alone
        self._records: dict[str, Record] = {REFERENCE: part.reference} if part and part.reference else {}
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
        first = {name: record for name, record in self._records.items() if name == REFERENCE}
        return first | {outcome.verdict.recipe: outcome.record for outcome in self.outcomes}

    @property
    def status(self) -> Status:
        """What all arms amount to; one that broke off or was not finished is not comparable."""
        found = [outcome.verdict.status for outcome in self.outcomes]
        return worst([*found, *(Status.NOT_COMPARABLE for _ in (*self.broken, *self.unfinished))])

    @property
    def broken(self) -> tuple[str, ...]:
        """The recipes that began and ended in an error: nothing is known of them."""
        running = {self._running[0]} if self._running else set()
        return tuple(sorted(self._begun - set(self._records) - running))

    @property
    def unfinished(self) -> tuple[str, ...]:
        """The recipes that an interruption left without a verdict, in the order of the plan."""
        return self._unfinished

    def interrupt(self, wanted: Collection[str] | None = None) -> None:
        """End the session here: the arm that runs is dropped, what was drawn to its end is judged, and the
        rest of the recipes `wanted` (all of the plan) is unfinished."""
        if self._running:
            self._begun.discard(self._running[0])
        self._drop()
        left = [one for one in self.plan.recipes if wanted is None or one.name in wanted]
        for recipe in left:
            if recipe.name in self._records:
                self.outcome(recipe)
        ended = {*self._outcomes, *self.broken}
        self._unfinished = tuple(one.name for one in left if one.name not in ended)

    @property
    def leaked(self) -> str:
        """What is still on the GPU of the arms that were dropped, in one line; empty where nothing is."""
        if self._before is None or self._running or not self._last:
            return ""
        left = held(self.plan.device) - self._before
        return f"{self._last} left {left / 2**20:,.0f} MiB on the GPU" if left > KEPT else ""

    @property
    def compared(self) -> str:
        """What the arms are compared with besides their limits, in one line; empty without baselines."""
        if self._baselines is None:
            return ""
        if self._baseline is None:
            return f"compared with nothing: none of this was accepted in {self._baselines}"
        path, here = self._baseline.path, Path.cwd()
        near = path.relative_to(here) if path.is_relative_to(here) else path
        return f"compared with what was accepted in {near}"

    @property
    def floor(self) -> str:
        """Whether there is a noise floor, in one line; empty without baselines or an outcome."""
        if self._baselines is None or not self._outcomes:
            return ""
        record = next(iter(self._outcomes.values())).record
        if why := unmeasured(record, self._noise):
            return f"{why.removesuffix('`')} --baselines {shlex.quote(str(self._baselines))}`"
        assert self._noise is not None
        if self._noise.deterministic:
            return "noise floor: deterministic"
        return f"noise floor: BF16 itself under {', '.join(self._noise.changes)}"

    def __iter__(self) -> Iterator[Outcome]:
        return (self.outcome(recipe) for recipe in self.plan.recipes)

    def prepare(self) -> None:
        """What every arm needs: the device, a sound allocator, kept kernels, LPIPS's weights, which are
        fetched if need be, and the baseline.

        UnavailableError where this machine lacks one of the first or the weights, BaselineError where what
        was accepted is damaged. What was found stands for the whole session.
        """
        if not self._prepared:
            try:
                if self._exchange and (stuck := self._exchange.hung("")):
                    raise UnavailableError(f"{stuck.why}: a worker was ended there before")
                self._step("", f"getting {self.plan.device} and what pictures are measured with ready")
                require_device(self.plan.device)
                if self.plan.device != "cpu":
                    self._check_allocator()
                    beside = self._exchange or self._part
                    compile_cache.keep(self.plan.device, beside.apart if beside else "")
                if self.plan.model.weights != "random":
                    fetch()
                if self._baselines:
                    self._find_accepted(self._baselines, machine_of(self.plan.device))
            except (UnavailableError, BaselineError) as error:
                self._lacking = error
            finally:
                self._rest()
            if self._alone and not self._lacking:
                with hushed():
                    import_classes(self.plan.model)
                settle()
            self._prepared = True
            self._before = None if self._lacking else held(self.plan.device)
        if self._lacking:
            raise self._lacking

    def _find_accepted(self, baselines: Path, machine: str) -> None:
        model = self.plan.model.name
        self._baseline = find_baseline(baselines, model, machine)
        self._noise = find_noise(baselines, model, machine, self.plan.suite.name)

    def adopt(self, records: Mapping[str, Record], begun: Collection[str], asked: Collection[str]) -> None:
        """Judge here what other processes observed: the `records` of the recipes that were `asked` for.

        Of what was `begun`, the recipes without a record broke off. Nothing is loaded, and no GPU looked at:
        the machine is the one that BF16's record names. Without that nothing is judged. BaselineError where
        what was accepted is damaged.
        """
        self._records.update(records)
        self._begun.update(begun)
        if REFERENCE not in records:
            return
        if self._baselines:
            self._find_accepted(self._baselines, records[REFERENCE].fingerprint.machine)
        self._prepared = True
        for recipe in self.plan.recipes:
            if recipe.name in asked and recipe.name in records:
                self.outcome(recipe)

    def _check_allocator(self) -> None:
        if not self._any_allocator and (reason := allocator.runaway(os.environ)):
            raise UnavailableError(f"{reason}; to measure it all the same, say --any-allocator")

    def outcome(self, recipe: Recipe) -> Outcome:
        """The outcome of one arm, drawn to its end. One that broke off is not tried again: ErnieQAError."""
        if recipe.name not in self._outcomes:
            bf16 = self._bf16()
            reference = None if recipe.name == REFERENCE else bf16
            record = self._finished(recipe) if reference else bf16
            verdict = judge(
                record,
                reference,
                recipe,
                self._baseline,
                require_baseline=self._require_baseline,
                noise=self._noise,
            )
            self._outcomes[recipe.name] = Outcome(record, verdict)
        return self._outcomes[recipe.name]

    def record(self, recipe: Recipe) -> Record:
        """The record of one arm, or of the part of it that this session is for. Errors are `outcome`'s."""
        return self._bf16() if recipe.name == REFERENCE else self._finished(recipe)

    def begin(self, recipe: Recipe) -> int:
        """Load one arm, BF16 drawn before any other; how many pictures are left: none where the arm ended
        before its first one. Errors are `outcome`'s."""
        if recipe.name in self._records:
            return 0
        if self._running and self._running[0] != recipe.name:
            # two arms never share a GPU: the one before is drawn to its end
            self._finished(self._recipe(self._running[0]))
        if self._running is None:
            self.prepare()
            if recipe.name in self._begun:
                raise ErnieQAError(f"{recipe.name} broke off before; its first error says why")
            reference = None if recipe.name == REFERENCE else self._bf16()
            self._begun.add(recipe.name)
            if self.leaked:
                # not told to the others: one of them may have a clean GPU
                raise UnavailableError(
                    f"{recipe.name} was not begun: {self.leaked}, and its figures would hold that; "
                    "run it apart"
                )
            if self._exchange:
                self._exchange.begin(recipe.name)
            self._progress(recipe.name, 0, len(self.plan.suite.cases))
            self._running = self._guarded(
                recipe, "loading", lambda: (recipe.name, self._observation(recipe, reference))
            )
        return len(self._running[1].left)

    def warm_up(self, recipe: Recipe) -> None:
        """Get a GPU ready for the next picture of an arm that `begin` loaded."""
        self._guarded(recipe, f"warming up for {self._next}", lambda: self._observing.warm_up())

    def draw(self, recipe: Recipe) -> None:
        """Draw the next picture of an arm that `begin` loaded."""
        if not self._observing.left:
            return
        self._progress(recipe.name, len(self._observing.drawn), len(self.plan.suite.cases))
        self._guarded(recipe, f"drawing {self._next}", lambda: self._observing.draw())

    def _bf16(self) -> Record:
        bf16, exchange = find_recipe(REFERENCE), self._exchange
        if REFERENCE in self._records or exchange is None:
            return self._finished(bf16)
        ids = [case.id for case in self.plan.suite.cases]
        if len(found := shares(ids, exchange.among, self.plan.teacher_cases)) > 1:
            self._records[REFERENCE] = self._helped(exchange, found)
            return self._records[REFERENCE]
        with exchange.turn():
            return self._finished(bf16)

    def _helped(self, exchange: Exchange, among: Pieces) -> Record:
        """BF16's record, drawn by all workers together."""

        def draw(cases: tuple[str, ...]) -> Record:
            fed = self.plan.teacher_cases if cases == among[0] else 0
            session = Session(
                replace(self.plan, teacher_cases=fed),
                baselines=self._baselines,
                any_allocator=self._any_allocator,
                all_rungs=self._all_rungs,
                progress=self._progress,
                watchdog=self._watchdog,
                part=Part(cases, None, apart=exchange.apart),
            )
            return session.record(find_recipe(REFERENCE))

        self.prepare()
        if REFERENCE in self._begun:
            raise ErnieQAError(f"{REFERENCE} broke off before; its first error says why")
        self._begun.add(REFERENCE)
        self._last = REFERENCE
        return helped(exchange, REFERENCE, among, draw)

    def _recipe(self, name: str) -> Recipe:
        return next((one for one in self.plan.recipes if one.name == name), find_recipe(REFERENCE))

    @property
    def _observing(self) -> Observation:
        if self._running is None:
            raise ErnieQAError("no arm has begun")
        return self._running[1]

    @property
    def _next(self) -> str:
        """The picture that is drawn next, as messages name it."""
        return f"picture {len(self._observing.drawn) + 1} of {len(self.plan.suite.cases)}"

    def _finished(self, recipe: Recipe) -> Record:
        """The record of one arm, drawn to its end; its pipeline is dropped."""
        if recipe.name not in self._records:
            found = self._exchange.record(recipe.name) if self._exchange else None
            self._records[recipe.name] = found or self._observed(recipe)
        return self._records[recipe.name]

    def _observed(self, recipe: Recipe) -> Record:
        while self.begin(recipe):
            self.warm_up(recipe)
            self.draw(recipe)
        record = self._guarded(recipe, "measuring", lambda: self._observing.finish())
        self._guarded(recipe, "giving its memory back", self._drop)
        if self._alone and recipe.name == REFERENCE:
            # by now everything is imported that any arm needs
            settle()
        self._progress(recipe.name, len(self.plan.suite.cases), len(self.plan.suite.cases))
        if exchange := self._exchange:
            self._guarded(recipe, "keeping its record", lambda: exchange.keep(recipe.name, record))
        return record

    def _observation(self, recipe: Recipe, reference: Record | None) -> Observation:
        self._last = recipe.name
        pipe = load_pipeline(
            self.plan.model,
            recipe,
            self.plan.device,
            artifact=self.plan.artifacts.get(recipe.name),
            offload=recipe.name in self.plan.offloaded,
        )
        accepted = None if reference else self._accepted_pictures()
        arm = arm_of(
            pipe,
            recipe,
            self.plan.suite,
            reference=reference,
            accepted=accepted,
            teacher_cases=self.plan.teacher_cases,
            timed_apart=self._part.earlier
            if self._part
            else bool(self._exchange and REFERENCE in self._exchange.earlier),
        )
        return Observation(
            arm,
            all_rungs=self._all_rungs,
            noise=self._noise,
            step=lambda rung: self._step(recipe.name, f"measuring {rung}"),
            cases=self._part.cases if self._part else None,
        )

    def _accepted_pictures(self) -> Pictures | None:
        """What BF16 is compared with to see whether it moved: pictures that were accepted for this suite."""
        if self._baseline is None:
            return None
        bf16 = self._baseline.accepted[REFERENCE]
        # of more seeds than were accepted, the first are the accepted ones
        covered = more_seeds(self.plan.suite.hash, bf16.suite.hash) is not None
        return self._baseline.pictures if covered else None

    def _step(self, recipe: str, doing: str) -> None:
        if self._watchdog:
            self._watchdog.step(recipe, doing)

    def _rest(self) -> None:
        if self._watchdog:
            self._watchdog.rest()

    def _guarded(self, recipe: Recipe, doing: str, step: Callable[[], T]) -> T:
        """What `step` gives, watched and with libraries kept quiet; an arm that breaks off is told in one
        line and leaves nothing in memory. `step` must not hold the observation: an error that is kept keeps
        this frame."""
        try:
            self._step(recipe.name, doing)
            with hushed():
                return step()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                self._begun.discard(recipe.name)
            elif self._exchange:
                why = str(error) if isinstance(error, ErnieQAError) else told(error)
                self._exchange.broke(recipe.name, why)
            broke = ErnieQAError(f"{recipe.name} broke off: {told(error)}")
            broke.add_note(without_secrets(traceback.format_exc()))
            forget(error)
            # on a GPU that an error has left unusable this fails as well, and what is told is the first
            with suppress(Exception):
                self._drop()
            # Triton's errors are plain Exceptions; who interrupts is not stopped
            if isinstance(error, ErnieQAError) or not isinstance(error, Exception):
                raise
            raise broke from error
        finally:
            self._rest()

    def _drop(self) -> None:
        running, self._running = self._running, None
        if running:
            running[1].close()
        # nothing of it may be in use when memory is given back
        del running
        release(self.plan.device)
