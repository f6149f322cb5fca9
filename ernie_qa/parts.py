"""What the parts of an arm that were observed apart from each other have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ernie_qa.errors import ErnieQAError


def the_same(rung: str, parts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The figures of a `rung` that all `parts` agree in. ErnieQAError where they do not: they are of
    different machines, or what makes them is not deterministic."""
    first = parts[0]
    for other in parts[1:]:
        keys = first.keys() | other.keys()
        if differing := sorted(key for key in keys if other.get(key) != first.get(key)):
            raise ErnieQAError(
                f"its parts disagree in {rung}: {', '.join(differing)}: look at the hosts that drew them, "
                "or draw it in one part"
            )
    return first
