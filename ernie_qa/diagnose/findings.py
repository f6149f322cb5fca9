"""What a diagnosis finds: one line each, ordered by how likely it is to blame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

MATTERS = ("packages", "torch", "device", "tensor cores", "compilation", "allocator")
"""The topics of the doctor that bear on pictures and their cost; the others are about gates."""


class Blame(StrEnum):
    """How likely a finding is to blame for pictures that are not what they should be."""

    CAUSE = "cause"
    """Spoils pictures by itself."""
    SUSPECT = "suspect"
    """Not as published: it may change a picture, or it costs time alone."""
    ADVICE = "advice"
    """Costs time or memory, and no picture."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`found` says what is wrong, `where` the file, component, layer or option, `advice` what to do."""

    blame: Blame
    topic: str
    found: str
    where: str
    advice: str


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Each once, the likeliest to blame first; among equals as they came."""
    order = list(Blame)
    return tuple(sorted(dict.fromkeys(findings), key=lambda one: order.index(one.blame)))
