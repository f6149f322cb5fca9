"""Scores of pictures against a recipe's limit: their mean, and their worst. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ernie_qa.fidelity.advice import KEPT, explain, seeds
from ernie_qa.fidelity.metrics import metrics
from ernie_qa.fidelity.statistics import Decision, limit_gate, pictures_over, seeds_needed
from ernie_qa.recipe import REFERENCE
from ernie_qa.suite import MAX_SEEDS, is_own
from ernie_qa.verdict import Check, Status
from ernie_qa.wording import counted, figure

if TYPE_CHECKING:
    from ernie_qa.fidelity.metrics import Metric
    from ernie_qa.recipe import Limit

    Stored = float | str

IDENTICAL = "identical"
"""Stored for an infinite score, which JSON has no number for: PSNR where no value differs."""

_STATUS = {
    Decision.PASS: Status.PASS,
    Decision.FAIL: Status.FAIL,
    Decision.UNDECIDED: Status.NOT_COMPARABLE,
}


def worst_of(metric: Metric) -> str:
    """ "max" or "min": what the worst picture's score is of all."""
    return "max" if metric.BETTER == "lower" else "min"


def limit_check(rung: str, name: str, limit: Limit, figures: Mapping[str, Any], recipe: str) -> Check:
    """The check `name`, as images.lpips_mean, of the rung's `figures` of `recipe`: a mean, or the worst
    picture's score.

    A mean of a limit that is about pictures passes, fails, or is not comparable: undecided by these.
    """
    metric_name, _, statistic = name.removeprefix(f"{rung}.").rpartition("_")
    metric = {metric.NAME: metric for metric in metrics()}[metric_name]
    scores = {case: figure["scores"].get(metric_name) for case, figure in figures["cases"].items()}
    lacking = [case for case, score in scores.items() if score is None]
    if lacking or not scores or figures["metrics"].get(metric_name, {}).get(statistic) is None:
        message = f"{name} has no value: {', '.join(lacking) or 'no case'} has no score; see {rung}.defects"
        return Check(name, rung, Status.NOT_COMPARABLE, message)
    own = {case: score for case, score in scores.items() if is_own(case)}
    judged = own if limit.about == "suite" or statistic != "mean" else scores
    worst = _worst_case(metric, judged)
    value = _mean(judged) if statistic == "mean" else judged[worst]
    bound, within = against(number(value), limit)
    status, told = Status.PASS if within else Status.FAIL, ""
    if limit.about == "pictures" and value != IDENTICAL:
        if statistic == "mean":
            status, bound, told = _sampled(_finite(scores), limit, len(own), metric.UNIT)
        elif len(scores) > len(own) and within:
            status, told = _counted(scores, limit)
    elif limit.about == "suite" and statistic == "mean" and len(scores) > len(own):
        told = f"; with other seeds, which this limit is not about, {_interval(_finite(scores), metric.UNIT)}"
    provisional = ", provisional" if limit.provisional else ""
    message = (
        f"{metric_name.upper()} {statistic} {said(value, metric.UNIT)}, "
        f"{'at most' if bound == limit.max else 'at least'} {said(bound, metric.UNIT)} "
        f"({limit.source}{provisional}){told}; worst is {worst} with {said(judged[worst], metric.UNIT)}"
    )
    if status is Status.FAIL:
        message += (
            f": {KEPT}, compare {recipe}/pictures/{worst}.png with {REFERENCE}'s; {explain(recipe)} names "
            "the layers that are off"
        )
    elif status is Status.NOT_COMPARABLE:
        message = told
    measured = None if value == IDENTICAL else number(value)
    return Check(name, rung, status, message, measured=measured, limit=bound, unit=metric.UNIT)


def against(value: float, limit: Limit) -> tuple[float | None, bool]:
    """The bound that `value` breaks and False, or else the bound that it keeps and True."""
    if limit.max is not None and not value <= limit.max:
        return limit.max, False
    if limit.min is not None and not value >= limit.min:
        return limit.min, False
    return (limit.max if limit.max is not None else limit.min), True


def number(stored: Stored) -> float:
    """A score as it is stored, as a number."""
    return math.inf if stored == IDENTICAL else float(stored)


def said(value: Stored | None, unit: str) -> str:
    """A score with its unit."""
    if value is None or isinstance(value, str):
        return str(value)
    return f"{figure(value)} {unit}".rstrip()


def _sampled(scores: list[float], limit: Limit, cases: int, unit: str) -> tuple[Status, float | None, str]:
    """What the limit gate decides of `scores`, for which bound, and how to say it."""
    decided = []
    for bound, sign in ((limit.max, 1), (limit.min, -1)):
        if bound is not None:
            values = [sign * score for score in scores]
            decided.append((limit_gate(values, sign * bound).decision, bound, values, sign * bound))
    order = (Decision.FAIL, Decision.UNDECIDED, Decision.PASS)
    decision, bound, values, signed = min(decided, key=lambda one: order.index(one[0]))
    if decision is not Decision.UNDECIDED:
        return _STATUS[decision], bound, f"; {_interval(scores, unit)}"
    told = f"undecided: {_interval(scores, unit)} against {said(bound, unit)}: "
    more = seeds_needed(values, signed)
    needed = 2 if more is None else math.ceil((len(scores) + more) / cases)
    if len(scores) < 2:
        told += f"one picture tells nothing of others; {seeds(2)}"
    elif more is None or needed > MAX_SEEDS:
        told += f"{MAX_SEEDS} seeds a case would not decide it: the mean is at the limit"
    else:
        told += f"about {counted(more, 'more picture')} would decide; {seeds(needed)}"
    return Status.NOT_COMPARABLE, bound, told


def _interval(scores: list[float], unit: str) -> str:
    """ "mean 0.0049 ± 0.0008 over 30 pictures": the interval that the limit gate goes by."""
    # of no bound: neither the mean nor its half hangs on it
    gate = limit_gate(scores, math.inf)
    half = f" ± {figure(gate.half, 2)}" if math.isfinite(gate.half) else ""
    return (
        f"mean {said(gate.mean, '')}{half}{f' {unit}' if unit else ''} over {counted(len(scores), 'picture')}"
    )


def _counted(scores: Mapping[str, Stored], limit: Limit) -> tuple[Status, str]:
    """Of more pictures than the suite's own, which all keep the limit, some may lie over it."""
    over = sum(not against(number(score), limit)[1] for score in scores.values())
    found = pictures_over(over, len(scores))
    told = f"; {over} of all {len(scores)} pictures are over it, {found.needed} would fail"
    return Status.FAIL if found.fails else Status.PASS, told


def _finite(scores: Mapping[str, Stored]) -> list[float]:
    return [number(score) for score in scores.values() if score != IDENTICAL]


def _mean(scores: Mapping[str, Stored]) -> Stored:
    """Without identical pictures, as the rung's own: one infinite PSNR would hide nine bad ones."""
    finite = _finite(scores)
    return math.fsum(finite) / len(finite) if finite else IDENTICAL


def _worst_case(metric: Metric, scores: Mapping[str, Stored]) -> str:
    choose = max if metric.BETTER == "lower" else min
    return choose(scores, key=lambda case: number(scores[case]))
