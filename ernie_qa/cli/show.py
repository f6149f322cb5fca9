"""`ernie-qa show`: what a record holds."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ernie_qa.errors import InputError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    show = commands.add_parser(
        "show", help="print what a record holds", description="Print what a record holds."
    )
    show.add_argument(
        "record", metavar="RECORD", type=Path, help="directory of a record, as --report wrote it"
    )
    show.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    from ernie_qa.record import load_record

    given = options.record
    if (given / "verdict.json").is_file():
        arms = ", ".join(sorted(str(path.parent) for path in given.glob("*/record.json")))
        raise InputError(f"{given}: a report of several records; name one of {arms or 'none'}")
    record = load_record(given.parent if given.name == "record.json" else given)
    for name, value in (
        ("record", record.hash),
        ("created", record.created),
        ("model", f"{record.model.name}, {record.model.weights} weights, {record.model.hash}"),
        ("recipe", f"{record.recipe.name}, {record.recipe.hash}"),
        ("suite", f"{record.suite.name}, {record.suite.hash}"),
        ("reference", record.reference or "none"),
    ):
        print(f"{name:<10} {value}")
    for line in _kernels(record.figures.get("activation", {}).get("components", {})):
        print(line)
    for title, values in (("machine", asdict(record.fingerprint)), *record.figures.items()):
        print(f"\n{title}")
        for line in _outline(values, "  "):
            print(line)
    return 0


def _kernels(components: Mapping[str, Any]) -> Iterator[str]:
    """What ran, a line a component: the calls of its layers, those in the kernel, why the others were not."""
    for component, figures in components.items():
        counted: Counter[str] = Counter()
        operators: set[str] = set()
        for group in figures.get("calls", ()):
            layers = len(group["names"])
            counted.update({"calls": group["total"] * layers, "quantized": group["quantized"] * layers})
            counted.update({reason: count * layers for reason, count in group["fallbacks"].items()})
            operators.update(group["ops"])
        calls, quantized = counted.pop("calls", 0), counted.pop("quantized", 0)
        others = "".join(f", {count} {reason}" for reason, count in sorted(counted.items()))
        kernel = f" ({', '.join(sorted(operators))})" if operators else ""
        yield f"{component:<14} {quantized} of {calls} calls ran the quantized kernel{kernel}{others}"


def _outline(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Figures three levels deep; what lies deeper, and longer lists, are counted: record.json has it all."""
    for key, value in values.items():
        if isinstance(value, Mapping) and len(indent) < 6:
            yield f"{indent}{key}"
            yield from _outline(value, indent + "  ")
        elif isinstance(value, Mapping | tuple) and not all(isinstance(item, str) for item in value):
            yield f"{indent}{key}: {len(value)} entries"
        elif isinstance(value, tuple):
            yield f"{indent}{key}: {', '.join(value) or 'none'}"
        else:
            yield f"{indent}{key}: {value}"
