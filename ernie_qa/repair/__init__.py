"""Repairing: a small set of layers that a failing recipe keeps in BF16, so that it passes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import InputError, RecipeError, UnavailableError
from ernie_qa.execute import Outcome, Session
from ernie_qa.frozen import freeze
from ernie_qa.plan import plan
from ernie_qa.quantizers import find_quantizer
from ernie_qa.recipe import REFERENCE, Recipe, find_recipe
from ernie_qa.repair import candidates
from ernie_qa.repair.candidates import Layer, quantized
from ernie_qa.repair.search import search
from ernie_qa.verdict import Status
from ernie_qa.wording import counted

if TYPE_CHECKING:
    from ernie_qa.models.find import Model
    from ernie_qa.plan import Plan
    from ernie_qa.record import Record
    from ernie_qa.suite import Suite

Progress = Callable[[int, int, str], None]
"""Called with the trials made and those that may be, and what is tried now."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What came of a repair.

    `after` is the outcome of `recipe`, the one that keeps layers, and None where none passed; then `why` says
    so. `kept` are the layers that `before` had quantized and `after` has not, as its record shows them,
    whatever the names in the recipe were meant to match. `unasked` are those among them that were kept only
    because their names match. `single`: leaving out any single one was tried, and failed. Where nothing
    passed, `recipe` and `kept` are the set that failed the fewest checks.
    """

    plan: Plan
    broken: Recipe
    before: Outcome
    recipe: Recipe | None = None
    after: Outcome | None = None
    kept: tuple[tuple[str, str], ...] = ()
    unasked: tuple[tuple[str, str], ...] = ()
    single: bool = False
    trials: int = 0
    seconds: float = 0.0
    why: str = ""

    @property
    def quantized(self) -> dict[str, tuple[str, ...]]:
        """Component -> the layers that the broken recipe quantized."""
        return quantized(self.before.record)


def repair(
    model: Model | str | Path,
    recipe: Recipe | str | Path,
    suite: Suite | str | Path | None = None,
    device: str = "cpu",
    *,
    name: str,
    trials: int,
    any_allocator: bool = False,
    progress: Progress = lambda done, of, what: None,
) -> Repair:
    """Find layers that `recipe` has to keep in BF16 to pass; the recipe that keeps them is called `name`.

    The recipe is drawn with every rung, then at most so many sets of layers with the early stop: what fails
    before a picture is drawn costs none. At the end both are drawn again, for their costs. Where it passes at
    once, or cannot be judged, nothing is tried.
    RecipeError where it quantizes nothing; the errors of `plan` and of drawing.
    """
    if trials < 1:
        raise InputError(f"{trials} trials: needed is 1 or more")
    broken = find_recipe(recipe)
    if not broken.components:
        raise RecipeError(f"{broken.path}: quantizes nothing: there is no layer to keep")
    wanted, began = plan(model, [broken], suite, device), perf_counter()
    progress(0, trials, f"drawing bf16 and {broken.name}")
    session = Session(wanted, all_rungs=True, any_allocator=any_allocator)
    before = session.outcome(broken)
    result = Repair(wanted, broken, before)
    if before.verdict.status is not Status.FAIL:
        return result
    if beyond := candidates.beyond_help(before.verdict):
        return replace(result, why=f"no layer kept mends {beyond.label}: {beyond.message}")
    found, names = candidates.layers(before.record), quantized(before.record)
    must = candidates.needed(found, before.verdict)
    if emptied := [part for part, all_ in names.items() if _all_kept(part, all_, must)]:
        are = "leave it" if len(emptied) == 1 else "leave them"
        return replace(
            result,
            why=f"every quantized layer of {' and '.join(emptied)} is beyond its limit: {are} out of "
            "[components], or take more bits",
        )
    optional = candidates.optional(found, must, before.verdict, wanted.suite, names)
    if not must and not optional:
        first = before.verdict.of(Status.FAIL)[0]
        return replace(result, why=f"no quantized layer has a part in {first.label}: {first.message}")
    bench = Bench(wanted, broken, session.records[REFERENCE], name, any_allocator)
    made: list[tuple[int, int, frozenset[Layer]]] = []

    def passes(kept: frozenset[Layer]) -> bool:
        progress(len(made), trials, f"trial {len(made) + 1}: {counted(len(kept), 'layer')} kept")
        verdict = bench.tried(_named(kept)).verdict
        bad = len(verdict.of(Status.FAIL)) + len(verdict.of(Status.NOT_COMPARABLE))
        made.append((bad, sum(layer.more for layer in kept), kept))
        return verdict.status is Status.PASS

    best = search(optional, must, passes, trials)
    result = replace(result, trials=best.trials, single=best.whole, seconds=perf_counter() - began)
    if best.kept is None:
        why = f"none of {counted(best.trials, 'set')} of layers passes"
        if not best.whole:
            why += f"; that is all --trials {trials} allows"
        elif optional:
            why += f", not even all {len(must) + len(optional)} that could be kept"
        kept = min(made, key=lambda one: one[:2])[2] if made else frozenset()
        return replace(result, why=why, recipe=bench.recipe(_named(kept)), kept=tuple(sorted(_named(kept))))
    named = _named(best.kept)
    progress(len(made), trials, f"drawing both again: {counted(len(named), 'layer')} kept")
    # one after the other, so that what each takes is comparable: the trials may have lasted hours
    was = replace(bench, name=broken.name).tried((), all_rungs=True)
    after = bench.tried(named, all_rungs=True)
    if after.verdict.status is not Status.PASS:
        bad = (*after.verdict.of(Status.FAIL), *after.verdict.of(Status.NOT_COMPARABLE))[0]
        why = f"the set that passed did not when it was drawn again: {bad.label}: {bad.message}"
        return replace(result, why=why)
    left = quantized(after.record)
    plain = {(part, layer) for part, own in names.items() for layer in own if layer not in left[part]}
    return replace(
        result,
        before=was,
        recipe=bench.recipe(named),
        after=after,
        kept=tuple(sorted(plain)),
        unasked=tuple(sorted(plain - named)),
    )


def _named(kept: Collection[Layer]) -> set[tuple[str, str]]:
    return {(layer.component, layer.name) for layer in kept}


@dataclass(frozen=True, slots=True)
class Bench:
    """Draws `broken` with layers kept in BF16, beside the `reference` that was drawn once; such a recipe is
    called `name`."""

    plan: Plan
    broken: Recipe
    reference: Record
    name: str
    any_allocator: bool = False

    def recipe(self, kept: Collection[tuple[str, str]]) -> Recipe:
        """The recipe that keeps those layers, component and name. UnavailableError where its quantizer has
        no words for that."""
        options: dict[str, Mapping[str, Any]] = dict(self.broken.options)
        for part in self.broken.components:
            own = sorted(layer for component, layer in kept if component == part)
            if not own:
                continue
            quantizer = self.broken.components[part]
            keeping = getattr(find_quantizer(quantizer), "keeping", None)
            if keeping is None:
                raise UnavailableError(
                    f"the quantizer {quantizer} cannot keep single layers: it has no function `keeping`"
                )
            options[quantizer] = keeping(options[quantizer], part, own)
        return replace(self.broken, name=self.name, options=freeze(options, ""))

    def tried(self, kept: Collection[tuple[str, str]], *, all_rungs: bool = False) -> Outcome:
        """The outcome with those layers kept; it ends early where a check fails before a picture is drawn,
        unless `all_rungs`."""
        # a session of its own: one that lasts would hold the pictures of every trial
        session = Session(self.plan, all_rungs=all_rungs, any_allocator=self.any_allocator)
        session.adopt({REFERENCE: self.reference}, (REFERENCE,), ())
        return session.outcome(self.recipe(kept))


def _all_kept(part: str, names: Collection[str], must: frozenset[Layer]) -> bool:
    return set(names) <= {layer.name for layer in must if layer.component == part}
