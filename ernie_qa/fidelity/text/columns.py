"""Which lines stand below each other, as a paragraph's do.

Engines give lines row by row, and which of two neighbouring boxes comes first may hang on a single pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""

GAP = 1.5
"""How far below a line the next one of its paragraph may begin, in heights of the taller of the two."""


def columns(boxes: Sequence[Box]) -> tuple[tuple[int, ...], ...]:
    """The chains of two and more lines, by their places in `boxes`, each the nearest below the one before it
    that has at least half of the narrower one's width in common with it."""
    below = {at: _below(boxes, at) for at in range(len(boxes))}
    first = below.keys() - set(below.values())
    found = []
    for at in sorted(first):
        chain, following = [at], below[at]
        while following is not None:
            chain.append(following)
            following = below[following]
        if len(chain) > 1:
            found.append(tuple(chain))
    return tuple(found)


def _below(boxes: Sequence[Box], at: int) -> int | None:
    left, top, right, bottom = boxes[at]
    near = [
        (upper, other)
        for other, (start, upper, end, lower) in enumerate(boxes)
        # by their middles: the boxes of close lines overlap, and a line is never below itself
        if upper + lower > top + bottom
        and upper >= (top + bottom) / 2
        and upper - bottom <= GAP * max(bottom - top, lower - upper)
        and 2 * (min(right, end) - max(left, start)) >= min(right - left, end - start)
    ]
    return min(near)[1] if near else None
