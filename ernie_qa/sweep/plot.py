"""The front as a drawing: fidelity over memory and over latency, a point an arm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ernie_qa.recipe import REFERENCE
from ernie_qa.report.page.axes import round_numbers
from ernie_qa.sweep.rows import Row
from ernie_qa.verdict import Status

if TYPE_CHECKING:
    from ernie_qa.sweep.rows import Found

MB = 10**6
WIDTH, HEIGHT = 760, 320
_TOP, _FOOT, _PANEL = 34, 262, 300
_LEFTS = (64, 436)
_NEAR = (32, 13)
"""Units of the drawing, across and up, within which two points share one text."""
GREEN, RED, GREY, BLUE = "#2f9e5b", "#d4483f", "#7c8590", "#3b82d6"


def svg(found: Found) -> str:
    """The drawing as a whole SVG file; readable on light and on dark ground. Rows without figures are not in
    it. What stands over points is their rows' numbers."""
    drawn = [row for row in found.rows if row.fidelity is not None]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{GREY}" '
        f'aria-label="{found.measure} over {found.memory} and over latency; the table has the figures">',
        f'<text x="{_LEFTS[0] - 48}" y="16">{found.measure}: lower is better</text>',
        *_panel(drawn, _LEFTS[0], f"{found.memory}, MB", _megabytes),
        *_panel(drawn, _LEFTS[1], "seconds a picture, median", lambda row: row.seconds),
        *_legend(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _megabytes(row: Row) -> float | None:
    return row.memory / MB if row.memory is not None else None


def _panel(rows: Sequence[Row], left: int, title: str, along: Callable[[Row], float | None]) -> Iterator[str]:
    points = [(row, value) for row in rows if (value := along(row)) is not None]
    widths = round_numbers(max([value for _, value in points] + [1e-6]))
    heights = round_numbers(max([row.fidelity or 0.0 for row in rows] + [1e-6]))
    for tick in heights:
        y = _up(tick, heights[-1])
        yield f'<path d="M{left} {y:.1f}h{_PANEL}" stroke="{GREY}" opacity=".3"/>'
        yield f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
    for tick in widths:
        x = left + _PANEL * tick / widths[-1]
        yield f'<text x="{x:.1f}" y="{_FOOT + 18}" text-anchor="middle">{tick:g}</text>'
    yield f'<text x="{left + _PANEL / 2}" y="{_FOOT + 35}" text-anchor="middle">{title}</text>'
    groups: list[list[tuple[float, float, int]]] = []
    for row, value in points:
        x, y = left + _PANEL * value / widths[-1], _up(row.fidelity or 0.0, heights[-1])
        yield _mark(row, x, y)
        if row.name == REFERENCE:
            continue
        near = next((one for one in groups if _are_near(one[0], (x, y))), None)
        if near is None:
            groups.append(near := [])
        near.append((x, y, row.number))
    for group in groups:
        middle = sum(x for x, _, _ in group) / len(group)
        above = min(y for _, y, _ in group) - 8
        said = ", ".join(str(number) for _, _, number in group)
        yield f'<text x="{middle:.1f}" y="{above:.1f}" text-anchor="middle">{said}</text>'


def _are_near(one: tuple[float, float, int], place: tuple[float, float]) -> bool:
    return all(abs(a - b) < most for a, b, most in zip(one[:2], place, _NEAR, strict=True))


def _up(value: float, most: float) -> float:
    return _FOOT - (_FOOT - _TOP) * value / most


def _mark(row: Row, x: float, y: float) -> str:
    if row.name == REFERENCE:
        return f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" fill="{BLUE}"/>'
    if row.front:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{GREEN}"/>'
    if row.status is Status.PASS:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="none" stroke="{GREEN}" stroke-width="1.5"/>'
    cross = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
    return f'<path d="{cross}" stroke="{RED if row.status is Status.FAIL else GREY}" stroke-width="2"/>'


def _legend() -> Iterator[str]:
    entries = (
        (REFERENCE, Status.PASS, False, "BF16"),
        ("", Status.PASS, True, "on the front"),
        ("", Status.PASS, False, "passes"),
        ("", Status.FAIL, False, "fails"),
        ("", None, False, "cannot be told"),
    )
    x = 70.0
    for name, status, front, said in entries:
        yield _mark(Row(0, name, status, None, None, None, False, front, ""), x, HEIGHT - 11)
        yield f'<text x="{x + 10:.0f}" y="{HEIGHT - 7}">{said}</text>'
        x += 44 + 7 * len(said)
