"""The verdict table: recipes down, rungs across, readable at 80 columns without colour."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from ernie_qa.report.wrap import table, wrapped
from ernie_qa.rungs import BASELINE
from ernie_qa.verdict import Check, Status, Verdict, worst

WORDS = {
    Status.PASS: "pass",
    Status.FAIL: "FAIL",
    Status.NOT_COMPARABLE: "unclear",
    Status.NOT_APPLICABLE: "-",
}
COLOURS = {Status.PASS: "32", Status.FAIL: "31;1", Status.NOT_COMPARABLE: "33;1", Status.NOT_APPLICABLE: "2"}
NEAREST = "of limit"
LEGEND: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("in brackets: decides nothing", lambda text: text.startswith("(")),
    ("unclear: could not be judged", lambda text: WORDS[Status.NOT_COMPARABLE] in text.lower()),
    ("-: does not concern it", lambda text: text == WORDS[Status.NOT_APPLICABLE]),
)
"""What a word in the table means, and the cells that it is told for."""
MESSAGES = 8
"""Failing checks spelt out for one recipe; the rest is counted."""


def lines(verdicts: Sequence[Verdict], *, colour: bool = False, width: int = 80) -> list[str]:
    """The table, and below it what each check that did not pass has to say."""
    return [
        *_table(verdicts, colour, width),
        *_positions(verdicts),
        *_messages(verdicts, colour, width),
    ]


def nearest(verdict: Verdict) -> tuple[Check, float] | None:
    """The required figure closest to its recipe's limit, or furthest beyond it, with the share of it used up.

    A baseline's limits are left out: they lie just beyond what was accepted, so every figure is near.
    """
    used = [
        (check, share)
        for check in verdict.checks
        if check.required and check.rung != BASELINE and (share := _share(check)) is not None
    ]
    return max(used, key=lambda pair: pair[1], default=None)


def _positions(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Where the means lie between BF16's own noise and another seed; nothing where that is not known."""
    found = {
        verdict.recipe: {
            check.name.partition(".")[2]: f"{check.position:.1%}"
            for check in verdict.checks
            if check.position is not None and check.name.endswith("_mean") and check.unit != "dB"
        }
        for verdict in verdicts
    }
    names = list(dict.fromkeys(name for cells in found.values() for name in cells))
    if names:
        rows = [
            [recipe, *(cells.get(name, "") for name in names)] for recipe, cells in found.items() if cells
        ]
        yield from table(("beside BF16", *names), rows)
        yield "0% is BF16 under a change that ought not to matter, 100% BF16 with another seed"


def _share(check: Check) -> float | None:
    """How much of its limit a figure uses up, above 1 where it is beyond; None where that says nothing.

    Upper limits: measured / limit. Lower ones: for a similarity, the share of the distance from 1; in dB, the
    ratio of what the decibels stand for; else limit / measured. A check does not say which kind its limit is,
    but its status does: within and below is an upper one.
    """
    measured, limit = check.measured, check.limit
    if measured is None or limit is None or check.status not in (Status.PASS, Status.FAIL):
        return None
    if measured <= 0 or limit <= 0 or measured == limit:
        return None
    if (measured < limit) == (check.status is Status.PASS):
        return measured / limit
    if check.unit == "dB":
        return float(10 ** ((limit - measured) / 10))
    if not check.unit and measured <= 1 and limit < 1:
        return (1 - measured) / (1 - limit)
    return limit / measured


def _table(verdicts: Sequence[Verdict], colour: bool, width: int) -> Iterator[str]:
    rungs = [
        rung
        for rung in dict.fromkeys(check.rung for verdict in verdicts for check in verdict.checks)
        if any(cell(verdict, rung) != WORDS[Status.NOT_APPLICABLE] for verdict in verdicts)
    ]
    header = ["recipe", *rungs, "verdict"]
    rows = [
        [
            verdict.recipe,
            *(cell(verdict, rung) for rung in rungs),
            WORDS[verdict.status].upper(),
        ]
        for verdict in verdicts
    ]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    room = width - sum(size + 2 for size in widths)
    titles = [name.ljust(size) for name, size in zip(header, widths, strict=True)]
    used = {verdict.recipe: found for verdict in verdicts if (found := _nearest_cell(verdict))}
    # with every rung in the table there may be no room for it
    beside = bool(used) and room >= max(map(len, (NEAREST, *used.values())))
    yield "  ".join([*titles, NEAREST] if beside else titles).rstrip()
    for verdict, row in zip(verdicts, rows, strict=True):
        statuses = [None, *(_of_rung(verdict, rung) for rung in rungs), verdict.status]
        painted = [
            _paint(cell.ljust(size), status, colour)
            for cell, size, status in zip(row, widths, statuses, strict=True)
        ]
        yield "  ".join([*painted, used.get(verdict.recipe, "") if beside else ""]).rstrip()
    cells = [text for row in rows for text in row[1:]]
    if legend := [said for said, shown in LEGEND if any(map(shown, cells))]:
        yield "; ".join(legend)
    if not beside:
        yield from table(("recipe", NEAREST), list(used.items()))


def cell(verdict: Verdict, rung: str) -> str:
    """What a rung amounts to, and that it would be something else without a waiver; in brackets where it
    decides nothing."""
    waived = {waiver.check for waiver in verdict.waivers if not waiver.expired}
    silenced = any(
        check.status in (Status.FAIL, Status.NOT_COMPARABLE) and waived & {check.name, check.label}
        for check in verdict.checks
        if check.rung == rung
    )
    status = _of_rung(verdict, rung)
    if silenced and status is not Status.FAIL:
        return "waived"
    if status is Status.NOT_APPLICABLE:
        shown = worst(check.status for check in verdict.checks if check.rung == rung)
        return WORDS[shown] if shown is status else f"({WORDS[shown]})"
    return WORDS[status]


def _of_rung(verdict: Verdict, rung: str) -> Status:
    return worst(check.status for check in verdict.checks if check.rung == rung and check.required)


def _nearest_cell(verdict: Verdict) -> str:
    """How much of its limit the nearest figure uses up, and its name; empty where there is none."""
    found = nearest(verdict)
    return f"{found[1]:.0%} {found[0].name.rpartition('.')[2]}" if found else ""


def _messages(verdicts: Sequence[Verdict], colour: bool, width: int) -> Iterator[str]:
    noted: dict[str, list[str]] = {}
    for verdict in verdicts:
        for check in told(verdict):
            if not check.required and verdict.recipe not in noted.setdefault(check.message, []):
                noted[check.message].append(verdict.recipe)
    for verdict in verdicts:
        # what decides nothing and holds for several recipes is told once
        spoken = [
            check for check in told(verdict) if check.required or noted[check.message][0] == verdict.recipe
        ]
        # one cause may fail several checks, which then say the same
        groups = [list(group) for _, group in groupby(spoken, lambda check: (check.required, check.message))]
        for group in groups[:MESSAGES]:
            check, others = group[0], len(group) - 1
            word = WORDS[check.status] if check.required else "note"
            more = f" and {others} more" if others else ""
            yield ""
            recipes = verdict.recipe if check.required else ", ".join(noted[check.message])
            first, *rest = wrapped(f"{word}  {recipes}  {check.label}{more}", width, "", "  ")
            yield _paint(word, check.status, colour) + first.removeprefix(word)
            yield from rest
            yield from wrapped(check.message, width, "  ", "  ")
        if left := sum(map(len, groups[MESSAGES:])):
            yield f"  and {left} more checks of {verdict.recipe} that did not pass"
        for waiver in verdict.waivers:
            yield ""
            yield from wrapped(f"{verdict.recipe}  {waiver}", width, "", "  ")


def told(verdict: Verdict) -> list[Check]:
    """The checks that are told in words: what failed, what could not be judged, what decides nothing."""
    order = (Status.FAIL, Status.NOT_COMPARABLE)
    found = [check for check in verdict.checks if check.status in order]
    return sorted(found, key=lambda check: (not check.required, order.index(check.status)))


def _paint(text: str, status: Status | None, colour: bool) -> str:
    if not colour or status is None:
        return text
    bare = text.rstrip()
    return f"\x1b[{COLOURS[status]}m{bare}\x1b[0m{text[len(bare) :]}"
