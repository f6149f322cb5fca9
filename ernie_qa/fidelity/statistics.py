"""What a handful of pictures can show: tests and intervals, pure functions on lists of scores.

Scores are floats of which less is better: LPIPS, 1 - SSIM. Every level is one-sided. docs/statistics.md shows
the level that each function was measured to have, and what skew does to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVEL = 0.05
"""How often each test may be wrong, on one side, where nothing is wrong."""
OFFSET = 0.005
"""Added to scores before their logarithm: of two that are both next to nothing none is many times the other.
LPIPS of full-size pictures is some hundredths."""
MINIMUM_EFFECT = 1.15
"""The least ratio of scores, a geometric mean over pictures, that is called a regression."""
RATE = 0.05
"""The share of pictures that may lie above the limit of a single one where nothing is wrong."""
EXACT = 40
"""The most pairs for which all 2^n signs are counted: two halves of 2^20 sums each."""
RESAMPLES = 99_999
"""Signs that are drawn above EXACT; at p = 0.05 that makes p's standard error 0.0007."""


class Decision(StrEnum):
    """The three outcomes of a limit gate."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class LimitGate:
    """Where a mean lies, and on which side of a limit: `mean` ± `half`, infinite for a single score."""

    decision: Decision
    mean: float
    half: float


@dataclass(frozen=True, slots=True)
class Regression:
    """What paired scores say of a change: sign-flip `p`, and `ratio`, the geometric mean over the `pairs`."""

    p: float
    ratio: float
    pairs: int
    level: float
    minimum: float

    @property
    def significant(self) -> bool:
        """Whether chance is ruled out at the level."""
        return self.p <= self.level

    @property
    def large(self) -> bool:
        """Whether the change is of the size that matters."""
        return self.ratio >= self.minimum

    @property
    def worse(self) -> bool:
        """Both: a regression, to be confirmed on fresh seeds."""
        return self.significant and self.large

    def __str__(self) -> str:
        """What was found, and which of the two conditions does not hold."""
        lacking = [
            text
            for held, text in (
                (self.significant, f"chance is not ruled out (p above {self.level:g})"),
                (self.large, f"smaller than the ratio that matters, {self.minimum:g}"),
            )
            if not held
        ]
        found = f"{self.ratio:.3g} times as high over {self.pairs} pictures, sign-flip p {self.p:.2g}"
        return f"{found}: {'; '.join(lacking) or 'worse; confirm it on fresh seeds'}"


@dataclass(frozen=True, slots=True)
class PicturesOver:
    """How many pictures are `over` the limit of a single one, how many it takes to fail (`needed`), and how
    often a clean run has as many: the test's own `level`."""

    over: int
    needed: int
    level: float

    @property
    def fails(self) -> bool:
        """Whether too many are over it."""
        return self.over >= self.needed


def limit_gate(scores: Sequence[float], limit: float, level: float = LEVEL) -> LimitGate:
    """Is the mean of what `scores` are drawn from at most `limit`? Needs one or more finite scores.

    mean ± t(1 - level, n - 1) · s / sqrt(n), Student's interval (Student 1908, "The probable error of a
    mean"); 0.580 · s for n = 10. Its upper end at or below the limit passes, its lower end above it fails,
    each with probability `level` where the true mean is the limit and scores are normal. One score has no
    spread and decides nothing.
    """
    n = len(scores)
    mean = math.fsum(scores) / n
    half = math.inf if n < 2 else _t(level, n - 1) * _deviation(scores) / math.sqrt(n)
    decision = Decision.UNDECIDED
    if mean + half <= limit:
        decision = Decision.PASS
    elif mean - half > limit:
        decision = Decision.FAIL
    return LimitGate(decision, mean, half)


def seeds_needed(scores: Sequence[float], limit: float, level: float = LEVEL) -> int | None:
    """How many more scores would decide `limit_gate`, if mean and spread stay as they are; 0 where it is
    decided, None where none would: the mean is the limit, or there are fewer than two scores.

    The least m with t(1 - level, m - 1) · s / sqrt(m) at most the mean's distance from the limit, less n.
    """
    n = len(scores)
    if n < 2:
        return None
    if limit_gate(scores, limit, level).decision is not Decision.UNDECIDED:
        return 0
    distance, spread = abs(math.fsum(scores) / n - limit), _deviation(scores)
    if distance <= spread * 1e-6:
        return None

    def decides(m: int) -> bool:
        return _t(level, m - 1) * spread / math.sqrt(m) <= distance

    few, many = n, 2 * n
    while not decides(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if decides(middle) else (middle, many)
    return many - n


def log_ratios(
    scores: Sequence[float], accepted: Sequence[float], offset: float = OFFSET
) -> NDArray[np.float64]:
    """d = ln((x + offset) / (r + offset)) of each pair, float64 [n]; above 0 is worse.

    Differences of scores are skewed, which breaks every test of pairs; ratios of them far less. ValueError
    where the two are not as many, or one is not above -offset.
    """
    import numpy as np

    x, r = np.asarray(scores, np.float64) + offset, np.asarray(accepted, np.float64) + offset
    if x.shape != r.shape or x.ndim != 1 or not (x > 0).all() or not (r > 0).all():
        raise ValueError(f"needed are as many scores as accepted ones, above {-offset:g}: {x.size}, {r.size}")
    return np.log(x / r)


def sign_flip(differences: Sequence[float] | NDArray[np.float64]) -> float:
    """One-sided p that `differences` lie about 0 and not above it: the share of all 2^n ways to choose their
    signs whose sum is at least the one that is there (Fisher 1935, The Design of Experiments, section 21).

    Exact up to 40 of them, whatever their distribution, if it is symmetric about 0. Beyond, 99,999 signs are
    drawn with a fixed seed: (1 + hits) / (1 + draws) (Phipson and Smyth 2010), with a standard error of
    0.0007 at p = 0.05. ValueError without differences or for one that is not finite.
    """
    import numpy as np

    d = np.asarray(differences, np.float64)
    if d.ndim != 1 or not d.size or not np.isfinite(d).all():
        raise ValueError("needed is a list of one or more finite differences")
    size = np.abs(d)
    # sums of the same terms in another order differ by rounding, and are the same sum
    observed = d.sum() - 1e-12 * size.sum()
    if d.size > EXACT:
        return _drawn(size, observed)
    # a half's sum with the other's: each pair of them is one way to choose all signs
    ours, others = _sums(size[: d.size // 2]), np.sort(_sums(size[d.size // 2 :]))
    hits = int((others.size - np.searchsorted(others, observed - ours)).sum())
    return math.ldexp(hits, -d.size)


def attainable(n: int, level: float = LEVEL) -> float:
    """The largest level not above `level` that `sign_flip` of `n` differences can have: its p are multiples
    of 2^-n. 51/1024 = 0.0498 for n = 10; 0 where even the smallest p is above `level`."""
    return math.floor(math.ldexp(level, n)) / (1 << n)


def regression_gate(
    scores: Sequence[float],
    accepted: Sequence[float],
    level: float = LEVEL,
    minimum: float = MINIMUM_EFFECT,
) -> Regression:
    """Are `scores` worse than those `accepted` for the same pictures? Errors are those of `log_ratios`.

    It takes both: `sign_flip` of the log-ratios, and a geometric mean ratio of `minimum` or more. One that is
    large by chance lacks the first, one that is certain and does not matter the second.
    """
    d = log_ratios(scores, accepted)
    return Regression(sign_flip(d), math.exp(math.fsum(d) / d.size), d.size, level, minimum)


def pictures_over(over: int, n: int, rate: float = RATE, level: float = LEVEL) -> PicturesOver:
    """Are too many of `n` pictures over the limit of a single one, where `rate` of them may be?

    It fails from the least count on that no more than `level` of clean runs have: the upper tail of the
    binomial distribution, three of ten with 0.0115. "Any one of ten" would have 0.40.
    """
    from scipy.special import bdtrc

    # bdtrc(k - 1, n, rate) is P(count >= k)
    needed = next(k for k in range(1, n + 2) if k > n or bdtrc(k - 1, n, rate) <= level)
    return PicturesOver(over, needed, float(bdtrc(needed - 1, n, rate)) if needed <= n else 0.0)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p by name, adjusted so that all of them together are wrong no more often than the level each is held
    against: the i-th smallest of m times (m - i + 1), never below a smaller one's (Holm 1979, "A simple
    sequentially rejective multiple test procedure"). However they hang together."""
    adjusted: dict[str, float] = {}
    least = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        least = max(least, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p}


def _deviation(scores: Sequence[float]) -> float:
    """The standard deviation with n - 1; exactly 0 where all scores are equal."""
    n = len(scores)
    mean = math.fsum(scores) / n
    if min(scores) == max(scores):
        return 0.0
    return math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (n - 1))


@cache
def _t(level: float, freedom: int) -> float:
    """The 1 - level quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - level))


def _sums(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of `sizes` [n] under all 2^n choices of signs, [2^n]."""
    import numpy as np

    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate((sums + size, sums - size))
    return sums


def _drawn(sizes: NDArray[np.float64], observed: float) -> float:
    import numpy as np

    random = np.random.default_rng(0)
    hits, left = 0, RESAMPLES
    while left:
        rows = min(left, 10_000)
        signs = random.integers(0, 2, (rows, sizes.size), dtype=np.int8) * 2 - 1
        hits += int((signs @ sizes >= observed).sum())
        left -= rows
    return (1 + hits) / (1 + RESAMPLES)
