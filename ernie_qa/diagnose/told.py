"""A diagnosis for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ernie_qa.doctor.findings import GIB
from ernie_qa.report.wrap import wrapped

if TYPE_CHECKING:
    from ernie_qa.diagnose import Diagnosis

COLOURS = {"cause": "31;1", "suspect": "33;1", "advice": "36"}
WIDTH = 9


def lines(found: Diagnosis, *, colour: bool = False, width: int = 80) -> Iterator[str]:
    """What it is, a paragraph a finding, and what was not looked at."""
    recipe = f"recipe {found.recipe} ({found.source})" if found.recipe else "no recipe found"
    yield from wrapped(f"{found.model}: {recipe}", width)
    yield ""
    for number, one in enumerate(found.findings, 1):
        first = f"{number}. {one.blame.upper()} "
        below = " " * (len(f"{number}. "))
        top, *rest = wrapped(f"{one.where}: {one.found}", width, first, below)
        yield top.replace(one.blame.upper(), _painted(one.blame.upper(), one.blame), 1) if colour else top
        yield from rest
        yield from wrapped(f"-> {one.advice}", width, below, f"{below}   ")
    if found.findings:
        yield ""
    yield from wrapped(_summary(found), width)
    if found.unseen:
        yield ""
        yield "not looked at:"
        for said in found.unseen:
            yield from wrapped(said, width, "  - ", "    ")


def _painted(word: str, blame: str) -> str:
    return f"\x1b[{COLOURS[blame]}m{word}\x1b[0m"


def _summary(found: Diagnosis) -> str:
    looked = [f"its capsule ({found.capsule})"] if found.ran and found.ran.compared is not None else []
    if found.ran and found.ran.looked:
        looked.append(f"{len(found.ran.looked.checks)} checks of its package and of what runs")
    if found.calls:
        looked.append(f"the settings of {len(found.calls)} call{'s' if len(found.calls) > 1 else ''}")
    looked.append(f"memory ({found.memory['free'] / GIB:.1f} GiB free) and this machine")
    seen = f"looked at {', '.join(looked)}"
    if found.clean:
        return f"nothing found that is to blame; {seen}"
    count = sum(one.blame != "advice" for one in found.findings)
    return f"{count} to blame, the likeliest first; {seen}"
