"""What accepting would change, as lines: each figure's change beside its noise, and what its limit does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ernie_qa.baseline.accepted import Figure
    from ernie_qa.baseline.change import Change

RED = "31;1"
HEADER = ("figure", "accepted", "candidate", "of noise", "limit")


def change_lines(changes: Sequence[Change], *, colour: bool = False) -> list[str]:
    """The changes by recipe, a figure a line, in `colour` red where more would pass than before; figures
    that stay as they are are counted."""
    return [
        line for name, group in groupby(changes, _recipe) for line in _recipe_lines(name, list(group), colour)
    ]


def _recipe(change: Change) -> str:
    return change.recipe


def _recipe_lines(recipe: str, changes: Sequence[Change], colour: bool) -> Iterator[str]:
    changed = [change for change in changes if not _stays(change)]
    rows = [_row(change) for change in changed]
    yield ""
    if not rows:
        yield f"{recipe}: nothing changes"
        return
    if all(change.kind == "new" for change in changes):
        yield f"{recipe}: nothing was accepted before"
    else:
        yield f"{recipe}: {len(rows)} of {len(changes)} figures change"
    widths = [max(len(row[column]) for row in (HEADER, *rows)) for column in range(len(HEADER))]
    loosens = (False, *(change.loosens for change in changed))
    for row, red in zip((HEADER, *rows), loosens, strict=True):
        first, *others = (
            cell.ljust(width) if column in (0, 4) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        line = "  ".join(("", first, *others)).rstrip()
        yield f"\x1b[{RED}m{line}\x1b[0m" if red and colour else line


def _stays(change: Change) -> bool:
    old, new = change.old, change.new
    return change.kind == "same" and old is not None and new is not None and old.typical == new.typical


def _row(change: Change) -> tuple[str, str, str, str, str]:
    old, new = change.old, change.new
    return (
        change.name,
        _value(old) if old else "-",
        _value(new) if new else "-",
        _of_noise(old, new) if old and new else "-",
        _limit(change),
    )


def _value(figure: Figure) -> str:
    return _number(figure.typical, figure.unit)


def _number(value: float, unit: str) -> str:
    if unit in ("B", "layers"):
        return f"{value:,.0f} {unit}"
    return f"{value:.4g} {unit}".rstrip()


def _of_noise(old: Figure, new: Figure) -> str:
    """The change as a share of what the accepted figure may change by: +7% is for the worse."""
    change = new.typical - old.typical
    worse = change if old.better == "lower" else -change
    if change == 0:
        return "0%"
    if not old.noise:
        return "worse" if worse > 0 else "better"
    return f"{worse / old.noise:+.0%}"


def _limit(change: Change) -> str:
    new = change.new
    if new is None:
        return "gone"
    if new.limit is None:
        return f"{change.kind}: none, from too few runs"
    bound = "no worse" if new.limit == new.typical else _number(new.limit, new.unit)
    if change.kind in ("new", "same"):
        return f"{change.kind}: {bound}"
    factor = f" x{change.factor:.3g}" if change.factor is not None else ""
    return f"{change.kind}{factor}: {bound}"
