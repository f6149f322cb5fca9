"""What a record holds, as lines: what ran, every picture with its scores and words, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from ernie_qa.fidelity.text.score import marked
from ernie_qa.report.components import parts
from ernie_qa.report.wrap import table
from ernie_qa.rungs import activation, components, cost, images, package, text
from ernie_qa.wording import counted, figure

if TYPE_CHECKING:
    from ernie_qa.record import Record

MB = 10**6


def record_lines(record: Record) -> Iterator[str]:
    """The record at a glance, readable at 80 columns; `outline` has every figure."""
    device = record.fingerprint.gpu or f"cpu, {record.fingerprint.cpu}"
    yield f"{record.recipe.name} on {record.model.name}, suite {record.suite.name}"
    yield f"{device}, {record.created}"
    yield f"record {record.hash[:12]}, reference {record.reference[:12] if record.reference else 'none'}"
    figures = record.figures
    ran = figures.get(activation.NAME, {}).get("components", {})
    yield from table(
        ("component", "quantizer", "on disk", "in memory", "in the kernel", ""),
        [
            _component(name, one, ran.get(name, {}))
            for name, one in figures.get(package.NAME, {}).get("components", {}).items()
        ],
    )
    yield from parts(figures.get(components.NAME, {}))
    if record.ended:
        yield ""
        yield f"ended at {record.ended.rung}, before a picture was drawn: {record.ended.check}"
    yield from table(*_pictures(figures))
    yield from _misread(figures.get(text.NAME, {}))
    yield from _cost(figures.get(cost.NAME, {}))


def outline(values: Mapping[str, Any], indent: str = "  ") -> Iterator[str]:
    """Figures three levels deep, and lists of anything but text counted: record.json has it all."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value and len(indent) < 6:
            yield f"{indent}{key}"
            yield from outline(value, indent + "  ")
        else:
            yield f"{indent}{key}: {_plain(value)}"


def _plain(value: Any) -> str:
    """One value of a record in words."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case Mapping():
            # what is in it once more, in brackets
            found = (
                f"{key} ({_plain(item)})" if isinstance(item, Mapping) else f"{key} {_plain(item)}"
                for key, item in value.items()
            )
            return ", ".join(found) or "none"
        case tuple() | list():
            if all(isinstance(item, str) for item in value):
                return ", ".join(value) or "none"
            return counted(len(value), "entry", "entries")
    return str(value)


def _component(name: str, held: Mapping[str, Any], ran: Mapping[str, Any]) -> tuple[str, ...]:
    """One component's bytes, and the calls of its layers: those in the kernel, why the others were not."""
    counted: Counter[str] = Counter()
    operators: set[str] = set()
    for group in ran.get("calls", ()):
        layers = len(group["names"])
        counted.update({"calls": group["total"] * layers, "quantized": group["quantized"] * layers})
        counted.update({reason: count * layers for reason, count in group["fallbacks"].items()})
        operators.update(group["ops"])
    calls, quantized = counted.pop("calls", 0), counted.pop("quantized", 0)
    others = [f"{count} {reason}" for reason, count in sorted(counted.items()) if count]
    return (
        name,
        held["quantizer"] or "-",
        f"{held['disk_bytes'] / MB:,.1f} MB",
        f"{sum(held['memory'].values()) / MB:,.1f} MB",
        f"{quantized} of {calls}" if calls else "-",
        ", ".join([*sorted(operators), *others]),
    )


def _pictures(figures: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Every case: its scores against BF16's picture, its seconds, and its words."""
    seen, drawn = figures.get(images.NAME, {}), figures.get(cost.NAME, {}).get("pictures", {})
    words = figures.get(text.NAME, {}).get("cases", {})
    metrics = [name for name, one in seen.get("metrics", {}).items() if one["worst_case"] is not None]
    rows = []
    for case, one in seen.get("cases", {}).items():
        scores = [_score(one["scores"].get(name)) for name in metrics]
        seconds = f"{drawn[case]['seconds']:.2f}" if case in drawn else "-"
        rows.append((case, *scores, seconds, _words(words.get(case)), "; ".join(one["defects"])))
    return ("picture", *(name.upper() for name in metrics), "seconds", "words read", ""), rows


def _score(value: Any) -> str:
    return figure(value) if isinstance(value, int | float) else str(value or "-")


def _words(case: Mapping[str, Any] | None) -> str:
    if case is None:
        return "-"
    found, words = (sum(one[key] for one in case["strings"]) for key in ("found", "words"))
    return f"{found} of {words}"


def _misread(figures: Mapping[str, Any]) -> Iterator[str]:
    """The expected texts beside what was read, where that differs; what differs is in brackets."""
    if figures.get("why"):
        yield ""
        yield f"words: {figures['why']}"
    wrong = [
        (case, one) for case, found in figures.get("cases", {}).items() for one in found["strings"]
        if one["errors"]
    ]  # fmt: skip
    yield from table(
        ("read otherwise", "expected", "read", ""),
        [(case, one["expected"], marked(one["expected"], one["read"]), "") for case, one in wrong],
    )


def _cost(figures: Mapping[str, Any]) -> Iterator[str]:
    pictures = list(figures.get("pictures", {}).values())
    if not pictures:
        return
    load, settled = figures["load"], cost.steady(figures).values()
    told = [f"loading {load['seconds']:.1f} s"] if load else []
    told.append(f"first picture {pictures[0]['seconds']:.2f} s")
    if settled:
        told.append(f"then {median(one['seconds'] for one in settled):.2f} s in the median")
    for kind in ("allocated", "reserved", "resident"):
        if peaks := [one["peak"][kind] for one in pictures if one["peak"].get(kind)]:
            told.append(f"{kind} at most {max(peaks) / MB:,.0f} MB")
    yield ""
    yield f"{figures['residency']}: {', '.join(told)}"
