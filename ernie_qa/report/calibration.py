"""The noise floor as lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ernie_qa.report.wrap import table, wrapped
from ernie_qa.rungs import components, images

if TYPE_CHECKING:
    from ernie_qa.baseline.noise import Noise
    from ernie_qa.changes import Change

BOUNDS = {**images.LIMITS, **components.LIMITS}


def lines(noise: Noise, skipped: Mapping[str, str], width: int = 80) -> Iterator[str]:
    """What each change did, the floor and the ceiling of every figure, and what was not measured."""
    yield f"BF16 against BF16: {noise.model.name} on {noise.machine}, suite {noise.suite.name}"
    yield from table(
        ("change", "same pictures", "what"),
        [
            [name, "deterministic" if one.deterministic else f"{one.same} of {one.pictures}", one.title]
            for name, one in noise.changes.items()
        ],
    )
    rows = []
    for name, bound in BOUNDS.items():
        floor = noise.floor(name, bound)
        if floor is not None:
            top = noise.ceiling.get(name)
            still = floor.value == (0.0 if bound == "max" else 1.0)
            value = "deterministic" if still else f"{floor.value:.4g}"
            rows.append([name, value, "" if top is None else f"{top:.4g}", "" if still else floor.change])
    yield from table(("figure", "floor", "ceiling", "by"), rows)
    if noise.deterministic:
        yield from ("", "deterministic: no change moved a bit")
    for name, why in skipped.items():
        yield from wrapped(f"not measured: {name}: {why}", width, "", "  ")


def listing(wanted: Sequence[Change], device: str) -> Iterator[str]:
    """The changes, a line each, and why one cannot be made on `device`."""
    yield from table(
        ("change", "what", "here"), [[one.name, one.title, one.unless(device) or "yes"] for one in wanted]
    )
