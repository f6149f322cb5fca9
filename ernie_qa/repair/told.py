"""A repair in words: for a terminal, and as the comments in the recipe that it writes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING

from ernie_qa.report.terminal import nearest
from ernie_qa.report.wrap import table, wrapped
from ernie_qa.rungs import cost, package
from ernie_qa.verdict import Status
from ernie_qa.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ernie_qa.execute import Outcome
    from ernie_qa.recipe import Recipe
    from ernie_qa.record import Record
    from ernie_qa.repair import Repair

WIDTH = 100
"""Of the comments in a recipe."""


def lines(found: Repair, width: int = 80) -> Iterator[str]:
    """What was kept, what that costs, and the verdicts; or in one line why there is none."""
    name, status = found.broken.name, found.before.verdict.status
    if status is Status.PASS:
        yield f"{name} passes already: nothing was written"
    elif found.why:
        yield f"{name} was not repaired: {found.why}"
        if found.kept:
            yield f"best found: {_kept_in_words(found)}"
            yield from _layers(found, width)
    elif found.after is None or found.recipe is None:
        check = next(iter(found.before.verdict.of(Status.NOT_COMPARABLE)), None)
        why = f"{check.label}: {check.message}" if check else "nothing was judged"
        yield f"{name} is not comparable, so there is nothing to repair: {why}"
    else:
        yield f"{name} is repaired by keeping {_kept_in_words(found)}"
        yield from _layers(found, width)
        outcomes = (found.broken, found.before), (found.recipe, found.after)
        yield from table(
            ("recipe", "verdict", "failed checks", "in memory", "a picture"), [_row(*one) for one in outcomes]
        )
        yield ""
        yield from wrapped(f"{name} failed {_failed(found.before)}", width)
        yield from wrapped(f"{_cost(found)}. {_single(found)}{_nearest(found)}", width)
        if found.unasked:
            yield from wrapped(_unasked(found), width)


def comments(found: Repair, version: str) -> Iterator[str]:
    """What a reader of the new recipe should know."""
    machine = found.before.record.fingerprint
    said = (
        f"{found.broken.name}, repaired by ernie-qa repair {version} on "
        f"{datetime.now(UTC).date()}: it keeps {_kept_in_words(found)}.",
        f"{found.broken.name} failed {_failed(found.before)} on {found.plan.model.name}, suite "
        f"{found.plan.suite.name}; with these layers it passes.",
        f"{_cost(found)}, on {machine.gpu or machine.cpu}. {_single(found)}{_nearest(found)}",
        *([_unasked(found)] if found.unasked else []),
    )
    for one in said:
        yield from wrapped(one, WIDTH)


def milliseconds(record: Record) -> float | None:
    """A picture, the median of the steady ones; None where none was steady."""
    pictures = cost.steady(record.figures[cost.NAME]).values()
    return 1000 * median(one["seconds"] for one in pictures) if pictures else None


def memory(record: Record) -> int:
    """Bytes of all components."""
    size: int = record.figures[package.NAME]["memory_bytes"]
    return size


def _kept_in_words(found: Repair) -> str:
    whole = sum(map(len, found.quantized.values()))
    return f"{len(found.kept)} of {counted(whole, 'quantized layer')} in BF16"


def _layers(found: Repair, width: int) -> Iterator[str]:
    for part, whole in found.quantized.items():
        kept = [layer for component, layer in found.kept if component == part]
        if kept:
            yield ""
            yield f"  {part}, {len(kept)} of {len(whole)}"
            yield from wrapped(", ".join(kept), width, "    ", "    ")


def _row(recipe: Recipe, outcome: Outcome) -> Sequence[str]:
    took = milliseconds(outcome.record)
    return (
        recipe.name,
        str(outcome.verdict.status),
        str(len(outcome.verdict.of(Status.FAIL))),
        f"{memory(outcome.record):,} B",
        "not measured" if took is None else f"{took:.0f} ms",
    )


def _failed(outcome: Outcome) -> str:
    return ", ".join(check.name for check in outcome.verdict.of(Status.FAIL))


def _cost(found: Repair) -> str:
    assert found.after is not None
    before, after = found.before.record, found.after.record
    more, times = memory(after) - memory(before), memory(after) / memory(before)
    said = f"It costs {more:+,} B in memory ({times:.2f} times)"
    was, now = milliseconds(before), milliseconds(after)
    if was is None or now is None:
        return f"{said}; no steady picture says what it costs in time"
    return f"{said} and {now - was:+.0f} ms a picture ({was:.0f} to {now:.0f}, medians)"


def _single(found: Repair) -> str:
    tried = f"{counted(found.trials, 'set')} of layers tried in {found.seconds:.0f} s"
    if found.single:
        return (
            f"Without any single one of {'those asked for' if found.unasked else 'them'} it fails. {tried}."
        )
    return f"Some may be more than it needs: the search was not ended. {tried}."


def _nearest(found: Repair) -> str:
    assert found.after is not None
    if (closest := nearest(found.after.verdict)) is None:
        return ""
    check, share = closest
    return f" Closest to a limit: {check.label}, {check.measured:.4g} of {check.limit:.4g}, {share:.0%} used."


def _unasked(found: Repair) -> str:
    names = ", ".join(f"{layer} ({part})" for part, layer in found.unasked)
    return f"Not asked for, and kept because the name of another layer means them too: {names}."
