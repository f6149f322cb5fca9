"""What a sweep found: a row an arm, with its fidelity, memory and latency, and which are on the front."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from ernie_qa.recipe import REFERENCE
from ernie_qa.report.page.sides import measured
from ernie_qa.rungs import components
from ernie_qa.sweep.pareto import pareto
from ernie_qa.verdict import Status

if TYPE_CHECKING:
    from ernie_qa.execute import Session
    from ernie_qa.record import Record
    from ernie_qa.verdict import Verdict

LPIPS = "LPIPS, mean"
ERROR = "worst component's error (L2, mean)"
"""What fidelity is where no picture can be compared: weights are random, or no arm drew any."""


@dataclass(frozen=True, slots=True)
class Row:
    """One arm: `fidelity` in `Found.measure`, `memory` in bytes, `seconds` a picture, None where nobody
    measured; `status` is None where it has no verdict. `stopped` says that it drew no picture, `note` why it
    is not on the front, or that it is the reference."""

    number: int
    name: str
    status: Status | None
    fidelity: float | None
    memory: float | None
    seconds: float | None
    stopped: bool
    front: bool
    note: str


@dataclass(frozen=True, slots=True)
class Found:
    """All rows, BF16's first; what fidelity and memory are; the pictures that arms stopped early
    did not draw are `cases` for each, and the run `took` so many seconds."""

    rows: tuple[Row, ...]
    measure: str
    memory: str
    cases: int
    unfinished: tuple[str, ...]
    took: float

    @property
    def arms(self) -> tuple[Row, ...]:
        """The rows without the reference."""
        return tuple(row for row in self.rows if row.name != REFERENCE)

    @property
    def stopped(self) -> tuple[Row, ...]:
        """The arms that failed before a picture was drawn."""
        return tuple(row for row in self.rows if row.stopped)

    @property
    def estimate(self) -> float | None:
        """Seconds that drawing the pictures of the stopped arms would have taken, if each took the median of
        what a picture took in the arms that drew."""
        timed = [row.seconds for row in self.arms if row.seconds is not None]
        return median(timed) * self.cases * len(self.stopped) if timed else None


def found(session: Session, took: float) -> Found:
    """What `session` found in so many seconds."""
    records = session.records
    verdicts = {outcome.verdict.recipe: outcome.verdict for outcome in session.outcomes}
    figures = {name: measured(record) for name, record in records.items()}
    by_lpips = any(one[0] is not None for one in figures.values())
    on_gpu = any(record.fingerprint.gpu for record in records.values())
    rows = []
    for number, name in enumerate(dict.fromkeys((REFERENCE, *(one.name for one in session.plan.recipes)))):
        if name not in records:
            note = "broke off" if name in session.broken else "not run: interrupted"
            rows.append(Row(number, name, None, None, None, None, False, False, note))
            continue
        record, (lpips, held, peak, seconds) = records[name], figures[name]
        fidelity = lpips if by_lpips else _error(record)
        rows.append(
            Row(
                number,
                name,
                verdicts[name].status if name in verdicts else None,
                0.0 if name == REFERENCE else fidelity,
                peak if on_gpu else held,
                seconds,
                record.ended is not None,
                False,
                "the reference" if name == REFERENCE else _note(record, verdicts.get(name)),
            )
        )
    return Found(
        tuple(_with_front(rows)),
        LPIPS if by_lpips else ERROR,
        "peak allocated" if on_gpu else "weights in memory",
        len(session.plan.suite.cases),
        session.unfinished,
        took,
    )


def _with_front(rows: list[Row]) -> list[Row]:
    """The rows with what is on the front marked: of the reference and the arms that pass."""
    figures = {
        row.number: (row.fidelity, row.memory, row.seconds)
        for row in rows
        if row.fidelity is not None and row.memory is not None and row.seconds is not None
        and (row.status is Status.PASS or row.name == REFERENCE)
    }  # fmt: skip
    front = dict(zip(figures, pareto(list(figures.values())), strict=True))
    marked = []
    for row in rows:
        note = row.note
        if front.get(row.number) and row.name != REFERENCE:
            note = "front"
        elif row.number in front and not note:
            note = "beaten by another arm"
        elif row.status is Status.PASS and not note:
            note = "a figure is missing"
        marked.append(replace(row, front=bool(front.get(row.number)), note=note))
    return marked


def _error(record: Record) -> float | None:
    figures = record.figures.get(components.NAME, {})
    parts = (figures.get(name) or {} for name in ("text_encoder", "transformer"))
    errors = [part["l2_mean"] for part in parts if part.get("l2_mean") is not None]
    return max(errors, default=None)


def _note(record: Record, verdict: Verdict | None) -> str:
    if record.ended:
        return f"stopped early: {record.ended.check}"
    for status in (Status.FAIL, Status.NOT_COMPARABLE):
        if verdict and (checks := verdict.of(status)):
            more = f" and {len(checks) - 1} more" if len(checks) > 1 else ""
            return f"{checks[0].label}{more}"
    return ""
