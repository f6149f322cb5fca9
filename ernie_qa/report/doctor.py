"""Findings about this machine as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ernie_qa.report.wrap import wrapped

if TYPE_CHECKING:
    from ernie_qa.doctor import Finding

WORDS = {"ok": "ok", "advice": "advice", "missing": "MISSING"}
COLOURS = {"ok": "32", "advice": "33;1", "missing": "31;1"}
STATE_WIDTH, TOPIC_WIDTH = 9, 14


def lines(findings: Sequence[Finding], *, colour: bool = False, width: int = 80) -> list[str]:
    """A line or more a finding, its advice below it, and a summary."""
    shown = [line for finding in findings for line in _told(finding, colour, width)]
    return [*shown, "", *wrapped(_summary(findings), width)]


def _told(finding: Finding, colour: bool, width: int) -> Iterator[str]:
    first = f"{WORDS[finding.state]:<{STATE_WIDTH}}{finding.topic:<{TOPIC_WIDTH}}"
    below = " " * STATE_WIDTH
    top, *rest = wrapped(finding.found, width, first, below + " " * TOPIC_WIDTH)
    yield _paint(top, finding.state) if colour else top
    yield from rest
    if finding.advice:
        yield from wrapped(finding.advice, width, below, below)


def _summary(findings: Sequence[Finding]) -> str:
    topics = {state: [f.topic for f in findings if f.state == state] for state in WORDS}
    told = f"not ready, missing: {', '.join(topics['missing'])}" if topics["missing"] else "ready"
    if topics["advice"]:
        told += f"; should change: {', '.join(topics['advice'])}"
    return told


def _paint(line: str, state: str) -> str:
    word = WORDS[state]
    return f"\x1b[{COLOURS[state]}m{word}\x1b[0m{line[len(word) :]}"
