"""The transformer's error over the denoising steps, as lines: one a record, one drawing a case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ernie_qa.report.page.axes import COLOURS, Tick, across, ticks, up
from ernie_qa.rungs import components

if TYPE_CHECKING:
    from ernie_qa.report.shown import Shown

DASHES = ("none", "6 3", "2 3", "8 3 2 3")


@dataclass(frozen=True, slots=True)
class Line:
    """One record's errors, None where one is not finite, as stretches of "x,y x,y" between the gaps."""

    label: str
    colour: int
    dash: str
    values: tuple[float | None, ...]
    stretches: tuple[str, ...]
    points: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """One case: its lines, the ticks of both axes, and the `missing` records, with why."""

    case: str
    steps: tuple[Tick, ...]
    errors: tuple[Tick, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The drawings of one group of records, and why some records are in none."""

    cases: tuple[Curves, ...]
    missing: tuple[tuple[str, str], ...]


def curves(shown: Sequence[Shown]) -> Group:
    """The curves of records of one model, suite and machine."""
    by_case: dict[str, list[tuple[int, str, tuple[float | None, ...]]]] = {}
    missing = []
    for number, one in enumerate(shown):
        figures = one.record.figures.get(components.NAME, {})
        found = (figures.get("transformer") or {}).get("curve", {})
        if not found:
            ended = one.record.ended
            why = f"the arm ended at {ended.rung}" if ended else "this record holds no such figures"
            missing.append((one.label, figures.get("why") or why))
        for case, curve in found.items():
            by_case.setdefault(case, []).append((number, one.label, tuple(step["l2"] for step in curve)))
    return Group(tuple(_drawn(case, lines) for case, lines in by_case.items()), tuple(missing))


def _drawn(case: str, lines: list[tuple[int, str, tuple[float | None, ...]]]) -> Curves:
    values = [value for _, _, line in lines for value in line if value is not None]
    most = max([*values, 1e-9])
    count = max(len(line) for _, _, line in lines)
    return Curves(
        case,
        tuple(
            Tick(across(step, 1, max(2, count)), str(step))
            for step in range(1, count + 1)
            if count <= 12 or step in (1, count) or step % (count // 8) == 0
        ),
        ticks(most),
        tuple(_line(number, label, line, count, most) for number, label, line in lines),
    )


def _line(number: int, label: str, line: tuple[float | None, ...], count: int, most: float) -> Line:
    stretches: list[list[str]] = [[]]
    points = []
    for step, value in enumerate(line, 1):
        if value is None:
            stretches.append([])
            continue
        place = (f"{across(step, 1, max(2, count)):.1f}", f"{up(value, ticks(most)):.1f}")
        stretches[-1].append(",".join(place))
        points.append(place)
    return Line(
        label,
        number % COLOURS,
        DASHES[number // COLOURS % len(DASHES)],
        line,
        tuple(" ".join(stretch) for stretch in stretches if stretch),
        tuple(points),
    )
