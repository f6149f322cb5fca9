"""One gate in two environments, as one table: what of each recipe's verdict and figures differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ernie_qa.fingerprint import differences
from ernie_qa.recipe import REFERENCE
from ernie_qa.report.compare import Comparison, Row, compare
from ernie_qa.report.summary import escaped
from ernie_qa.report.terminal import WORDS
from ernie_qa.report.wrap import table, wrapped
from ernie_qa.rungs import components, cost, images, text
from ernie_qa.verdict import Status, worst
from ernie_qa.wording import counted

if TYPE_CHECKING:
    from ernie_qa.record import Record
    from ernie_qa.report.shown import Shown

FILE = "ab.md"
VERDICT = "verdict"
BESIDE_BF16 = (f"{components.NAME}.", f"{images.NAME}.", f"{text.NAME}.", f"{cost.NAME}.latency_ratio")
"""Figures that are of an arm beside BF16: they can be compared only where both had the same BF16."""
NO_REFERENCE = "not comparable: BF16 differs"
MISSING = "-"


@dataclass(frozen=True, slots=True)
class Arm:
    """One recipe: its rows, the verdict's first, which checks decided against a pass, and how many of its
    figures are the same in both."""

    recipe: str
    rows: tuple[Row, ...]
    decided: tuple[str, ...]
    same: int
    pictures: str


@dataclass(frozen=True, slots=True)
class AB:
    """Both runs: what they are called, how their environments differ, what became of BF16, and their arms."""

    names: tuple[str, str]
    differs: tuple[str, ...]
    reference: str
    same_reference: bool
    arms: tuple[Arm, ...]


def beside(a: Sequence[Shown], b: Sequence[Shown], names: tuple[str, str]) -> AB:
    """What was judged in one environment beside what was judged in another, of the same model and suite."""
    left, right = ({one.record.recipe.name: one for one in side} for side in (a, b))
    before, after = _reference(a), _reference(b)
    pair = compare(before, after) if before and after else None
    same = pair is not None and not pair.reasons and 0 < pair.pictures == pair.same_pictures
    arms = tuple(_arm(name, left.get(name), right.get(name), same) for name in dict.fromkeys((*left, *right)))
    differs = differences(before.fingerprint, after.fingerprint) if before and after else ()
    return AB(names, differs, _said(pair), same, arms)


def status(found: AB, b: Sequence[Shown]) -> Status:
    """What B amounts to: its worst verdict, and not comparable where a recipe has none, or BF16 differs."""
    whole = found.same_reference and all(arm.rows[0].b != MISSING for arm in found.arms)
    return worst([*(one.verdict.status for one in b), *([] if whole else [Status.NOT_COMPARABLE])])


def lines(found: AB, width: int = 80) -> Iterator[str]:
    """The table for a terminal."""
    for side, name in zip("AB", found.names, strict=True):
        yield f"{side}: {name}"
    yield ""
    for told in _about(found):
        yield from wrapped(told, width, "", "  ")
    rows = [(arm.recipe, row.name, row.a, row.b, row.change) for arm in found.arms for row in arm.rows]
    yield from table(("recipe", "figure", "A", "B", "B is"), rows)
    yield ""
    for arm in found.arms:
        for said in _rest(arm):
            yield from wrapped(f"{arm.recipe}: {said}", width, "", "  ")


def markdown(found: AB) -> str:
    """The table for a pull request."""
    a, b = map(escaped, found.names)
    told = [f"### ernie-qa: A, {a}, beside B, {b}", ""]
    told += [f"- {escaped(line)}" for line in _about(found)]
    told += ["", "| recipe | figure | A | B | B is |", "|---|---|---:|---:|---|"]
    told += [
        f"| {' | '.join(map(escaped, (arm.recipe, row.name, row.a, row.b, row.change)))} |"
        for arm in found.arms
        for row in arm.rows
    ]
    told += ["", *(f"- {escaped(f'{arm.recipe}: {said}')}" for arm in found.arms for said in _rest(arm))]
    return "\n".join(told) + "\n"


def _reference(side: Sequence[Shown]) -> Record | None:
    """The BF16 record that a run's arms were measured against."""
    for one in side:
        found = one.record if one.record.recipe.name == REFERENCE else one.reference
        if found:
            return found
    return None


def _arm(name: str, a: Shown | None, b: Shown | None, same_reference: bool) -> Arm:
    verdict, decided = _verdict(a, b), tuple(_decided(a, b))
    if a is None or b is None:
        return Arm(name, (verdict,), decided, 0, "")
    found = compare(a.record, b.record)
    rows = [row if same_reference else _apart(row) for row in found.rows]
    differ = [row for row in rows if row.verdict not in ("same", "recorded")]
    same = sum(row.verdict == "same" for row in rows)
    pictures = _pictures(found)
    return Arm(name, (verdict, *differ), decided, same, pictures)


def _verdict(a: Shown | None, b: Shown | None) -> Row:
    ended = [one.verdict.status if one else None for one in (a, b)]
    first, second = (WORDS[one].upper() if one else MISSING for one in ended)
    if None in ended:
        return Row(VERDICT, first, second, f"missing in {'A' if a is None else 'B'}", "missing")
    if first == second:
        return Row(VERDICT, first, second, "same", "same")
    change = "worse" if worst(one for one in ended if one) is ended[1] else "better"
    return Row(VERDICT, first, second, change, change)


def _decided(a: Shown | None, b: Shown | None) -> Iterator[str]:
    """The checks that failed, or could not be judged, and on which side."""
    for ended in (Status.FAIL, Status.NOT_COMPARABLE):
        first, second = ([check.label for check in one.verdict.of(ended)] if one else [] for one in (a, b))
        both = [label for label in first if label in second]
        for where, labels in (
            ("A and B", both),
            ("A", [label for label in first if label not in both]),
            ("B", [label for label in second if label not in both]),
        ):
            if labels:
                yield f"{WORDS[ended].upper()} in {where}: {', '.join(labels)}"


def _apart(row: Row) -> Row:
    if row.name.startswith(BESIDE_BF16):
        return Row(row.name, row.a, row.b, NO_REFERENCE, "not comparable")
    return row


def _said(pair: Comparison | None) -> str:
    if pair is None:
        return "BF16: not drawn in both: no figure beside it can be compared"
    if pair.reasons:
        return f"BF16: not comparable: {'; '.join(pair.reasons)}"
    drawn = _pictures(pair)
    if pair.same_pictures == pair.pictures:
        return f"BF16 is the same in both: {drawn}"
    return f"BF16 differs: {drawn}: no figure beside it can be compared, each verdict is by its own BF16"


def _pictures(pair: Comparison) -> str:
    return f"{pair.same_pictures} of {counted(pair.pictures, 'picture')} to the bit"


def _about(found: AB) -> Iterator[str]:
    yield f"A and B differ in {'; '.join(found.differs)}" if found.differs else "A and B are alike"
    yield found.reference


def _rest(arm: Arm) -> Iterator[str]:
    yield from arm.decided
    if arm.pictures:
        yield f"the same are {counted(arm.same, 'figure')}, and {arm.pictures}"
    else:
        yield "in one of them alone"
