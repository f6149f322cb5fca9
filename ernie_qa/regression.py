"""Regression: a record's figures against those that a person accepted. Limits say what is bad, this says what
has changed. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ernie_qa.baseline.accepted import is_drift
from ernie_qa.fidelity.advice import seeds
from ernie_qa.fingerprint import differences, same_build_and_machine
from ernie_qa.paired import paired
from ernie_qa.recipe import REFERENCE
from ernie_qa.rungs import BASELINE, images, rungs
from ernie_qa.suite import more_seeds
from ernie_qa.verdict import Check, Status
from ernie_qa.wording import figure as spelt

if TYPE_CHECKING:
    from ernie_qa.baseline.accepted import Accepted, Figure, Tracked
    from ernie_qa.baseline.pictures import Pictures
    from ernie_qa.baseline.store import Baseline
    from ernie_qa.fidelity.statistics import Regression
    from ernie_qa.record import Record
    from ernie_qa.rungs import Evidence


def tracked(record: Record, pictures: Pictures | None) -> dict[str, Tracked]:
    """All figures of `record` that a baseline holds on to, by name; `pictures` are BF16's accepted ones."""
    return {figure.name: figure for rung in rungs() for figure in rung.track(record, pictures)}


def checks(evidence: Evidence, baseline: Baseline | None, *, require: bool) -> Iterator[Check]:
    """One check a figure that was accepted; one that says why where nothing can be compared."""
    record = evidence.record
    accepted = baseline.accepted.get(evidence.recipe.name) if baseline else None
    if baseline is None or accepted is None:
        message = f"nothing was accepted for {evidence.recipe.name} on {record.fingerprint.machine}: "
        message += "run with --update (pytest: --ernie-update), look, then `ernie-qa baseline accept`"
        yield _accepted(Status.NOT_COMPARABLE if require else Status.NOT_APPLICABLE, message)
        return
    if unlike := _unlike(record, accepted):
        yield _accepted(Status.NOT_COMPARABLE, f"{unlike}: accept figures of this one, or go back")
        return
    yield _accepted(Status.PASS, f"accepted by {accepted.by} on {accepted.when[:10]}: {accepted.why}")
    # pictures of other seeds than the accepted ones have nothing to be compared with
    same = images.without_seeds(record, more_seeds(record.suite.hash, accepted.suite.hash) or 0)
    found = tracked(same, baseline.pictures)
    pairs = paired(accepted.figures, found)
    why = "" if record.recipe.name == REFERENCE else moved(evidence.reference, baseline)
    informational = evidence.gate.informational if evidence.gate else frozenset()
    for name, figure in accepted.figures.items():
        check = _check(name, figure, found.get(name), record, accepted, pairs.get(name))
        if why and name in found and found[name].against_bf16 and check.status is not Status.NOT_APPLICABLE:
            message = f"BF16 is not where it was accepted, so this figure cannot be compared: {why}"
            check = replace(check, status=Status.NOT_COMPARABLE, message=message)
        # who only wants to see a figure does not want to be stopped by its change either
        seen = name.partition("[")[0] in informational
        yield replace(check, required=check.required and not seen)
    for name in sorted(found.keys() - accepted.figures.keys()):
        message = f"{name}: nothing was accepted for this figure yet; the next accept takes it"
        yield _named(name, Status.NOT_APPLICABLE, message, measured=found[name].value, unit=found[name].unit)


def drift(record: Record, accepted: Accepted, pictures: Pictures | None) -> Iterator[Check]:
    """How far a BF16 `record` has moved from the accepted pictures, figure by figure."""
    found = tracked(record, pictures)
    for name, figure in accepted.figures.items():
        if is_drift(name):
            yield _check(name, figure, found.get(name), record, accepted)


def _unlike(record: Record, accepted: Accepted) -> str | None:
    """Why the two are of different things; None where they are of one."""
    if record.fingerprint.machine != accepted.machine:
        return f"the record is of {record.fingerprint.machine}, what was accepted is of {accepted.machine}"
    if more := more_seeds(accepted.suite.hash, record.suite.hash):
        return f"figures were accepted with more seeds a case ({more} more): draw as many, {seeds('N')}"
    for kind, ours, theirs in (
        ("model", record.model, accepted.model),
        ("suite", record.suite, accepted.suite),
        ("recipe", record.recipe, accepted.recipe),
    ):
        if ours.hash != theirs.hash and more_seeds(ours.hash, theirs.hash) is None:
            return (
                f"the {kind} {ours.name} ({ours.hash[:12]}) is not the one that figures were accepted for "
                f"({theirs.hash[:12]})"
            )
    loaded = record.artifact.hash if record.artifact else None
    if loaded != accepted.artifact:
        return f"the record is of {_loaded(loaded)}, what was accepted is of {_loaded(accepted.artifact)}"
    return None


def _loaded(artifact: str | None) -> str:
    return "a model quantized in memory" if artifact is None else f"the artifact {artifact[:12]}"


def moved(reference: Record | None, baseline: Baseline) -> str:
    """Why figures measured against `reference` say nothing about the quantization; empty where they do.

    BF16's pictures are compared with the accepted ones; where none are kept, only the same build and machine
    as one of the accepted runs will do.
    """
    if reference is None:
        return "there is no reference to measure with"
    bf16 = baseline.accepted[REFERENCE]
    if baseline.pictures is None and not is_random(reference):
        builds = [run.fingerprint for run in bf16.runs]
        if not any(same_build_and_machine(build, reference.fingerprint) for build in builds):
            changed = "; ".join(differences(builds[0], reference.fingerprint)[:3])
            return f"no pictures of BF16 are kept to tell whether this stack moved it ({changed}): rebase"
    for check in drift(reference, bf16, baseline.pictures):
        if check.status is not Status.PASS:
            return check.message
    return ""


def is_random(record: Record) -> bool:
    """Whether the model's weights are random: no figure then depends on what BF16 draws."""
    return record.model.weights == "random"


def _check(
    name: str,
    figure: Figure,
    found: Tracked | None,
    record: Record,
    accepted: Accepted,
    pairs: Regression | None = None,
) -> Check:
    if figure.limit is None:
        value = found.value if found else None
        message = f"{name}: accepted from {len(figure.measured)} runs, too few to know its noise: not judged"
        return _named(name, Status.NOT_APPLICABLE, message, measured=value, unit=figure.unit)
    if found is None:
        message = f"{name}: accepted with {_said(figure.typical, figure)}, and this record does not have it: "
        message += "observe again, with the baselines at hand"
        return _named(name, Status.NOT_COMPARABLE, message, limit=figure.limit, unit=figure.unit)
    if not figure.is_of(found):
        message = f"{name}: computed otherwise than when it was accepted: {found.definition}: accept it anew"
        return _named(name, Status.NOT_COMPARABLE, message, measured=found.value, unit=figure.unit)
    kept = figure.keeps(found.value)
    bound = "at most" if figure.better == "lower" else "at least"
    runs = f" in {len(figure.measured)} runs" if len(figure.measured) > 1 else ""
    message = f"{name}: {_said(found.value, figure)}, accepted {_said(figure.typical, figure)}{runs}, "
    if pairs:
        status, told = _of_pairs(pairs, kept, record, accepted)
        message += f"{pairs}{told}"
        if status is Status.FAIL:
            message += f": {_advice(name, record, accepted)}"
        figures = {"measured": pairs.ratio, "limit": pairs.minimum, "unit": "times"}
        return _named(name, status, message, **figures)
    message += f"{bound} {_said(figure.limit, figure)}"
    if not kept:
        message += f": {_advice(name, record, accepted)}"
    status = Status.PASS if kept else Status.FAIL
    return _named(name, status, message, measured=found.value, limit=figure.limit, unit=figure.unit)


def _of_pairs(pairs: Regression, kept: bool, record: Record, accepted: Accepted) -> tuple[Status, str]:
    """What the pairs make of a mean that has `kept` its accepted limit or not, and what to add to them."""
    if pairs.worse:
        return Status.FAIL, ""
    if kept:
        return Status.PASS, ""
    if any(same_build_and_machine(run.fingerprint, record.fingerprint) for run in accepted.runs):
        # untouched pictures are the accepted ones to the bit, which makes a few damaged ones look like chance
        return Status.FAIL, "; beyond what was accepted, and on the same build and machine pictures repeat"
    return (
        Status.NOT_COMPARABLE,
        f"; beyond what was accepted, and chance is not ruled out: accept and observe more, {seeds('N')}",
    )


def _advice(name: str, record: Record, accepted: Accepted) -> str:
    """What else has changed since, and what to do."""
    changed = differences(accepted.runs[0].fingerprint, record.fingerprint)
    since = f"changed since: {'; '.join(changed[:3])}" if changed else "build and machine are the same"
    if is_drift(name):
        return f"BF16 itself has moved ({since}); look at its pictures, then `ernie-qa baseline rebase`"
    return f"{since}; find out why, or accept it with `ernie-qa baseline accept --loosen`"


def _accepted(status: Status, message: str) -> Check:
    return Check(f"{BASELINE}.accepted", BASELINE, status, message)


def _named(name: str, status: Status, message: str, **figures: object) -> Check:
    """The check of the figure `name`, whose component stands in brackets."""
    figure, _, component = name.rstrip("]").partition("[")
    # what is not judged is shown, and no reason to stop
    required = status is not Status.NOT_APPLICABLE
    check = Check(f"{BASELINE}.{figure}", BASELINE, status, message, required, component=component or None)
    return replace(check, **figures)  # type: ignore[arg-type]


def _said(value: float, figure: Figure) -> str:
    number = f"{value:,.0f}" if figure.unit in ("B", "layers") else spelt(value)
    return f"{number} {figure.unit}".rstrip()
