"""Figures as a card's cells have them. What is None was not measured, and says so."""

from __future__ import annotations

import re
from collections.abc import Mapping

from markupsafe import Markup

from ernie_qa.report.summary import escaped

MISSING = "not measured"
MIB = 2**20
_HARMLESS = re.compile(r"&#(34|39|63);|&#58;(?= |$)|(?<=\w)&#95;(?=\w)")
"""Quotes and question marks, a colon before a space, and an underscore within a word: Markdown takes them as
they are, and a card is read as text too."""
_PLAIN = re.compile(r"[\w.+/@:=, -]+")
"""What stands in a code span as it is: nothing in it ends the span or a table's cell."""


def shown(value: object) -> Markup:
    """`value` as Markdown shows it: escaped, unless it is `Markup` already. What a template puts in
    everywhere."""
    if isinstance(value, Markup):
        return value
    return Markup(_HARMLESS.sub(lambda found: chr(int(found[0][2:-1])), escaped(str(value))))


def code(text: str) -> Markup:
    """`text` as a code span; escaped text where no span can hold it."""
    return Markup(f"`{text}`") if _PLAIN.fullmatch(text) and text.strip() == text else shown(text)


def seconds(value: float | None) -> str:
    """Seconds with two digits, below 0.1 with two that count."""
    if value is None:
        return MISSING
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def mib(peaks: Mapping[str, int | None], kind: str) -> str:
    """One of the peaks in MiB."""
    value = peaks.get(kind)
    return MISSING if value is None else f"{value / MIB:.0f}"


def size(value: int | None) -> str:
    """Bytes, in full."""
    return MISSING if value is None else f"{value:,} B"


def reduction(before: int | None, after: int | None) -> str:
    """By which share `after` is less than `before`; a growth has a minus."""
    if before is None or after is None:
        return MISSING
    return f"{1 - after / before:.2%}" if before else "not applicable"


def times(before: float | None, after: float | None, less: str, more: str) -> str:
    """How many times `after` is less, or more, than `before`, in words."""
    if before is None or after is None:
        return MISSING
    if min(before, after) <= 0:
        return "the same" if before == after else "not applicable"
    if f"{before / after:.2f}" == "1.00":
        return "the same"
    return f"{before / after:.2f}x {less}" if before > after else f"{after / before:.2f}x {more}"


def score(value: object, unit: str = "") -> str:
    """A picture's score, four digits that count."""
    if value is None:
        return MISSING
    return f"{value:.4g} {unit}".rstrip() if isinstance(value, int | float) else str(value)
