"""Judging: a record, its reference and a recipe's limits become a verdict. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ernie_qa.recipe import Recipe, find_recipe
from ernie_qa.record import Record
from ernie_qa.rungs import Evidence, check_limits, rungs
from ernie_qa.verdict import Check, Status, Verdict


def judge(
    record: Record,
    reference: Record | None,
    recipe: Recipe | str | Path,
    baseline: None = None,
    *,
    require_baseline: bool = False,
) -> Verdict:
    """Hold `record` against the limits of `recipe`, rung by rung.

    `reference` is the record that its pictures were compared with. A record can be judged again anywhere,
    later, under other limits. There is no store of accepted figures yet, so `baseline` is None: regression
    checks are not applicable, or not comparable with `require_baseline`. RecipeError where the recipe is
    wrong or limits what no rung measures.
    """
    wanted = find_recipe(recipe)
    check_limits(wanted)
    unsound = _unsound(reference) if reference else None
    evidence = Evidence(record, None if unsound else reference, wanted)
    informational = evidence.gate.informational if evidence.gate else frozenset()
    checks = (
        replace(check, required=False) if check.name in informational else check
        for check in (*_reference_checks(unsound), *_checks(evidence, require_baseline))
    )
    return Verdict(wanted.name, tuple(checks))


def _unsound(reference: Record) -> str | None:
    """Why `reference` is not what it claims to be, a BF16 arm that drew whole pictures; None where it is."""
    bf16 = find_recipe("bf16")
    if reference.recipe.hash != bf16.hash:
        return f"it is an arm of {reference.recipe.name}, not of bf16"
    failed = judge(reference, None, bf16).of(Status.FAIL)
    return f"{failed[0].label}: {failed[0].message}" if failed else None


def _reference_checks(unsound: str | None) -> Iterator[Check]:
    if unsound:
        message = f"the reference is no sound BF16 arm: {unsound}; observe bf16 again"
        yield Check("reference.sound", "reference", Status.NOT_COMPARABLE, message)


def _checks(evidence: Evidence, require_baseline: bool) -> Iterator[Check]:
    recipe, recorded = evidence.recipe, evidence.record.recipe
    if recorded.hash != recipe.hash:
        message = (
            f"the record was made under recipe {recorded.name} ({recorded.hash[:12]}), and {recipe.name} "
            f"({recipe.hash[:12]}) quantizes otherwise: observe {recipe.name}, or judge by {recorded.name}"
        )
        yield Check("recipe.same", "recipe", Status.NOT_COMPARABLE, message)
    for rung in rungs():
        yield from rung.judge(evidence)
    if require_baseline:
        message = "a baseline is required and none is accepted: judge without --ernie-require-baseline"
        yield Check("baseline.accepted", "baseline", Status.NOT_COMPARABLE, message)
