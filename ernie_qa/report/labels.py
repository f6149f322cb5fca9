"""What records are called beside each other: by recipe, and where several are of one, by place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def labels(names: Sequence[str], places: Sequence[Path]) -> list[str]:
    """A label a record, from its recipe's name and its directory: `own`, or, where several are of that name,
    `own (first/own)` with as much of the directory's end as tells them apart."""
    parts = [(place.parent if place.name == "record.json" else place).resolve().parts for place in places]
    return [
        name if names.count(name) == 1 else f"{name} ({'/'.join(_end(own, parts))})"
        for name, own in zip(names, parts, strict=True)
    ]


def _end(own: tuple[str, ...], parts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The shortest end of `own` that no other of `parts` has."""
    others = [one for one in parts if one != own]
    size = 1
    while size < len(own) and any(one[-size:] == own[-size:] for one in others):
        size += 1
    return own[-size:]
