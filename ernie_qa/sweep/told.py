"""A sweep told to a person: in the terminal, and as a page with the plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from ernie_qa.recipe import REFERENCE
from ernie_qa.report.files import write_whole
from ernie_qa.report.page import PAGE, frame
from ernie_qa.report.wrap import table, wrapped
from ernie_qa.report.written import write_report
from ernie_qa.sweep.as_recipe import as_recipe
from ernie_qa.sweep.plot import MB, svg
from ernie_qa.verdict import Status
from ernie_qa.wording import counted, figure

if TYPE_CHECKING:
    from ernie_qa.execute import Session
    from ernie_qa.sweep.rows import Found, Row

FRONT, PLOT = "sweep.html", "sweep.svg"
RECIPES = "recipes"
"""The directory of the arms' recipes, a file each."""
MARK = "*"
"""What stands before an arm on the front."""


def lines(found: Found, width: int = 80) -> Iterator[str]:
    """The table for a terminal, and what stopping early saved."""
    header = ("", "#", "arm", "verdict", found.measure, found.memory, "a picture", "")
    shown = [(MARK if row.front and row.name != REFERENCE else " ", *cells(row)) for row in found.rows]
    yield from list(table(header, shown))[1:]
    yield ""
    for said in sentences(found):
        yield from wrapped(said, width)


def cells(row: Row) -> tuple[str, ...]:
    """Number, name, verdict, fidelity, memory, latency and note in words; a dash where nobody measured."""
    return (
        str(row.number),
        row.name,
        "" if row.name == REFERENCE and row.status is None else _status(row.status),
        "-" if row.fidelity is None else figure(row.fidelity, 3),
        "-" if row.memory is None else f"{row.memory / MB:,.1f} MB",
        "-" if row.seconds is None else f"{figure(row.seconds, 3)} s",
        row.note,
    )


def sentences(found: Found) -> Iterator[str]:
    """How many passed, what the front is, and what stopping early saved."""
    passed = sum(row.status is Status.PASS for row in found.arms)
    front = sum(row.front for row in found.arms)
    of = counted(len(found.arms), "arm")
    yield (
        f"{passed} of {of} {'passes' if passed == 1 else 'pass'}, {front} on the Pareto "
        f"front of fidelity, {found.memory} and seconds a picture; this run took {found.took:.0f} s."
    )
    if found.stopped:
        count = len(found.stopped)
        drawn = counted(count * found.cases, "picture")
        cost = found.estimate
        about = f": about {cost:.0f} s saved, an estimate from the arms that drew" if cost is not None else ""
        yield f"{counted(count, 'arm')} stopped early, {drawn} not drawn{about}."
    if found.unfinished:
        yield f"Interrupted, and not run to the end: {', '.join(found.unfinished)}."


def write(directory: Path, found: Found, session: Session) -> Path:
    """Write what a gate's report holds, with the arms' recipes, the plot and the front's page beside it; the
    front's."""
    write_report(directory, session)
    plot = svg(found)
    text = frame.page("sweep.html", "ernie_qa.sweep")(
        model=session.plan.model.name,
        suite=session.plan.suite.title,
        device=session.plan.device,
        sentences=list(sentences(found)),
        rows=[(row, cells(row)) for row in found.rows],
        found=found,
        plot=Markup(plot),
        all_arms=PAGE,
        recipes=RECIPES,
    )
    (directory / RECIPES).mkdir(exist_ok=True)
    for arm in session.plan.recipes:
        write_whole(directory / RECIPES / f"{arm.name}.toml", as_recipe(arm))
    write_whole(directory / PLOT, plot)
    write_whole(directory / FRONT, text)
    return directory / FRONT


def _status(status: Status | None) -> str:
    return "no verdict" if status is None else str(status).replace("_", " ")
