"""The verdict as Markdown, for GitHub's job summary and for a comment on a pull request."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from ernie_qa.report.page.ladder import Said, headline, ladder, overview
from ernie_qa.verdict import Status

if TYPE_CHECKING:
    from ernie_qa.report.compare import Comparison
    from ernie_qa.report.shown import Shown

VARIABLE = "GITHUB_STEP_SUMMARY"
FILE = "verdict.md"
MESSAGES = 5
"""Failing checks spelt out for one record."""
LONGEST = 400
"""Characters of one message."""
MOST = 60_000
"""Characters in all: GitHub takes 65,536 in a comment and 1 MiB in a step's summary."""
WORDS = {
    Status.PASS: "✅ pass",
    Status.FAIL: "❌ fail",
    Status.NOT_COMPARABLE: "⚠️ not comparable",
    Status.NOT_APPLICABLE: "not applicable",
}


def markdown(shown: Sequence[Shown], broken: Sequence[str] = (), unfinished: Sequence[str] = ()) -> str:
    """What the records amount to: a table of recipes and rungs, and what did not pass."""
    return _cut("\n".join(_lines(shown, headline(shown, broken, unfinished))) + "\n")


def markdown_of(comparison: Comparison) -> str:
    """Two records beside each other."""
    a, b = map(escaped, comparison.names)
    told = [f"### ernie-qa: {a} beside {b}", ""]
    told += [f"- not comparable: {escaped(reason)}" for reason in comparison.reasons]
    told += [f"- {escaped(note)}" for note in comparison.notes]
    told += ["", f"| figure | A: {a} | B: {b} | B is |", "|---|---:|---:|---|"]
    told += [
        f"| {escaped(row.name)} | {escaped(row.a)} | {escaped(row.b)} | {escaped(row.change)} |"
        for row in comparison.rows
        if row.verdict != "same"
    ]
    return _cut("\n".join(told) + "\n")


def append_summary(text: str) -> bool:
    """Append `text` to the file that GitHub named for this step; False where there is none, or it cannot be
    written to: a summary decides nothing, and no gate fails over it."""
    place = os.environ.get(VARIABLE)
    if not place:
        return False
    try:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError:
        return False
    return True


def escaped(text: str) -> str:
    """`text` as Markdown shows it, in one line: no markup, HTML, link or mention in it does anything."""
    flat = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    # one after a word would still mention or link
    return re.sub(r"[^\w\s.,;()%+=/-]|_|(?<=w)\.|(?<=:)/", _entity, flat)


def _entity(found: re.Match[str]) -> str:
    letter = found[0]
    if not letter.isascii():
        return letter
    # GitHub looks for mentions, issues and addresses once more in the text that it has rendered: a space of
    # no width is between
    return f"&#{ord(letter)};" + ("&#8203;" if letter in "@#" else "")


def _lines(shown: Sequence[Shown], amount: str) -> Iterator[str]:
    yield "### ernie-qa"
    yield ""
    yield escaped(amount)
    for about in dict.fromkeys(one.about for one in shown):
        yield ""
        yield escaped(about)
    table = overview(shown)
    if table["rows"]:
        names = [escaped(name) for (name,) in table["rungs"]]
        yield ""
        yield f"| recipe | verdict | {' | '.join(names)} |"
        yield "|---|---|" + "---|" * len(names)
        for label, status, *cells in table["rows"]:
            yield f"| {escaped(label)} | {WORDS[Status(status)]} | {' | '.join(map(escaped, cells))} |"
    for one in shown:
        found = ladder(one.verdict, 8 * MESSAGES)
        told = [said for said in found.said if said.required]
        if not told:
            continue
        yield ""
        yield f"**{escaped(one.label)}**"
        yield ""
        yield from map(_message, told[:MESSAGES])
        if len(told) > MESSAGES:
            yield "- and more, which the report holds"


def _message(said: Said) -> str:
    message = shorten(said.message, LONGEST, placeholder=" …", break_on_hyphens=False)
    more = f" and {len(said.labels) - 1} more" if len(said.labels) > 1 else ""
    return f"- {WORDS[said.status]} {escaped(said.labels[0])}{more}: {escaped(message)}"


def _cut(text: str) -> str:
    """`text` as far as it fits, in whole lines."""
    if len(text) <= MOST:
        return text
    return text[: text.rfind("\n", 0, MOST)] + "\n\ncut here: the report has all of it\n"
