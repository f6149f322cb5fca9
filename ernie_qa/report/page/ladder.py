"""The verdict and the ladder as the page shows them: what each rung ended as, and each of its checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ernie_qa.report.terminal import cell, nearest, told
from ernie_qa.rungs import rungs
from ernie_qa.verdict import Check, Status, Verdict, worst

if TYPE_CHECKING:
    from ernie_qa.report.shown import Shown

MESSAGES = 20
"""Failing checks spelt out for one record; all of them stand in the ladder below, as far as there is room."""


@dataclass(frozen=True, slots=True)
class Said:
    """One message, and the labels of the checks that it is about: one cause may fail several."""

    status: Status
    required: bool
    labels: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Step:
    """One rung: what it asks, what it ended as, how many checks it made, and those there is `room` for, the
    ones that did not pass first, then those with a limit."""

    name: str
    asks: str
    status: Status
    word: str
    checks: tuple[Check, ...]
    count: int

    @property
    def floored(self) -> bool:
        """Whether the noise floor of any of them is known."""
        return any(check.floor is not None for check in self.checks)


@dataclass(frozen=True, slots=True)
class Ladder:
    """A verdict's rungs from the cheapest on, in words what decided against a pass, and how much more did not
    pass."""

    steps: tuple[Step, ...]
    said: tuple[Said, ...]
    unsaid: int
    nearest: str


def ladder(verdict: Verdict, room: int) -> Ladder:
    """The ladder of one verdict: as many checks as there is `room` for, but three of each rung; none where
    that is 0."""
    names = _rungs([verdict])
    asks = {rung.NAME: _asks(rung.__doc__) for rung in rungs()}
    steps = []
    for name in names:
        checks = sorted(
            (check for check in verdict.checks if check.rung == name),
            key=lambda one: (_order(one.status), one.limit is None),
        )
        bad = [check for check in checks if check.status in (Status.FAIL, Status.NOT_COMPARABLE)]
        fair = room * len(checks) // max(1, len(verdict.checks))
        share = max(3, fair, min(len(bad), room // 2)) if room else 0
        required = worst(check.status for check in checks if check.required)
        steps.append(
            Step(name, asks.get(name, ""), required, cell(verdict, name), tuple(checks[:share]), len(checks))
        )
    said = [
        Said(one[0].status, one[0].required, tuple(check.label for check in one), one[0].message)
        for one in (
            list(same) for _, same in groupby(told(verdict), lambda check: (check.required, check.message))
        )
    ]
    found = nearest(verdict)
    close = ""
    if found:
        word = "Nearest to" if found[1] <= 1 else "Furthest beyond"
        close = f"{word} its limit: {found[0].label}, {found[1]:.0%} of it"
    decisive = [one for one in said if one.required]
    spelt = decisive[: min(MESSAGES, max(3, room // 4))]
    return Ladder(tuple(steps), tuple(spelt), len(said) - len(spelt), close)


def overview(shown: Sequence[Shown]) -> dict[str, list[tuple[str, ...]]]:
    """The table of recipes down and rungs across: `rungs`, and rows of (label, verdict, cells…)."""
    names = _rungs([one.verdict for one in shown])
    rows = [
        (one.label, str(one.verdict.status), *(cell(one.verdict, name) for name in names)) for one in shown
    ]
    return {"rungs": [(name,) for name in names], "rows": rows}


def headline(shown: Sequence[Shown], broken: Sequence[str] = (), unfinished: Sequence[str] = ()) -> str:
    """What all records amount to, in a sentence."""
    if not shown and not broken and not unfinished:
        return "No record: nothing was shown."
    return " ".join(_sentences(shown, broken, unfinished))


def _sentences(shown: Sequence[Shown], broken: Sequence[str], unfinished: Sequence[str]) -> Iterator[str]:
    passed = sum(one.verdict.status is Status.PASS for one in shown)
    yield f"{passed} of {len(shown) + len(broken) + len(unfinished)} pass."
    for one in shown:
        for status, word in ((Status.FAIL, "fails at"), (Status.NOT_COMPARABLE, "cannot be judged at")):
            if one.verdict.status is status:
                where = dict.fromkeys(check.rung for check in one.verdict.of(status))
                yield f"{one.label} {word} {', '.join(where) or 'every rung: nothing was shown'}."
    if broken:
        yield f"Broke off, and not judged: {', '.join(broken)}."
    if unfinished:
        yield f"Interrupted, and not judged: {', '.join(unfinished)}."


def _rungs(verdicts: Sequence[Verdict]) -> list[str]:
    """The rungs of which there are checks, the ladder's own first."""
    found = dict.fromkeys(check.rung for verdict in verdicts for check in verdict.checks)
    known = [rung.NAME for rung in rungs() if rung.NAME in found]
    return [*known, *(name for name in found if name not in known)]


def _asks(documentation: str | None) -> str:
    """The first sentence of a rung's own documentation, after its number."""
    text = " ".join((documentation or "").split("\n\n")[0].split()).partition(": ")[2]
    ends = [at for mark in ("?", ".", ";") if (at := text.find(mark)) >= 0]
    found = text[: min(ends) + 1] if ends else text
    return found[:1].upper() + found[1:]


def _order(status: Status) -> int:
    return (Status.FAIL, Status.NOT_COMPARABLE, Status.PASS, Status.NOT_APPLICABLE).index(status)
