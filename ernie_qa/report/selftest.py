"""What `ernie-qa selftest` found, as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ernie_qa.report.wrap import table, wrapped

if TYPE_CHECKING:
    from ernie_qa.faults import Fault
    from ernie_qa.selftest import Result
    from ernie_qa.selftest.row import Row

SCHEMA = 1
FAULTS = ("fault", "recipe", "expected", "caught by", "measured", "limit", "by")
CLEAN = ("clean variant", "recipe", "caught by", "differs in")


def lines(result: Result, width: int = 80) -> Iterator[str]:
    """A line a fault and a line a clean variant, what survived or alarmed in words, and the rates."""
    yield from table(FAULTS, [_fault_cells(row) for row in result.faults])
    yield from table(CLEAN, [_clean_cells(row) for row in result.rows if row.fault.clean])
    for row in result.faults:
        if not row.caught_by:
            why = row.fault.survives or row.message or "every required check passed"
            said = f"{'survived as known' if row.fault.survives else 'survived'}: {row.fault.name}: {why}"
            yield from ("", *wrapped(said, width))
    for row in result.false_alarms:
        yield from ("", *wrapped(f"false alarm: {row.fault.name}: {row.check}: {row.message}", width))
    if result.skipped:
        devices = Counter(one.device for one in result.skipped)
        said = ", ".join(f"{count} need {device}" for device, count in sorted(devices.items()))
        yield from ("", f"not tried: {said}")
    yield from ("", *wrapped(summary(result), width))


def summary(result: Result) -> str:
    """The rates, in one line."""
    faults, clean = len(result.faults), len(result.clean_runs)
    killed, alarms = len(result.killed), len(result.false_alarms)
    right = sum(row.right for row in result.faults)
    return (
        f"{killed} of {faults} faults caught{_share(killed, faults)}, "
        f"{right} by the rung and component expected{_share(right, faults)}; "
        f"{alarms} false alarms in {clean} clean variants that differ in bits{_share(alarms, clean)}; "
        f"{result.seconds:.0f} s"
    )


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.0%})" if whole else ""


def _fault_cells(row: Row) -> list[str]:
    expected = "/".join(filter(None, (row.fault.rung, row.fault.component)))
    caught = row.caught_by or "SURVIVED"
    return [
        row.fault.name,
        row.fault.recipe,
        expected,
        caught if row.right or not row.caught_by else f"{caught} (!)",
        _number(row.measured),
        _number(row.limit),
        row.check or "",
    ]


def _clean_cells(row: Row) -> list[str]:
    return [row.fault.name, row.fault.recipe, row.caught_by or "-", row.apart or "nothing: does not count"]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def listing(faults: Sequence[Fault]) -> Iterator[str]:
    """The corpus, a line an entry."""
    rows = [
        [
            one.name,
            one.family,
            one.recipe,
            "clean" if one.clean else "/".join(filter(None, (one.rung, one.component))),
        ]
        for one in faults
    ]
    yield from table(("name", "family", "recipe", "expected"), rows)


def document(result: Result) -> dict[str, Any]:
    """All of it as JSON values."""
    return {
        "schema": SCHEMA,
        "faults": len(result.faults),
        "killed": len(result.killed),
        "right": sum(row.right for row in result.faults),
        "clean_runs": len(result.clean_runs),
        "false_alarms": len(result.false_alarms),
        "skipped": [one.name for one in result.skipped],
        "seconds": result.seconds,
        "rows": [_entry(row) for row in result.rows],
    }


def _entry(row: Row) -> dict[str, Any]:
    return {
        "name": row.fault.name,
        "family": row.fault.family,
        "recipe": row.fault.recipe,
        "clean": row.fault.clean,
        "expected": {"rung": row.fault.rung, "component": row.fault.component},
        "caught_by": row.caught_by,
        "right": row.right,
        "check": row.check,
        "measured": row.measured,
        "limit": row.limit,
        "message": row.message,
        "apart": row.apart,
        "seconds": row.seconds,
    }
