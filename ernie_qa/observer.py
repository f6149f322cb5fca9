"""Arms, one after the other: BF16 first as the reference, then each recipe, never two in memory."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from ernie_qa import allocator, compile_cache
from ernie_qa.baseline.noise import find_noise
from ernie_qa.baseline.store import find_baseline
from ernie_qa.broken import KEPT, forget, held, release, settle, told
from ernie_qa.errors import BaselineError, ErnieQAError, UnavailableError
from ernie_qa.fidelity.lpips_weights import fetch
from ernie_qa.fingerprint import machine_of
from ernie_qa.helped import helped
from ernie_qa.meter import require_device
from ernie_qa.observe import Observation, arm_of
from ernie_qa.pieces import shares
from ernie_qa.pipeline import import_classes, load_pipeline
from ernie_qa.quiet import hushed
from ernie_qa.recipe import REFERENCE, find_recipe
from ernie_qa.redaction import without_secrets
from ernie_qa.settings import Part
from ernie_qa.suite import more_seeds

if TYPE_CHECKING:
    from ernie_qa.baseline.noise import Noise
    from ernie_qa.baseline.pictures import Pictures
    from ernie_qa.baseline.store import Baseline
    from ernie_qa.exchange import Exchange
    from ernie_qa.pieces import Pieces
    from ernie_qa.plan import Plan
    from ernie_qa.recipe import Recipe
    from ernie_qa.record import Record
    from ernie_qa.settings import Settings
    from ernie_qa.watchdog import Watchdog

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with a recipe, and how many of its pictures are drawn and wanted: as many as wanted when it ends."""


class Observer:
    """The arms of one plan, each observed once in this process: their `records`, and which were `begun`.

    The BF16 arm is observed before any other, and is the reference of all. An arm's pipeline is dropped
    before the next one is loaded. With an `exchange` other processes run arms of the same plan beside this
    one: BF16 is drawn by all of them together, no arm is begun twice, and every record is left there. A
    `watchdog` ends this process where a step hangs. Of a `part` only its cases are drawn. Where the process
    is the observer's `alone`, what is in memory once BF16 is dropped is left out of later collections.
    """

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        *,
        progress: Progress = lambda recipe, drawn, wanted: None,
        exchange: Exchange | None = None,
        watchdog: Watchdog | None = None,
        part: Part | None = None,
        alone: bool = False,
    ) -> None:
        self.plan = plan
        self.records: dict[str, Record] = {REFERENCE: part.reference} if part and part.reference else {}
        self.begun: set[str] = set()
        self.baseline: Baseline | None = None
        self.noise: Noise | None = None
        self._settings = settings
        self._progress = progress
        self._exchange = exchange
        self._watchdog = watchdog
        self._part = part
        self._alone = alone
        self._before = part.before if part else None
        self._last = "an earlier arm" if self._before is not None else ""
        self._prepared = False
        self._lacking: ErnieQAError | None = None
        self._running: tuple[str, Observation] | None = None

    @property
    def running(self) -> str:
        """The recipe of the arm that is loaded; empty where none is."""
        return self._running[0] if self._running else ""

    @property
    def observing(self) -> Observation:
        """The arm that is loaded. ErnieQAError where none is."""
        if self._running is None:
            raise ErnieQAError("no arm has begun")
        return self._running[1]

    @property
    def leaked(self) -> str:
        """What is still on the GPU of the arms that were dropped, in one line; empty where nothing is."""
        if self._before is None or self._running or not self._last:
            return ""
        left = held(self.plan.device) - self._before
        return f"{self._last} left {left / 2**20:,.0f} MiB on the GPU" if left > KEPT else ""

    def prepare(self) -> None:
        """What every arm needs: the device, a sound allocator, kept kernels, LPIPS's weights, which are
        fetched if need be, and the baseline.

        UnavailableError where this machine lacks one of the first or the weights, BaselineError where what
        was accepted is damaged. What was found stands for all arms.
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
                if self._settings.baselines:
                    self.find_accepted(machine_of(self.plan.device))
            except (UnavailableError, BaselineError) as error:
                self._lacking = error
            finally:
                self._rest()
            if self._alone and not self._lacking:
                with hushed():
                    import_classes(self.plan.model)
                settle()
            self._prepared = True
            if self._before is None and not self._lacking:
                self._before = held(self.plan.device)
        if self._lacking:
            raise self._lacking

    def find_accepted(self, machine: str) -> None:
        """Find what was accepted and calibrated on `machine`, where baselines are given. BaselineError where
        that is damaged."""
        if baselines := self._settings.baselines:
            model = self.plan.model.name
            self.baseline = find_baseline(baselines, model, machine)
            self.noise = find_noise(baselines, model, machine, self.plan.suite.name)

    def _check_allocator(self) -> None:
        if not self._settings.any_allocator and (reason := allocator.runaway(os.environ)):
            raise UnavailableError(f"{reason}; to measure it all the same, say --any-allocator")

    def record(self, recipe: Recipe) -> Record:
        """The record of one arm, drawn to its end. One that broke off is not tried again: ErnieQAError."""
        return self.bf16() if recipe.name == REFERENCE else self._finished(recipe)

    def begin(self, recipe: Recipe) -> int:
        """Load one arm, BF16 drawn before any other; how many pictures are left: none where the arm ended
        before its first one. Errors are `record`'s."""
        if recipe.name in self.records:
            return 0
        if self._running and self._running[0] != recipe.name:
            # two arms never share a GPU: the one before is drawn to its end
            self._finished(self._recipe(self._running[0]))
        if self._running is None:
            self.prepare()
            if recipe.name in self.begun:
                raise ErnieQAError(f"{recipe.name} broke off before; its first error says why")
            reference = None if recipe.name == REFERENCE else self.bf16()
            self.begun.add(recipe.name)
            if self.leaked:
                # not told to the others: one of them may have a clean GPU
                raise UnavailableError(
                    f"{recipe.name} was not begun: {self.leaked}, and its figures would hold that; "
                    "run it apart"
                )
            if self._exchange:
                self._exchange.begin(recipe.name)
            self._progress(recipe.name, 0, self._wanted)
            self._running = self._guarded(
                recipe, "loading", lambda: (recipe.name, self._observation(recipe, reference))
            )
        return len(self._running[1].left)

    def warm_up(self, recipe: Recipe) -> None:
        """Get a GPU ready for the next picture of an arm that `begin` loaded."""
        self._guarded(recipe, f"warming up for {self._next}", lambda: self.observing.warm_up())

    def draw(self, recipe: Recipe) -> None:
        """Draw the next picture of an arm that `begin` loaded."""
        if not self.observing.left:
            return
        self._progress(recipe.name, len(self.observing.drawn), self._wanted)
        self._guarded(recipe, f"drawing {self._next}", lambda: self.observing.draw())

    def bf16(self) -> Record:
        """BF16's record. Errors are `record`'s."""
        bf16, exchange = find_recipe(REFERENCE), self._exchange
        if REFERENCE in self.records or exchange is None:
            return self._finished(bf16)
        ids = [case.id for case in self.plan.suite.cases]
        if len(found := shares(ids, exchange.among, self.plan.teacher_cases)) > 1:
            self.records[REFERENCE] = self._helped(exchange, found)
            return self.records[REFERENCE]
        with exchange.turn():
            return self._finished(bf16)

    def _helped(self, exchange: Exchange, among: Pieces) -> Record:
        """BF16's record, drawn by all workers together."""

        def draw(cases: tuple[str, ...]) -> Record:
            fed = self.plan.teacher_cases if cases == among[0] else 0
            observer = Observer(
                replace(self.plan, teacher_cases=fed),
                self._settings,
                progress=self._progress,
                watchdog=self._watchdog,
                part=Part(cases, None, apart=exchange.apart, before=self._before),
            )
            return observer.record(find_recipe(REFERENCE))

        self.prepare()
        if REFERENCE in self.begun:
            raise ErnieQAError(f"{REFERENCE} broke off before; its first error says why")
        self.begun.add(REFERENCE)
        self._last = REFERENCE
        return helped(exchange, REFERENCE, among, draw)

    def _recipe(self, name: str) -> Recipe:
        return next((one for one in self.plan.recipes if one.name == name), find_recipe(REFERENCE))

    @property
    def _wanted(self) -> int:
        """How many pictures of an arm this process draws."""
        return len(self._part.cases if self._part else self.plan.suite.cases)

    @property
    def _next(self) -> str:
        """The picture that is drawn next, as messages name it."""
        return f"picture {len(self.observing.drawn) + 1} of {self._wanted}"

    def _finished(self, recipe: Recipe) -> Record:
        """The record of one arm, drawn to its end; its pipeline is dropped."""
        if recipe.name not in self.records:
            found = self._exchange.record(recipe.name) if self._exchange else None
            self.records[recipe.name] = found or self._observed(recipe)
        return self.records[recipe.name]

    def _observed(self, recipe: Recipe) -> Record:
        while self.begin(recipe):
            self.warm_up(recipe)
            self.draw(recipe)
        record = self._guarded(recipe, "measuring", lambda: self.observing.finish())
        self._guarded(recipe, "giving its memory back", self.drop)
        if self._alone and recipe.name == REFERENCE:
            # by now everything is imported that any arm needs
            settle()
        self._progress(recipe.name, self._wanted, self._wanted)
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
            all_rungs=self._settings.all_rungs,
            noise=self.noise,
            step=lambda rung: self._step(recipe.name, f"measuring {rung}"),
            cases=self._part.cases if self._part else None,
        )

    def _accepted_pictures(self) -> Pictures | None:
        """What BF16 is compared with to see whether it moved: pictures that were accepted for this suite."""
        if self.baseline is None:
            return None
        bf16 = self.baseline.accepted[REFERENCE]
        # of more seeds than were accepted, the first are the accepted ones
        covered = more_seeds(self.plan.suite.hash, bf16.suite.hash) is not None
        return self.baseline.pictures if covered else None

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
                self.begun.discard(recipe.name)
            elif self._exchange:
                why = str(error) if isinstance(error, ErnieQAError) else told(error)
                self._exchange.broke(recipe.name, why)
            broke = ErnieQAError(f"{recipe.name} broke off: {told(error)}")
            broke.add_note(without_secrets(traceback.format_exc()))
            forget(error)
            # on a GPU that an error has left unusable this fails as well, and what is told is the first
            with suppress(Exception):
                self.drop()
            # Triton's errors are plain Exceptions; who interrupts is not stopped
            if isinstance(error, ErnieQAError) or not isinstance(error, Exception):
                raise
            raise broke from error
        finally:
            self._rest()

    def drop(self) -> None:
        """Drop the arm that is loaded, if one is, and give its memory back."""
        running, self._running = self._running, None
        if running:
            running[1].close()
        # nothing of it may be in use when memory is given back
        del running
        release(self.plan.device)
