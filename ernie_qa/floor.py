"""Figures and limits beside the noise floor: a limit below it would stop BF16 itself, and is refused. Imports
no torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ernie_qa.baseline.accepted import DRIFT, short
from ernie_qa.rungs import BASELINE, rungs
from ernie_qa.verdict import Check, Status
from ernie_qa.wording import figure

if TYPE_CHECKING:
    from ernie_qa.baseline.noise import Floor, Noise
    from ernie_qa.record import Record
    from ernie_qa.rungs import Evidence

NAME = "noise"
"""What the check that says whether there is a floor begins with."""


def floored(evidence: Evidence, checks: Iterable[Check], noise: Noise | None) -> Iterator[Check]:
    """The checks, each figure beside its floor and ceiling. A recipe's limit that lies below the floor is
    refused: what is no worse than the floor is not comparable with it. What was accepted may move as far as
    the floor. What is worse than both fails. Without a floor, a check that tells so."""
    why = unmeasured(evidence.record, noise)
    if noise is None or why:
        yield from checks
        yield Check(f"{NAME}.floor", NAME, Status.NOT_APPLICABLE, why or "", required=False)
        return
    noise, left = _alike(noise, evidence.record)
    told = f"measured under {', '.join(noise.changes)}"
    if noise.deterministic:
        told += ": deterministic, not a bit moved"
    if left:
        told += f"; computed otherwise since, so without a floor: {', '.join(left)}; calibrate again"
    yield Check(f"{NAME}.floor", NAME, Status.NOT_APPLICABLE, told, required=False)
    bounds = _bounds()
    for check in checks:
        figure = _figure(check.name)
        found = noise.floor(figure, bounds[figure]) if figure in bounds else None
        yield _floored(check, evidence, found, noise.ceiling.get(figure), bounds) if found else check


def _alike(noise: Noise, record: Record) -> tuple[Noise, list[str]]:
    """`noise` without the figures of pictures that were computed otherwise than the record's, and these."""
    metrics = record.figures.get("images", {}).get("metrics", {})
    said = {name: short(summary.get("definition", "")) for name, summary in metrics.items()}
    known = {name for one in noise.changes.values() for name in one.figures} | set(noise.ceiling)
    left = sorted(
        name
        for name in known
        if (metric := name.partition(".")[2].rpartition("_")[0]) in said
        and name.startswith("images.")
        and noise.definitions.get(name) != said[metric]
    )
    changes = {
        name: replace(one, figures={key: value for key, value in one.figures.items() if key not in left})
        for name, one in noise.changes.items()
    }
    ceiling = {key: value for key, value in noise.ceiling.items() if key not in left}
    return replace(noise, changes=changes, ceiling=ceiling), left


def unmeasured(record: Record, noise: Noise | None) -> str | None:
    """Why there is no floor for `record`, and the command that measures one; None where there is."""
    command = f"ernie-qa calibrate {shlex.quote(record.model.name)} --suite {record.suite.name}"
    if noise is None:
        return f"floor not measured: `{command}`"
    unlike = noise.unlike(record)
    return f"floor not measured: {unlike}: `{command}`" if unlike else None


def _floored(
    check: Check, evidence: Evidence, floor: Floor, ceiling: float | None, bounds: Mapping[str, str]
) -> Check:
    accepted = check.name.startswith(f"{BASELINE}.")
    bound = bounds[_figure(check.name)]
    beside = check if accepted else replace(check, floor=floor.value, ceiling=ceiling)
    limit = evidence.limits.get(check.name)
    value = check.limit if limit is None else getattr(limit, bound)
    # pairs are held to a ratio, which has no floor
    judged = check.status in (Status.PASS, Status.FAIL) and check.unit != "times"
    if not judged or value is None or not _below(value, floor.value, bound):
        return beside
    if check.status is Status.FAIL and (check.measured is None or _below(floor.value, check.measured, bound)):
        # beyond what noise can do as well
        return beside
    if not accepted:
        return replace(beside, status=Status.NOT_COMPARABLE, message=_told(value, floor))
    if check.status is Status.FAIL:
        said = (
            f"within the noise floor, {figure(floor.value)}, which BF16 itself reaches under {floor.change}"
        )
        return replace(check, status=Status.PASS, message=f"{check.message}; {said}")
    return check


def _below(limit: float, other: float, bound: str) -> bool:
    return limit < other if bound == "max" else limit > other


def _told(limit: float, floor: Floor) -> str:
    return (
        f"the limit {figure(limit)} is within the noise floor, {figure(floor.value)}, which BF16 "
        f"itself reaches under {floor.change}: set it beyond the floor, or mend what makes that change "
        "matter and calibrate again"
    )


def _figure(check: str) -> str:
    """The figure that a check is about, as a limit names it."""
    rung, _, figure = check.removeprefix(f"{BASELINE}.").partition(".")
    return f"{rung}.{figure.removeprefix(DRIFT)}"


def _bounds() -> dict[str, str]:
    return {name: bound for rung in rungs() for name, bound in rung.LIMITS.items()}
