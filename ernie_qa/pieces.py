"""An arm in pieces: which cases each of several processes draws. A piece is the ids of its cases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

Pieces = tuple[tuple[str, ...], ...]

LEAST = 3
"""Cases of a piece: chosen. The first is none that is timed for what a picture always takes, so of fewer too
little would be left."""


def pieces(cases: Sequence[str], size: int) -> Pieces:
    """Pieces of at most `size` cases; one where that is 0."""
    step = size or len(cases)
    return tuple(tuple(cases[at : at + step]) for at in range(0, len(cases), step))


def shares(cases: Sequence[str], workers: int, fed: int) -> Pieces:
    """A piece for each of so many `workers`, or for fewer, that take equally long. The first holds the `fed`
    cases, which are drawn once more there, so that the others may be fed what they were."""
    fed = min(fed, len(cases))
    first = max(LEAST, fed, ceil((len(cases) + fed) / workers) - fed)
    others = min(workers - 1, (len(cases) - first) // LEAST)
    if others < 1:
        return (tuple(cases),)
    left = cases[first:]
    ends = [round(len(left) * number / others) for number in range(others + 1)]
    rest = (tuple(left[start:end]) for start, end in pairwise(ends))
    return (tuple(cases[:first]), *rest)


def piece_name(recipe: str, number: int, of: int) -> str:
    """A file's name, which no other piece of a run has; of a whole arm, the recipe's."""
    return recipe if of == 1 else f"{recipe}+{number + 1}of{of}"


def arm_of(name: str) -> str:
    """The recipe of the piece of that name."""
    return name.partition("+")[0]
