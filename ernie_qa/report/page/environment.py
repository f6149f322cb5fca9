"""What the records were made with: one value where all agree, each record's own where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ernie_qa.record import Record
    from ernie_qa.report.shown import Shown


def rows(shown: Sequence[Shown]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(name, [(label, value)…]): one pair without a label where all records agree."""
    found = [(one.label, dict(_values(one.record))) for one in shown]
    names = dict.fromkeys(name for _, values in found for name in values)
    table = []
    for name in names:
        values = [(label, one.get(name, "missing")) for label, one in found]
        same = len({value for _, value in values}) == 1
        table.append((name, [("", values[0][1])] if same else values))
    return table


def _values(record: Record) -> Iterator[tuple[str, str]]:
    model, artifact = record.model, record.artifact
    revision = f", revision {model.revision}" if model.revision else ""
    yield "model", f"{model.name}{revision}, {model.weights} weights, {model.hash[:12]}"
    if artifact:
        yield "quantized already in", f"{artifact.name}, {artifact.hash[:12]}"
    yield "suite", f"{record.suite.name}, {record.suite.hash[:12]}"
    yield "recipe", f"{record.recipe.name}, {record.recipe.hash[:12]}"
    yield "record", record.hash[:12]
    yield "measured against", record.reference[:12] if record.reference else "nothing: it is the first"
    yield "observed", record.created
    for name, value in record.fingerprint.values().items():
        if isinstance(value, Mapping):
            yield from ((one, _said(item)) for one, item in value.items())
        else:
            yield name.replace("_", " "), _said(value)


def _said(value: Any) -> str:
    if value is None:
        return "none"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
