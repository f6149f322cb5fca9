"""Two records beside each other: every figure that the rungs hold on to, or why it cannot be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from ernie_qa.baseline.accepted import Tracked
from ernie_qa.fingerprint import differences, same_build_and_machine
from ernie_qa.report.wrap import table, wrapped
from ernie_qa.rungs import activation, cost, package, rungs
from ernie_qa.wording import counted, figure

if TYPE_CHECKING:
    from ernie_qa.record import Record

MB = 10**6
ASKED_FOR = (f"{package.NAME}.quantized_layers", f"{activation.NAME}.kernel_share")
"""What a recipe asks for: more is better where the recipe is the same, and nothing between two of them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both records in words; `change` is how B differs, or what is in the way of saying so.

    `verdict` is "better", "worse", "differs" (neither), "same", "recorded", "not comparable" or "missing".
    """

    name: str
    a: str
    b: str
    change: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Records `a` and `b` under `names`; `reasons` why nothing of them can be compared, `notes` what else
    differs, and how many of the cases that both drew have the very same pixels."""

    a: Record
    b: Record
    names: tuple[str, str]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    same_pictures: int
    pictures: int

    @property
    def comparable(self) -> bool:
        """Whether any figure could be compared."""
        return any(row.verdict not in ("not comparable", "missing") for row in self.rows)


def compare(a: Record, b: Record, names: Sequence[str] = ()) -> Comparison:
    """Compare `b` with `a`, under `names` or else their recipes'. Figures of another model or suite are
    shown, and never compared."""
    first, second = names or (a.recipe.name, b.recipe.name)
    reasons = tuple(
        f"another {what}: {one.name} ({one.hash[:12]}) and {other.name} ({other.hash[:12]})"
        for what, one, other in (("model", a.model, b.model), ("suite", a.suite, b.suite))
        if one.hash != other.hash
    )
    alike = same_build_and_machine(a.fingerprint, b.fingerprint)
    notes = [] if alike else [f"made differently: {'; '.join(differences(a.fingerprint, b.fingerprint)[:4])}"]
    notes += [
        f"{name} ended at {record.ended.rung}, before a picture was drawn: {record.ended.check}"
        for name, record in zip((first, second), (a, b), strict=True)
        if record.ended
    ]
    left, right = _figures(a), _figures(b)
    rows = tuple(
        _row(name, left.get(name), right.get(name), reasons, _obstacle(a, b, name), _neutral(a, b, name))
        for name in dict.fromkeys((*left, *right))
    )
    theirs = {picture.case: picture.sha256 for picture in a.pictures}
    both = [picture for picture in b.pictures if picture.case in theirs] if not reasons else []
    same = sum(theirs[picture.case] == picture.sha256 for picture in both)
    return Comparison(a, b, (first, second), reasons, tuple(notes), rows, same, len(both))


def lines(comparison: Comparison, width: int = 80) -> Iterator[str]:
    """The comparison for a terminal."""
    a, b = comparison.names
    yield f"A: {a}"
    yield f"B: {b}"
    for reason in comparison.reasons:
        yield from wrapped(f"not comparable: {reason}", width, "", "  ")
    for note in comparison.notes:
        yield from wrapped(note, width, "", "  ")
    shown = [(row.name, row.a, row.b, row.change) for row in comparison.rows if row.verdict != "same"]
    if shown:
        yield from table(("figure", "A", "B", "B is"), shown)
    if same := sum(row.verdict == "same" for row in comparison.rows):
        yield ""
        more = "more " if shown else ""
        yield f"{counted(same, f'{more}figure is', f'{more}figures are')} the same"
    yield ""
    yield pictures_line(comparison)


def pictures_line(comparison: Comparison) -> str:
    """How many pictures are the same, in words."""
    if not comparison.pictures:
        return "pictures: none that both drew can be compared"
    return f"pictures: {comparison.same_pictures} of {comparison.pictures} have the very same pixels"


def _figures(record: Record) -> dict[str, Tracked]:
    """What the rungs hold on to, and on a CPU what was recorded of its cost."""
    found = {one.name: one for rung in rungs() for one in rung.track(record, None)}
    figures = record.figures.get(cost.NAME, {})
    if record.fingerprint.gpu is None and figures.get("pictures"):
        _, peak = cost.took(record)
        if settled := cost.steady(figures).values():
            seconds = median(one["seconds"] for one in settled)
            found["cost.latency"] = Tracked("cost.latency", seconds, "lower", "s")
        if peak is not None:
            found["cost.peak_resident"] = Tracked("cost.peak_resident", float(peak), "lower", "B")
    return found


def _neutral(a: Record, b: Record, name: str) -> tuple[str, str] | None:
    """What to say where neither direction is better, and the row's verdict: of time and memory on a CPU,
    which nobody judges, and of what another recipe asks for."""
    if a.fingerprint.gpu is None and name.startswith(f"{cost.NAME}."):
        return "recorded, not judged", "recorded"
    if a.recipe.hash != b.recipe.hash and name.partition("[")[0] in ASKED_FOR:
        return "differs", "differs"
    return None


def _obstacle(a: Record, b: Record, name: str) -> str:
    """What keeps one figure from being compared though model and suite are the same."""
    if name.startswith(f"{cost.NAME}."):
        machines = [one.fingerprint.gpu or one.fingerprint.cpu for one in (a, b)]
        if machines[0] != machines[1]:
            return "another machine"
    return ""


def _row(
    name: str,
    a: Tracked | None,
    b: Tracked | None,
    reasons: tuple[str, ...],
    obstacle: str,
    neutral: tuple[str, str] | None,
) -> Row:
    if a is None or b is None:
        where = "A" if a is None else "B"
        present = a or b
        shown = _said(present.value, present.unit) if present else ""
        said = ("-", shown) if a is None else (shown, "-")
        return Row(name, *said, f"missing in {where}", "missing")
    pair = (_said(a.value, a.unit), _said(b.value, b.unit))
    if not obstacle and a.definition != b.definition:
        obstacle = "measured in another way"
    if reasons or obstacle:
        why = "not comparable" + (f": {obstacle}" if obstacle and not reasons else "")
        return Row(name, *pair, why, "not comparable")
    if a.value == b.value:
        return Row(name, *pair, "same", "same")
    share = f" ({(b.value - a.value) / abs(a.value):+.1%})" if a.value else ""
    if neutral:
        return Row(name, *pair, f"{neutral[0]}{share}", neutral[1])
    verdict = "better" if (b.value < a.value) == (a.better == "lower") else "worse"
    return Row(name, *pair, f"{verdict}{share}", verdict)


def _said(value: float, unit: str) -> str:
    return f"{value / MB:,.2f} MB" if unit == "B" else f"{figure(value)} {unit}".rstrip()
