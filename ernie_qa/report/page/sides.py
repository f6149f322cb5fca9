"""Recipes side by side: how far the pictures are off, what they take in memory, and how long they take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from ernie_qa.recipe import REFERENCE
from ernie_qa.report.page.axes import COLOURS, Tick, across, round_numbers, ticks, up
from ernie_qa.report.page.costs import MB
from ernie_qa.rungs import cost, images, package

if TYPE_CHECKING:
    from ernie_qa.record import Record
    from ernie_qa.report.shown import Shown


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure, said in words, and as shares of the widest in its column; the limit, where one was judged.

    `share` is None where the figure is missing; `said` then tells why.
    """

    said: str
    share: float | None
    limit: float | None
    failed: bool


@dataclass(frozen=True, slots=True)
class Point:
    """One record in the plot: its place and number, and in words its name and the time of a picture."""

    label: str
    said: str
    x: float
    y: float
    number: int
    colour: int


@dataclass(frozen=True, slots=True)
class Scatter:
    """Memory across, LPIPS upwards, a point a record; the records that lack one of the two are named."""

    points: tuple[Point, ...]
    across: tuple[Tick, ...]
    upwards: tuple[Tick, ...]
    missing: tuple[str, ...]


COLUMNS = (
    ("LPIPS, mean", "images.lpips_mean", "", 1.0),
    ("weights in memory", "", "MB", float(MB)),
    ("peak while drawing", "cost.peak_allocated", "MB", float(MB)),
    ("steady latency", "cost.latency", "s", 1.0),
)


def sides(shown: Sequence[Shown]) -> list[tuple[str, tuple[Bar, ...]]]:
    """A row a record: its label and a bar for each of `COLUMNS`."""
    values = [measured(one.record) for one in shown]
    limits = [[_limit(one, check) for _, check, _, _ in COLUMNS] for one in shown]
    widest = [
        max([row[at] or 0.0 for row in values] + [row[at][0] or 0.0 for row in limits] + [1e-12])
        for at in range(len(COLUMNS))
    ]
    return [
        (
            one.label,
            tuple(_bar(one, at, values[row][at], limits[row][at], widest[at]) for at in range(len(COLUMNS))),
        )
        for row, one in enumerate(shown)
    ]


def scatter(shown: Sequence[Shown]) -> Scatter | None:
    """The plot; None where fewer than two records have both figures."""
    found, missing = [], []
    for number, one in enumerate(shown):
        lpips, held, peak, seconds = measured(one.record)
        memory = peak if one.record.fingerprint.gpu else held
        if lpips is None and one.record.recipe.name == REFERENCE:
            lpips = 0.0  # beside itself
        if lpips is None or memory is None:
            missing.append(one.label)
            continue
        time = f", {seconds:.3g} s" if seconds is not None else ", time missing"
        found.append((number, one.label, f"{one.label}{time}", memory / MB, lpips))
    if len(found) < 2:
        return None
    along = round_numbers(max(point[3] for point in found))
    upwards = ticks(max([point[4] for point in found] + [1e-6]))
    points = [
        Point(
            label,
            said,
            across(memory, 0.0, along[-1]),
            up(lpips, upwards),
            number + 1,
            number % COLOURS,
        )
        for number, label, said, memory, lpips in found
    ]
    return Scatter(
        tuple(points),
        tuple(Tick(across(value, 0.0, along[-1]), f"{value:g}", value) for value in along),
        upwards,
        tuple(missing),
    )


def measured(record: Record) -> tuple[float | None, float | None, float | None, float | None]:
    """LPIPS, bytes of weights, peak bytes and seconds, as far as the record holds them."""
    mean = record.figures.get(images.NAME, {}).get("metrics", {}).get("lpips", {}).get("mean")
    lpips = float(mean) if isinstance(mean, int | float) and math.isfinite(mean) else None
    held = [
        sum(one["memory"].values())
        for one in record.figures.get(package.NAME, {}).get("components", {}).values()
    ]
    figures = record.figures.get(cost.NAME, {})
    settled = cost.steady(figures).values() if figures.get("pictures") else ()
    seconds = median(one["seconds"] for one in settled) if settled else None
    if record.fingerprint.gpu and figures.get("pictures"):
        peak = cost.measured(record).get("peak_allocated")
    else:
        whole = cost.took(record)[1]
        peak = float(whole) if whole is not None else None
    return lpips, float(sum(held)) if held else None, peak, seconds


def _limit(one: Shown, name: str) -> tuple[float | None, bool]:
    """The limit that a figure was held against, and whether it failed."""
    for check in one.verdict.checks:
        if check.name == name and check.limit is not None:
            return check.limit, check.status == "fail"
    return None, False


def _bar(one: Shown, at: int, value: float | None, limit: tuple[float | None, bool], widest: float) -> Bar:
    _, _, unit, scale = COLUMNS[at]
    if value is None:
        said = "missing"
        if at == 0 and one.record.recipe.name == REFERENCE:
            said = "BF16 itself"
        elif at == 0 and one.record.model.weights == "random":
            said = "not applicable: random weights"
        return Bar(said, None, None, False)
    said = f"{value / scale:,.0f} {unit}" if unit == "MB" else f"{value / scale:.3g} {unit}".rstrip()
    bound, failed = limit
    return Bar(said, value / widest, bound / widest if bound is not None else None, failed)
