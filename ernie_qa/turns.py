"""In which order arms are handed out to several workers: what takes longest begins first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from pathlib import Path

from ernie_qa.baseline.store import find_baseline
from ernie_qa.errors import ErnieQAError
from ernie_qa.recipe import REFERENCE


def longest_first(recipes: Iterable[str], seconds: Mapping[str, float]) -> list[str]:
    """BF16, for which all wait; what is not in `seconds`, for it may take long; the others by theirs."""
    return sorted(recipes, key=lambda name: (name != REFERENCE, -seconds.get(name, inf)))


def accepted_seconds(baselines: Path | None, model: str, machine: str) -> dict[str, float]:
    """Recipe -> seconds of its last accepted run of `model` on `machine` (a GPU's model, or "cpu"); empty
    where nothing is known."""
    if baselines is None:
        return {}
    try:
        baseline = find_baseline(baselines, model, machine)
    except ErnieQAError:
        # whoever judges meets it as well, and says so
        return {}
    accepted = baseline.accepted if baseline else {}
    return {name: one.runs[-1].seconds for name, one in accepted.items() if one.runs[-1].seconds is not None}
