"""What a record cost: time and memory beside their budgets, and each stage's share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from ernie_qa.rungs import cost
from ernie_qa.verdict import Status
from ernie_qa.wording import figure as spelt

if TYPE_CHECKING:
    from ernie_qa.record import Record
    from ernie_qa.report.shown import Shown

MB = 10**6


@dataclass(frozen=True, slots=True)
class Row:
    """One figure in words, its limit in words, and what the check ended as; `share` of the limit, if any."""

    title: str
    said: str
    limit: str
    status: Status
    share: float | None


@dataclass(frozen=True, slots=True)
class Costs:
    """One record: its rows, each stage's seconds (name, said, share of the whole, where it begins), and why
    something is missing."""

    label: str
    rows: tuple[Row, ...]
    stages: tuple[tuple[str, str, float, float], ...]
    note: str


def costs(one: Shown) -> Costs:
    """What `one` cost; figures without a limit are told as recorded."""
    record = one.record
    figures = record.figures.get(cost.NAME, {})
    if not figures.get("pictures"):
        return Costs(one.label, (), (), "missing: the record holds no figures of this rung")
    note = f"{figures['residency'].replace('_', ' ').capitalize()}."
    if record.fingerprint.gpu is None:
        note += " On a CPU, time and memory are recorded and not judged."
    return Costs(one.label, tuple(_rows(one)), tuple(_stages(record)), note)


def _rows(one: Shown) -> Iterator[Row]:
    judged = [
        check for check in one.verdict.checks
        if check.rung == cost.NAME and check.measured is not None and check.case is None
    ]  # fmt: skip
    if one.record.fingerprint.gpu is None:
        for title, said in recorded(one.record):
            yield Row(title, said, "", Status.NOT_APPLICABLE, None)
        return
    for check in judged:
        assert check.measured is not None
        limit = figure(check.limit, check.unit) if check.limit is not None else ""
        share = check.measured / check.limit if check.limit else None
        title = check.name.partition(".")[2].replace("_", " ")
        yield Row(title, figure(check.measured, check.unit), limit, check.status, share)


def recorded(record: Record) -> Iterator[tuple[str, str]]:
    """What was measured of a record on a CPU: (what, said)."""
    figures = record.figures[cost.NAME]
    drawn = list(figures["pictures"].values())
    if load := figures["load"]:
        yield "loading", figure(load["seconds"], "s")
    yield "first picture", figure(drawn[0]["seconds"], "s")
    if settled := [one["seconds"] for one in cost.steady(figures).values()]:
        yield "steady latency, median", figure(median(settled), "s")
        yield "its range", f"{figure(min(settled), 's')} to {figure(max(settled), 's')}"
    peak = cost.took(record)[1]
    if peak is not None:
        yield "peak resident while drawing", figure(peak, "B")


def figure(value: float, unit: str) -> str:
    """A figure with its unit, bytes in megabytes."""
    return f"{value / MB:,.1f} MB" if unit == "B" else f"{spelt(value)} {unit}".rstrip()


def _stages(record: Record) -> Iterator[tuple[str, str, float, float]]:
    """Each stage's share of the steady pictures."""
    settled = list(cost.steady(record.figures[cost.NAME]).values())
    total = sum(one["seconds"] for one in settled)
    names = dict.fromkeys(stage for one in settled for stage in one["stages"])
    begin = 0.0
    for name in names:
        spent = sum(one["stages"].get(name, 0.0) for one in settled)
        if total and spent:
            yield name, figure(spent / len(settled), "s"), spent / total, begin
            begin += spent / total
    if total and begin < 1:
        yield "the rest", figure((1 - begin) * total / len(settled), "s"), 1 - begin, begin
