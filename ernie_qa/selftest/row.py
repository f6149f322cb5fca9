"""What became of one fault: which check caught it, and whether it is the one that ought to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from ernie_qa.faults import Fault
from ernie_qa.rungs import rungs
from ernie_qa.verdict import Check, Status

if TYPE_CHECKING:
    from ernie_qa.record import Record
    from ernie_qa.verdict import Verdict

REFUSED = "loading"
"""What catches a fault that is refused before a rung sees it."""
BROKEN = "running"
"""What catches a fault that the arm cannot be drawn with: a gate calls it broken off, and not comparable."""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one fault or clean variant.

    `caught_by` is the rung, the first in the ladder's order with a required check that failed, or else one
    that was not comparable; None where the verdict is a pass. `check` is the label of that check, with what
    it `measured` and its `limit` where it is about a number, and `message`. `right` says whether that rung
    is the expected one and names the expected component. `apart` says in what a clean variant differs from
    the sound arm, empty where it does not differ in a bit.
    """

    fault: Fault
    caught_by: str | None
    check: str | None
    measured: float | None
    limit: float | None
    message: str
    right: bool
    apart: str
    seconds: float

    @property
    def counts(self) -> bool:
        """Whether it says anything: a variant that changed nothing does not."""
        return not self.fault.clean or bool(self.apart)


def first(verdict: Verdict) -> Check | None:
    """The check that catches: of the first rung in the ladder's order with one that failed, or else with one
    that was not comparable."""
    order = [rung.NAME for rung in rungs()]
    for status in (Status.FAIL, Status.NOT_COMPARABLE):
        found = verdict.of(status)
        # what is no rung's (the reference, the baseline) stands first
        if found:
            return min(found, key=lambda one: order.index(one.rung) if one.rung in order else -1)
    return None


def row(
    fault: Fault, caught: Check | None, checks: Sequence[Check], differs: str, began: float, message: str
) -> Row:
    seconds = perf_counter() - began
    if caught is None:
        return Row(fault, None, None, None, None, message, False, differs, seconds)
    same = [one for one in checks if one.required and (one.rung, one.status) == (caught.rung, caught.status)]
    named = [one for one in same if fault.component in (None, one.component)]
    # of several the one that is furthest beyond its limit says most
    shown = max(named, key=_excess, default=caught)
    right = caught.rung == fault.rung and (bool(named) or not checks)
    return Row(
        fault, caught.rung, shown.label, shown.measured, shown.limit, shown.message, right, differs, seconds
    )


def unseen(fault: Fault, refused: str | None, broke: str | None) -> Check | None:
    """What catches a fault without a record. Breaking off counts only where that is expected: it may be the
    damage that could not be done. A clean variant that breaks off is an alarm."""
    if refused:
        return Check(REFUSED, REFUSED, Status.FAIL, refused)
    if broke and (fault.clean or fault.rung == BROKEN):
        return Check(BROKEN, BROKEN, Status.NOT_COMPARABLE, broke)
    return None


def _excess(check: Check) -> float:
    """How far beyond its limit, as a ratio; endless where it is about no number."""
    if check.limit is None or check.measured is None:
        return math.inf
    if not check.limit or not check.measured:
        return 1.0
    return max(check.measured / check.limit, check.limit / check.measured)


def apart(sound: Record, other: Record) -> str:
    """In what two records differ to the bit, in words; empty where they do not."""
    theirs = {picture.case: picture.sha256 for picture in sound.pictures}
    pictures = sum(theirs.get(picture.case) != picture.sha256 for picture in other.pictures)
    told = [f"{pictures} of {len(other.pictures)} pictures"] if pictures else []
    files = {picture.case: picture.png for picture in sound.pictures}
    packed = sum(files.get(picture.case) != picture.png for picture in other.pictures)
    told += [f"{packed} of {len(other.pictures)} files"] if packed and not pictures else []
    ours, sounds = (
        {key: value for key, value in record.figures.get("components", {}).items() if key not in _PASSING}
        for record in (other, sound)
    )
    differing = sorted(key for key in ours if ours[key] != sounds.get(key))
    return ", ".join([*told, *differing])


_PASSING = ("seconds", "reference")
"""Figures of the components rung that differ from run to run."""
