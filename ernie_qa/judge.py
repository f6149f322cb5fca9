"""Judging: a record, its reference, a recipe's limits and a baseline become a verdict. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa import regression
from ernie_qa.floor import floored
from ernie_qa.recipe import REFERENCE, Recipe, find_recipe
from ernie_qa.record import Record
from ernie_qa.rungs import Evidence, check_limits, rungs
from ernie_qa.verdict import Check, Status, Verdict, WaiverUse

if TYPE_CHECKING:
    from ernie_qa.baseline.noise import Noise
    from ernie_qa.baseline.store import Baseline
    from ernie_qa.recipe import Waiver
    from ernie_qa.rungs import Rung


def judge(
    record: Record,
    reference: Record | None,
    recipe: Recipe | str | Path,
    baseline: Baseline | None = None,
    *,
    require_baseline: bool = False,
    noise: Noise | None = None,
    today: date | None = None,
) -> Verdict:
    """Hold `record` against the limits of `recipe`, rung by rung, and against what `baseline` accepted.

    `reference` is the record that its pictures were compared with. A record can be judged again anywhere,
    later, under other limits. Where nothing was accepted, regression checks are not applicable, or not
    comparable with `require_baseline`. `noise` is the floor; a check whose limit lies within it is not
    comparable. Waivers end by `today`, in UTC unless it is given. RecipeError where the recipe is wrong or
    limits what no rung measures.
    """
    wanted = find_recipe(recipe)
    check_limits(wanted)
    unsound = unsoundness(reference) if reference else None
    evidence = Evidence(record, None if unsound else reference, wanted)
    gate = evidence.gate
    informational = gate.informational if gate else frozenset()
    checks = tuple(
        replace(check, required=False) if check.name in informational else check
        for check in (
            *_reference_checks(unsound),
            *floored(
                evidence,
                (*_checks(evidence), *regression.checks(evidence, baseline, require=require_baseline)),
                noise,
            ),
        )
    )
    return _waived(wanted.name, checks, gate.waivers if gate else (), today or datetime.now(UTC).date())


def alone(record: Record, reference: Record | None, recipe: Recipe) -> Verdict:
    """`record` by its recipe's own limits, without a baseline and without waivers: one lets a failure through
    until a date, and a baseline would keep it. Only what passes so may be accepted."""
    gates = {suite: replace(gate, waivers=()) for suite, gate in recipe.gates.items()}
    return judge(record, None if recipe.name == REFERENCE else reference, replace(recipe, gates=gates))


def refusal(
    record: Record, reference: Record | None, recipe: Recipe, rung: Rung, noise: Noise | None = None
) -> Check | None:
    """The first required check of one `rung` that failed, waivers counted in; None where none did.

    What `record` holds of the later rungs does not matter: it need not be complete. `reference` is None
    where `unsoundness` has something to say of it.
    """
    evidence = Evidence(record, reference, recipe)
    gate = evidence.gate
    informational = gate.informational if gate else frozenset()
    checks = tuple(
        check for check in floored(evidence, rung.judge(evidence), noise) if check.name not in informational
    )
    waivers = gate.waivers if gate else ()
    verdict = _waived(recipe.name, checks, waivers, datetime.now(UTC).date())
    return next((check for check in verdict.of(Status.FAIL) if check.rung == rung.NAME), None)


def unsoundness(reference: Record) -> str | None:
    """Why `reference` is not what it claims to be, a BF16 arm that drew whole pictures; None where it is."""
    bf16 = find_recipe(REFERENCE)
    if reference.recipe.hash != bf16.hash:
        return f"it is an arm of {reference.recipe.name}, not of {REFERENCE}"
    failed = judge(reference, None, bf16).of(Status.FAIL)
    return f"{failed[0].label}: {failed[0].message}" if failed else None


def _reference_checks(unsound: str | None) -> Iterator[Check]:
    if unsound:
        message = f"the reference is no sound BF16 arm: {unsound}; observe bf16 again"
        yield Check("reference.sound", "reference", Status.NOT_COMPARABLE, message)


def _checks(evidence: Evidence) -> Iterator[Check]:
    recipe, recorded = evidence.recipe, evidence.record.recipe
    if recorded.hash != recipe.hash:
        message = (
            f"the record was made under recipe {recorded.name} ({recorded.hash[:12]}), and {recipe.name} "
            f"({recipe.hash[:12]}) quantizes otherwise: observe {recipe.name}, or judge by {recorded.name}"
        )
        yield Check("recipe.same", "recipe", Status.NOT_COMPARABLE, message)
    ended = evidence.record.ended
    for rung in rungs():
        if ended is not None and rung.NAME not in evidence.record.figures:
            # who limits nothing of a rung does not miss it
            wanted = not rung.LIMITS or any(name in rung.LIMITS for name in evidence.limits)
            status = Status.NOT_COMPARABLE if wanted else Status.NOT_APPLICABLE
            message = f"not measured: the arm ended at {ended.rung}: {ended.check}"
            yield Check(f"{rung.NAME}.measured", rung.NAME, status, message, required=wanted)
        else:
            yield from rung.judge(evidence)


def _waived(recipe: str, checks: tuple[Check, ...], waivers: tuple[Waiver, ...], today: date) -> Verdict:
    """The verdict with the waived checks shown and not deciding; a waiver that has ended fails by itself."""
    uses = []
    for waiver in waivers:
        hit = [check for check in checks if waiver.check in (check.name, check.label)]
        expired = today > waiver.until
        uses.append(WaiverUse(waiver.check, waiver.reason, waiver.until, expired, len(hit)))
        if expired:
            message = (
                f"the waiver of {waiver.check} ended on {waiver.until} ({waiver.reason}): mend what it was "
                f"for and remove it, or give it a new date and reason"
            )
            checks = (*checks, Check("waivers.expired", "waivers", Status.FAIL, message, case=waiver.check))
        else:
            note = f"waived until {waiver.until} ({waiver.reason}): "
            checks = tuple(
                replace(check, required=False, message=note + check.message) if check in hit else check
                for check in checks
            )
    return Verdict(recipe, checks, tuple(uses))
