"""Rung 4: pictures against those of the BF16 arm of the same build and machine.

Metrics come from `ernie_qa.fidelity.metrics`, and each can be limited by its mean and by its worst picture:
`images.lpips_mean`, `images.lpips_max`, `images.ssim_min`. docs/images.md has the definitions.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ernie_qa.baseline.accepted import DRIFT, Tracked
from ernie_qa.baseline.pictures import pictures_hash
from ernie_qa.fidelity.advice import KEPT
from ernie_qa.fidelity.limits import IDENTICAL, against, limit_check, number, said, worst_of
from ernie_qa.fidelity.metrics import Metric, metrics
from ernie_qa.parts import the_same
from ernie_qa.picture import pixels_hash
from ernie_qa.recipe import REFERENCE
from ernie_qa.suite import seed_number
from ernie_qa.verdict import Check, Status

if TYPE_CHECKING:
    from ernie_qa.baseline.pictures import Pictures
    from ernie_qa.drawing import Drawn
    from ernie_qa.picture import Picture
    from ernie_qa.recipe import Limit
    from ernie_qa.record import Record
    from ernie_qa.rungs import Arm, Evidence, Figures
    from ernie_qa.suite import Case

NAME = "images"
ORDER = 4

REGRESSION = 0.15
"""The share of its distance from a perfect score that a mean or a worst picture may get worse by: a smaller
effect cannot be told from chance with ten pictures."""

RANDOM = "its weights are random, so its pictures mean nothing"


LIMITS = {
    f"{NAME}.{metric.NAME}_{statistic}": "max" if metric.BETTER == "lower" else "min"
    for metric in metrics()
    for statistic in ("mean", worst_of(metric))
}


def measure(arm: Arm) -> Generator[None, tuple[Drawn, ...], Figures]:
    """Defects of every case, and every metric of every case that the reference drew in the same size.

    Figures: `cases` by id (sha256, width, height, defects, scores by metric), `metrics` by name (definition,
    mean, max or min, worst_case), `reference` (its record's hash) or None and `why`, and `drift`: the same
    metrics and scores against the pictures that were accepted, with their hash, None without any.
    """
    drawn = {one.case: one for one in (yield)}
    cases = {case.id: _case(case, drawn.get(case.id)) for case in arm.suite.cases}
    why = _unlike(arm)
    pipe: Any = arm.pipe
    device = str(pipe.device)
    found = {} if arm.reference is None or why else scored(drawn, arm.reference.pictures, device)
    for case, scores in found.items():
        if case in cases:
            cases[case]["scores"] = _storable(scores)
    return {
        "cases": cases,
        "metrics": summarised(found, list(cases)),
        "reference": arm.reference.hash if arm.reference and not why else None,
        "why": why,
        "drift": _drift(arm, drawn, device),
    }


def _drift(arm: Arm, drawn: Mapping[str, Drawn], device: str) -> dict[str, Any] | None:
    if arm.accepted is None:
        return None
    found = scored(drawn, arm.accepted.pictures, device)
    cases = [picture.case for picture in arm.accepted.pictures]
    scores = {case: _storable(one) for case, one in found.items()}
    return {
        "pictures": arm.accepted.hash,
        "cases": cases,
        "metrics": summarised(found, cases),
        "scores": scores,
    }


def join(parts: Sequence[Figures], reference: Record | None) -> Figures:
    """Each case from the part that drew it, and the metrics over all of them."""
    first = the_same(NAME, [{key: part[key] for key in ("reference", "why")} for part in parts])
    cases = {
        case: next((one for part in parts if (one := part["cases"][case])["sha256"]), figure)
        for case, figure in parts[0]["cases"].items()
    }
    scores = {case: one["scores"] for case, one in cases.items() if one["scores"]}
    return {
        **first,
        "cases": cases,
        "metrics": summarised(_numbers(scores), list(cases)),
        "drift": _joined_drift([part["drift"] for part in parts]),
    }


def _joined_drift(parts: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    found = [part for part in parts if part is not None]
    if not found:
        return None
    scores = {case: one for part in found for case, one in part["scores"].items()}
    metrics = summarised(_numbers(scores), list(found[0]["cases"]))
    return {
        **the_same(NAME, [{"pictures": part["pictures"], "cases": part["cases"]} for part in found]),
        "metrics": metrics,
        "scores": scores,
    }


def _case(case: Case, drawn: Drawn | None) -> dict[str, Any]:
    from ernie_qa.fidelity.defects import constant, nonfinite_values, wrong_size

    if drawn is None:
        return {"sha256": None, "width": None, "height": None, "defects": ["was not drawn"], "scores": {}}
    pixels = drawn.pixels
    found = (nonfinite_values(drawn.nonfinite), constant(pixels), wrong_size(pixels, case.width, case.height))
    return {
        "sha256": pixels_hash(pixels),
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "defects": [defect for defect in found if defect],
        "scores": {},
    }


def _unlike(arm: Arm) -> str | None:
    """Why the pictures cannot be measured against the arm's reference; None where they can."""
    if arm.model.weights == "random":
        return RANDOM
    if arm.reference is None:
        return "it was observed without a reference"
    if arm.reference.model.hash != arm.model.identity.hash:
        return f"the reference drew another model, {arm.reference.model.name}"
    if arm.reference.suite.hash != arm.suite.hash:
        return f"the reference drew another suite, {arm.reference.suite.name}"
    return None


def scored(
    drawn: Mapping[str, Drawn], pictures: Iterable[Picture], device: str
) -> dict[str, dict[str, float]]:
    """Case -> metric -> score against `pictures`, for the cases that both drew in one size."""
    found = {}
    # a pair at a time: memory then depends on one picture's size, and not on how many there are
    for picture in pictures:
        if picture.case not in drawn:
            continue
        theirs, ours = picture.pixels(), drawn[picture.case].pixels
        if theirs.shape == ours.shape:
            found[picture.case] = {
                metric.NAME: metric.score([theirs], [ours], device)[0] for metric in metrics()
            }
    return found


def summarised(found: Mapping[str, dict[str, float]], cases: list[str]) -> dict[str, dict[str, Any]]:
    return {
        metric.NAME: _summary(metric, [found.get(case, {}) for case in cases], cases) for metric in metrics()
    }


def _summary(metric: Metric, scores: list[dict[str, float]], cases: list[str]) -> dict[str, Any]:
    """Mean and worst over the suite; None where a case has no score, for the rest would flatter.

    The mean leaves identical pictures out: one infinite PSNR would hide nine bad ones.
    """
    mean: Any = None
    worst: Any = None
    worst_case = None
    if scores and all(metric.NAME in score for score in scores):
        values = [score[metric.NAME] for score in scores]
        finite = [value for value in values if math.isfinite(value)]
        mean = math.fsum(finite) / len(finite) if finite else IDENTICAL
        row = values.index(max(values) if metric.BETTER == "lower" else min(values))
        worst, worst_case = _stored(values[row]), cases[row]
    return {"definition": metric.DEFINITION, "mean": mean, worst_of(metric): worst, "worst_case": worst_case}


def _stored(score: float) -> float | str:
    return IDENTICAL if math.isinf(score) else score


def _storable(scores: Mapping[str, float]) -> dict[str, float | str]:
    return {name: _stored(score) for name, score in scores.items()}


def _numbers(cases: Mapping[str, Mapping[str, float | str]]) -> dict[str, dict[str, float]]:
    """Case -> metric -> score, of what is stored of them."""
    return {case: {name: number(one) for name, one in scores.items()} for case, scores in cases.items()}


def judge(evidence: Evidence) -> Iterator[Check]:
    """Check each picture for defects, and the suite's means and worst pictures against the gate's limits."""
    if evidence.record.model.weights == "random":
        for check in _checks(evidence):
            yield replace(
                check, status=Status.NOT_APPLICABLE, message=f"{evidence.record.model.name}: {RANDOM}"
            )
    else:
        yield from _checks(evidence)


def _checks(evidence: Evidence) -> Iterator[Check]:
    recipe, suite, figures = evidence.recipe, evidence.record.suite.name, evidence.record.figures.get(NAME)
    if figures is None:
        message = "the record holds no figures of this rung: observe the recipe again"
        yield Check(f"{NAME}.defects", NAME, Status.NOT_COMPARABLE, message)
        return
    for case, figure in figures["cases"].items():
        yield _defects_check(case, figure, recipe.name)
    gate = evidence.gate
    limits = {name: limit for name, limit in sorted(evidence.limits.items()) if name in LIMITS}
    deciding = [name for name in limits if gate and name not in gate.informational]
    incomparable = _incomparable(evidence, figures)
    status = Status.NOT_COMPARABLE
    if not recipe.components and evidence.reference is None and figures["reference"] is None:
        status = Status.NOT_APPLICABLE
        incomparable = (
            f"recipe {recipe.name} is what the others are compared with; it has no reference itself"
        )
    if not deciding and recipe.components:
        message = f"recipe {recipe.name} has no {NAME} limits that decide for suite {suite}: "
        message += f"add [gates.{suite}.limits] to {recipe.path}"
        if others := [name for name in recipe.gates if name != suite]:
            message += f", which has gates for {', '.join(others)}"
        yield Check(f"{NAME}.limits", NAME, Status.NOT_COMPARABLE, message)
    for name, limit in limits.items():
        if incomparable:
            yield Check(name, NAME, status, incomparable)
        else:
            yield limit_check(NAME, name, limit, figures, recipe.name)
    if not incomparable:
        yield from _single_checks(figures, limits)


def _defects_check(case: str, figure: Mapping[str, Any], recipe: str) -> Check:
    if figure["defects"]:
        message = f"{case}: {'; '.join(figure['defects'])}: "
        message += f"{KEPT}, look at {recipe}/pictures/{case}.png, then at the activation rung"
        return Check(f"{NAME}.defects", NAME, Status.FAIL, message, case=case)
    message = f"{case}: {figure['width']}x{figure['height']}, every value finite, not blank"
    return Check(f"{NAME}.defects", NAME, Status.PASS, message, case=case)


def _incomparable(evidence: Evidence, figures: Figures) -> str | None:
    """Why the scores must not be judged; None where they may."""
    if figures["reference"] is None:
        return f"there are no scores: {figures['why']}; observe again with the bf16 record as reference"
    return evidence.other_reference(figures["reference"], "the scores were")


def _single_checks(figures: Figures, limits: Mapping[str, Limit]) -> Iterator[Check]:
    """Each picture's own scores, to be seen; only the suite's figures decide."""
    for metric in metrics():
        limit = limits.get(f"{NAME}.{metric.NAME}_{worst_of(metric)}")
        for case, figure in figures["cases"].items():
            stored = figure["scores"].get(metric.NAME)
            if stored is None:
                continue
            bound, within = against(number(stored), limit) if limit else (None, True)
            status = Status.NOT_APPLICABLE if bound is None else Status.PASS if within else Status.FAIL
            message = f"{case}: {metric.NAME.upper()} {said(stored, metric.UNIT)}"
            message += "" if bound is not None else ", and no limit for a single picture"
            measured = None if stored == IDENTICAL else stored
            yield Check(
                f"{NAME}.{metric.NAME}",
                NAME,
                status,
                message,
                False,
                case=case,
                measured=measured,
                limit=bound,
                unit=metric.UNIT,
            )


def track(record: Record, pictures: Pictures | None) -> Iterator[Tracked]:
    """Means and worst pictures against BF16; for BF16 itself, how far it has moved from `pictures`."""
    figures = record.figures.get(NAME)
    if figures is None or record.model.weights == "random":
        return
    for metric in metrics():
        if metric.NOISE is None:
            continue
        for statistic, noise in (("mean", metric.NOISE["mean"]), (worst_of(metric), metric.NOISE["worst"])):
            name, known = f"{metric.NAME}_{statistic}", (metric.BETTER, metric.UNIT, metric.IDEAL, noise)
            summary = figures["metrics"].get(metric.NAME, {})
            stored, definition = summary.get(statistic), summary.get("definition", "")
            if stored is not None and stored != IDENTICAL:
                yield Tracked(
                    f"{NAME}.{name}",
                    stored,
                    *known,
                    share=REGRESSION,
                    against_bf16=True,
                    definition=definition,
                    scores=_scores_of(figures, metric) if statistic == "mean" else {},
                )
            moved = _moved(record, figures, pictures, metric, statistic)
            if moved is not None:
                yield Tracked(f"{NAME}.{DRIFT}{name}", moved, *known, definition=definition)


def _scores_of(figures: Figures, metric: Metric) -> dict[str, float]:
    """Case -> score, of a metric that has an ideal and so no infinite score."""
    return {case: figure["scores"][metric.NAME] for case, figure in figures["cases"].items()}


def without_seeds(record: Record, more: int) -> Record:
    """`record` as if its suite had had `more` seeds fewer a case: what one of fewer can be compared with."""
    figures = record.figures.get(NAME)
    if figures is None or not more:
        return record
    kept = max(map(seed_number, figures["cases"])) + 1 - more
    cases = {case: figure for case, figure in figures["cases"].items() if seed_number(case) < kept}
    scores = _numbers({case: figure["scores"] for case, figure in cases.items()})
    metrics = {
        name: {**summary, "definition": figures["metrics"][name]["definition"]}
        for name, summary in summarised(scores, list(cases)).items()
        if name in figures["metrics"]
    }
    narrowed = {**figures, "cases": cases, "metrics": metrics}
    return replace(record, figures={**record.figures, NAME: narrowed})


def _moved(
    record: Record, figures: Figures, pictures: Pictures | None, metric: Metric, statistic: str
) -> float | None:
    """How far a BF16 record's pictures are from `pictures`; None where nobody measured it against these."""
    if record.recipe.name != REFERENCE or pictures is None:
        return None
    if pictures.hash == pictures_hash(record.pictures):
        return metric.IDEAL
    drift = figures.get("drift")
    if drift is None or drift["pictures"] != pictures.hash:
        return None
    moved = drift["metrics"].get(metric.NAME, {}).get(statistic)
    return None if moved is None else float(moved)
