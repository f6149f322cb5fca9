"""The Pareto front: what nothing else beats in every figure."""

from collections.abc import Sequence


def pareto(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Whether each of `points` (figures of one length, lower is better) is on the front: no other point is as
    good in every figure and better in one. Points with equal figures are on it together."""
    return [not any(_beats(other, own) for other in points) for own in points]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
