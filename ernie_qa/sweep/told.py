"""A sweep told to a person: in the terminal, and as a page with the plot."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.recipe import REFERENCE
from ernie_qa.report.files import write_whole
from ernie_qa.report.page import PAGE, asset, source, write_page
from ernie_qa.report.shown import of_session
from ernie_qa.report.wrap import table, wrapped
from ernie_qa.sweep.plot import MB, svg
from ernie_qa.verdict import Status
from ernie_qa.wording import counted, figure

if TYPE_CHECKING:
    from ernie_qa.sweep.rows import Found, Row
    from ernie_qa.sweep.run import Swept

FRONT, PLOT = "sweep.html", "sweep.svg"
MARK = "*"
"""What stands before an arm on the front."""


def lines(found: Found, swept: Swept, width: int = 80) -> Iterator[str]:
    """The table for a terminal, and what stopping early saved."""
    header = ("", "#", "arm", "verdict", found.measure, found.memory, "a picture", "")
    shown = []
    for row in found.rows:
        # the error itself is a line of its own
        note = "broke off" if row.name in swept.errors else row.note
        shown.append((MARK if row.front and row.name != REFERENCE else " ", *cells(row)[:-1], note))
    yield from list(table(header, shown))[1:]
    yield ""
    for said in sentences(found, swept):
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


def sentences(found: Found, swept: Swept) -> Iterator[str]:
    """How many passed, what the front is, and what stopping early saved."""
    passed = sum(row.status is Status.PASS for row in found.arms)
    front = sum(row.front for row in found.arms)
    of = counted(len(found.arms), "arm")
    yield (
        f"{passed} of {of} {'passes' if passed == 1 else 'pass'}, {front} on the Pareto "
        f"front of fidelity, {found.memory} and seconds a picture; all took {swept.seconds:.0f} s."
    )
    if found.stopped:
        count = len(found.stopped)
        drawn = counted(count * found.cases, "picture")
        cost = found.estimate
        about = f": about {cost:.0f} s saved, an estimate from the arms that drew" if cost is not None else ""
        yield f"{counted(count, 'arm')} stopped early, {drawn} not drawn{about}."
    if found.unfinished:
        yield f"Interrupted, and not run to the end: {', '.join(found.unfinished)}."


def write(directory: Path, found: Found, swept: Swept) -> Path:
    """Write the plot, the front's page, and the report page of all arms beside their records; the front's."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    session = swept.session
    templates = Environment(
        loader=PackageLoader("ernie_qa.sweep"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    plot, style = svg(found), asset("style.css")
    page = templates.get_template("sweep.html").render(
        model=session.plan.model.name,
        suite=session.plan.suite.title,
        device=session.plan.device,
        sentences=list(sentences(found, swept)),
        rows=[(row, cells(row)) for row in found.rows],
        found=found,
        plot=Markup(plot),
        all_arms=PAGE,
        style=Markup(style),
        style_hash=source(style),
        version=version("ernie-qa"),
    )
    write_page(
        directory,
        of_session(session),
        suite=session.plan.suite,
        broken=session.broken,
        unfinished=session.unfinished,
    )
    write_whole(directory / PLOT, plot)
    write_whole(directory / FRONT, page)
    return directory / FRONT


def _status(status: Status | None) -> str:
    return "no verdict" if status is None else str(status).replace("_", " ")
