"""A small set that passes, found by trials. What is tried, and what a trial is, the caller says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """The smallest set that passed; None where no trial did.

    `whole`: the search came to its end, within its `trials` and undisturbed. Then each single one of `kept`
    that is not needed was left out once, by itself, from exactly this set, and that failed.
    """

    kept: frozenset[T] | None
    whole: bool
    trials: int


class _Spent(Exception):
    """All trials were made."""


def search(
    ranked: Sequence[T], needed: frozenset[T], passes: Callable[[frozenset[T]], bool], trials: int
) -> Found[T]:
    """Keep the `needed`, without which nothing passes, and as few of `ranked`, the worthiest first, as do.

    Nothing kept at all is known to fail. First the shortest passing prefix of `ranked`, by doubling and then
    halving; then what of that can go again, the least worthy first, in groups and then one by one until none
    can. At most `trials` sets are tried, none twice. Doubling and halving assume that a longer prefix does
    not fail where a shorter one passes; what is returned was tried all the same. Ctrl-C in a trial ends the
    search, where a set has passed, and is raised where none has.
    """
    tried: dict[frozenset[T], bool] = {frozenset(): False}
    best: frozenset[T] | None = None

    def holds(kept: frozenset[T]) -> bool:
        nonlocal best
        if kept not in tried:
            if len(tried) > trials:
                raise _Spent
            tried[kept] = passes(kept)
        if tried[kept] and (best is None or len(kept) < len(best)):
            best = kept
        return tried[kept]

    whole = False
    try:
        size = _shortest(len(ranked), lambda size: holds(needed | frozenset(ranked[:size])))
        if size is not None:
            _reduce(list(ranked[:size])[::-1], lambda kept: holds(needed | frozenset(kept)))
        whole = True
    except KeyboardInterrupt:
        if best is None:
            raise
    except _Spent:
        pass
    return Found(best, whole, len(tried) - 1)


def _shortest(count: int, holds: Callable[[int], bool]) -> int | None:
    """The shortest prefix of `count` that holds, as far as that can be halved; None where none was found."""
    fails, size = -1, 0
    while not holds(size):
        if size == count:
            return None
        fails, size = size, min(max(2 * size, 1), count)
    while size - fails > 1:
        middle = (size + fails) // 2
        if holds(middle):
            size = middle
        else:
            fails = middle
    return size


def _reduce(kept: list[T], holds: Callable[[list[T]], bool]) -> None:
    """Leave out of `kept`, in its order, what can be left out of what is left."""
    size = max(isqrt(len(kept)), 1)
    while kept:
        before = len(kept)
        for part in [kept[at : at + size] for at in range(0, len(kept), size)]:
            rest = [one for one in kept if one not in part]
            if holds(rest):
                kept = rest
        if size == 1 and len(kept) == before:
            return
        size = 1
