"""A run as a static page: `index.html` and, beside it, the pictures that it shows. No server, no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.durable import cannot
from ernie_qa.errors import InputError
from ernie_qa.report.files import write_whole
from ernie_qa.report.page import costs, curves, environment, frame, ladder, sides, triplets
from ernie_qa.report.shown import groups, status_of
from ernie_qa.verdict import Status, worst
from ernie_qa.wording import counted, figure

if TYPE_CHECKING:
    from ernie_qa.report.compare import Comparison
    from ernie_qa.report.shown import Shown
    from ernie_qa.suite import Suite

PAGE = "index.html"
MOST_PICTURES = 12
"""Cases shown for one record, the worst ones; the rest is counted."""
PAIRS = 60
"""Cases shown on one page, of all records together."""

MOST_BYTES = 300_000
"""Of the page, without its pictures. One that is larger is made again with less of its messages."""
CUTS = (1, 2, 4, 8, 1000)
"""By what the room for checks is divided; the last leaves none, and verdict.json has them all."""
LONGEST, SHORTEST = 700, 88
"""Characters of one message in the ladder; above it a message has twice as many."""


def write_page(
    directory: Path,
    shown: Sequence[Shown],
    *,
    suite: Suite | None = None,
    broken: Sequence[str] = (),
    unfinished: Sequence[str] = (),
    comparison: Comparison | None = None,
    most: int | None = None,
) -> Path:
    """Write the page about `shown` into `directory`, and return where it is.

    `suite` has the prompts; without it they are looked for among the shipped suites. `broken` names recipes
    that broke off, `unfinished` those that an interruption left without a verdict. With a `comparison`, its
    pictures are the two records'. At most `most` cases of a record are shown, `MOST_PICTURES` where it is not
    given, or fewer of many records. InputError where nothing can be written there.
    """
    # of one budget: a page about many records must not outgrow a reader
    room = max(12, 360 // max(1, len(shown)))
    if most is None:
        drawn = sum(bool(one.record.pictures) for one in shown)
        most = max(1, min(MOST_PICTURES, PAIRS // max(1, drawn)))
    order = (Status.FAIL, Status.NOT_COMPARABLE, Status.PASS, Status.NOT_APPLICABLE)
    if comparison is None:
        shown = sorted(shown, key=lambda one: order.index(one.verdict.status))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        found = [triplets.of(one, directory, suite, most, comparison) for one in shown]
        # what a reader sees without opening anything: what failed, or else the first pair there is
        pairs = [one for one, pictures in zip(shown, found, strict=True) if pictures.paired]
        first = pairs[0] if pairs and status_of(shown) is not Status.FAIL else None
        made = frame.page("page.html", script="page.js")
        about = {
            "status": _status(shown, [*broken, *unfinished]),
            "headline": _compared(comparison) if comparison else ladder.headline(shown, broken, unfinished),
            "overview": ladder.overview(shown),
            "groups": [
                {
                    "about": group[0].about,
                    "curves": curves.curves(group),
                    "sides": sides.sides(group),
                    "scatter": sides.scatter(group),
                    "costs": [costs.costs(one) for one in group],
                }
                for group in groups(shown)
            ],
            "environment": environment.rows(shown),
            "comparison": comparison,
            "legend": triplets.legend(),
            "columns": sides.COLUMNS,
            "figure": costs.figure,
            "spelt": figure,
            "counted": counted,
            "floored": any(check.floor is not None for one in shown for check in one.verdict.checks),
        }
        for cut in CUTS:
            arms = [
                {
                    "shown": one,
                    "ladder": ladder.ladder(one.verdict, room // cut),
                    "triplets": pictures,
                    "open": one.verdict.status is Status.FAIL or one is first,
                }
                for one, pictures in zip(shown, found, strict=True)
            ]
            page = made(**about, arms=arms, longest=max(SHORTEST, LONGEST // cut))
            if len(page.encode()) < MOST_BYTES:
                break
        write_whole(directory / PAGE, page)
    except OSError as problem:
        raise InputError(cannot(directory / PAGE, problem)) from None
    return directory / PAGE


def _compared(comparison: Comparison) -> str:
    """What a comparison amounts to, which is no verdict."""
    from ernie_qa.report.compare import pictures_line

    said = pictures_line(comparison)
    said = f"{said[:1].upper()}{said[1:]}. This page compares and does not judge"
    return f"{said}; the verdicts below are each record's own."


def _status(shown: Sequence[Shown], unjudged: Sequence[str]) -> Status:
    """What all amount to: a recipe without a verdict is not comparable."""
    return worst([status_of(shown), *(Status.NOT_COMPARABLE for _ in unjudged)])
