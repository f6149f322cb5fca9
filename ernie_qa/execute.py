"""Arms, one after the other: BF16 first as the reference, then each recipe, never two in memory."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.baseline.store import find_baseline
from ernie_qa.errors import BaselineError, ErnieQAError, InputError, UnavailableError
from ernie_qa.fidelity.lpips_weights import fetch
from ernie_qa.fingerprint import machine_of
from ernie_qa.judge import judge
from ernie_qa.meter import require_device
from ernie_qa.models.find import find_model, vae_scale_factor
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quantizers import checked_options
from ernie_qa.recipe import REFERENCE, find_recipe, recipe_names
from ernie_qa.rungs import check_limits
from ernie_qa.suite import check_sizes, find_suite
from ernie_qa.verdict import Status, worst

if TYPE_CHECKING:
    from ernie_qa.baseline.pictures import Pictures
    from ernie_qa.baseline.store import Baseline
    from ernie_qa.models.find import Model
    from ernie_qa.recipe import Recipe
    from ernie_qa.record import Record
    from ernie_qa.suite import Suite
    from ernie_qa.verdict import Verdict

Progress = Callable[[str, int, int], None]
"""Called with a recipe, and how many of its pictures are drawn and wanted: as many as wanted when it ends."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run: checked, with nothing loaded yet."""

    model: Model
    suite: Suite
    recipes: tuple[Recipe, ...]
    device: str

    @property
    def pictures(self) -> int:
        """How many will be drawn, the reference's among them."""
        return len(self.suite.cases) * len({REFERENCE, *(recipe.name for recipe in self.recipes)})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one arm was observed to do, and what that amounts to."""

    record: Record
    verdict: Verdict


def plan(
    model: Model | str | Path = "mini",
    recipes: Iterable[Recipe | str | Path] = (),
    suite: Suite | str | Path | None = None,
    device: str = "cpu",
) -> Plan:
    """Resolve and check everything that can be wrong before anything is loaded; imports no torch.

    Without `recipes`, all that the package ships; without `suite`, the one that the model's manifest names.
    InputError where something is wrong.
    """
    found = find_model(model)
    wanted = suite or found.suite
    if wanted is None:
        raise InputError(f"{found.path}: no ernie_qa.json here names a suite for this model; say which one")
    cases = find_suite(wanted)
    check_sizes(cases, vae_scale_factor(found), found.name)
    chosen = tuple(find_recipe(recipe) for recipe in recipes or recipe_names())
    names = [recipe.name for recipe in chosen]
    for recipe in chosen:
        checked_options(recipe)
        check_limits(recipe)
        if names.count(recipe.name) > 1:
            raise InputError(f"{recipe.path}: two recipes of this run have this name; rename one")
        if recipe.name == REFERENCE and recipe.components:
            raise InputError(f"{recipe.path}: {REFERENCE} is the reference's name; rename this recipe")
    return Plan(found, cases, chosen, device)


def visible_device() -> str:
    """ "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Session:
    """The arms of one plan. Each is observed once, when it is first asked for, and judged at once.

    The BF16 arm is observed before any other, whether or not it was asked for, and is the reference of all.
    An arm's pipeline is dropped before the next one is loaded.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        baselines: Path | None = None,
        require_baseline: bool = False,
        progress: Progress = lambda recipe, drawn, wanted: None,
    ) -> None:
        self.plan = plan
        self._baselines = baselines
        self._baseline: Baseline | None = None
        self._require_baseline = require_baseline
        self._progress = progress
        self._prepared = False
        self._lacking: ErnieQAError | None = None
        self._begun: set[str] = set()
        self._reference: Record | None = None
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
        reference = {REFERENCE: self._reference} if self._reference else {}
        return reference | {outcome.verdict.recipe: outcome.record for outcome in self.outcomes}

    @property
    def status(self) -> Status:
        """What all arms amount to; one that broke off is not comparable."""
        found = [outcome.verdict.status for outcome in self.outcomes]
        return worst([*found, *(Status.NOT_COMPARABLE for _ in self.broken)])

    @property
    def broken(self) -> tuple[str, ...]:
        """The recipes that began and ended in an error: nothing is known of them."""
        drawn = {REFERENCE} if self._reference else set()
        return tuple(sorted(self._begun - drawn - set(self._outcomes)))

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

    def __iter__(self) -> Iterator[Outcome]:
        return (self.outcome(recipe) for recipe in self.plan.recipes)

    def prepare(self) -> None:
        """What every arm needs: the device, LPIPS's weights, which are fetched if need be, and the baseline.

        UnavailableError where this machine lacks one of the first two, BaselineError where what was accepted
        is damaged. What was found stands for the whole session.
        """
        if not self._prepared:
            try:
                require_device(self.plan.device)
                if self.plan.model.weights != "random":
                    fetch()
                if self._baselines:
                    machine = machine_of(self.plan.device)
                    self._baseline = find_baseline(self._baselines, self.plan.model.name, machine)
            except (UnavailableError, BaselineError) as error:
                self._lacking = error
            self._prepared = True
        if self._lacking:
            raise self._lacking

    def outcome(self, recipe: Recipe) -> Outcome:
        """The outcome of one arm. An arm that broke off is not tried again: ErnieQAError."""
        if recipe.name not in self._outcomes:
            self.prepare()
            bf16 = self._bf16()
            reference = None if recipe.name == REFERENCE else bf16
            record = self._observe(recipe, reference) if reference else bf16
            verdict = judge(
                record, reference, recipe, self._baseline, require_baseline=self._require_baseline
            )
            self._outcomes[recipe.name] = Outcome(record, verdict)
        return self._outcomes[recipe.name]

    def _bf16(self) -> Record:
        if self._reference is None:
            self._reference = self._observe(find_recipe(REFERENCE), None)
        return self._reference

    def _accepted_pictures(self) -> Pictures | None:
        """What BF16 is compared with to see whether it moved: pictures that were accepted for this suite."""
        if self._baseline is None:
            return None
        bf16 = self._baseline.accepted[REFERENCE]
        return self._baseline.pictures if bf16.suite.hash == self.plan.suite.hash else None

    def _observe(self, recipe: Recipe, reference: Record | None) -> Record:
        if recipe.name in self._begun:
            raise ErnieQAError(f"{recipe.name} broke off before; its first error says why")
        self._begun.add(recipe.name)
        progress = partial(self._progress, recipe.name)
        progress(0, len(self.plan.suite.cases))
        try:
            with hushed():
                pipe = load_pipeline(self.plan.model, recipe, self.plan.device)
                record = observe(
                    pipe,
                    recipe,
                    self.plan.suite,
                    reference=reference,
                    accepted=None if reference else self._accepted_pictures(),
                    progress=progress,
                )
            del pipe
        except (ErnieQAError, OSError, RuntimeError, ValueError) as error:
            # whoever keeps the error would keep the pipeline alive in its frames, beside the next one
            traceback.clear_frames(error.__traceback__)
            if isinstance(error, ErnieQAError):
                raise
            raise ErnieQAError(f"{recipe.name} broke off: {_told(error)}") from error
        finally:
            _release(self.plan.device)
        progress(len(record.pictures), len(record.pictures))
        return record


@contextmanager
def hushed() -> Iterator[None]:
    """Keep back what libraries write to stderr: bars and warnings, dozens of lines an arm.

    Some of it comes from C++, so the file descriptor is turned away. It is told after all where an error ends
    the block that ernie_qa did not foresee.
    """
    told = False
    with (
        tempfile.TemporaryFile() as log,
        os.fdopen(os.dup(2), "wb") as stderr,
        warnings.catch_warnings(action="ignore"),
    ):
        sys.stderr.flush()
        os.dup2(log.fileno(), 2)
        try:
            yield
            told = True
        except ErnieQAError:
            told = True
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr.fileno(), 2)
            if not told:
                log.seek(0)
                shutil.copyfileobj(log, stderr)


def _told(error: Exception) -> str:
    """What a library raised, in one line, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {said} ({Path(last.filename).name}, line {last.lineno})"


def _release(device: str) -> None:
    """Give back what a dropped pipeline held: modules sit in reference cycles until collected."""
    gc.collect()
    if device != "cpu":
        import torch

        torch.cuda.empty_cache()
