"""How often each test of `ernie_qa.fidelity.statistics` is wrong where nothing is wrong.

    python benchmarks/levels.py
    python benchmarks/levels.py --seeds 20 --distribution normal    # is one seed's table luck?

Draws the scores of a suite, or their log-ratios to accepted ones, 10,000 times at n = 10 and at n = 30, under
the null hypothesis of each test, and counts how often it decides against that. `nominal` is the share that it
should have for normal values; * marks one more than two standard errors from it: of many, one in twenty-two
is by chance. Skewed values stand beside.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_qa.fidelity.statistics import (
    LEVEL,
    RATE,
    Decision,
    attainable,
    holm,
    limit_gate,
    log_ratios,
    pictures_over,
    regression_gate,
    sign_flip,
)

Values = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Values]
SPREAD = 0.4
"""Of log-ratios and of the logarithm of scores: what ten pictures of the miniature under UINT4 show."""
TRUE = 0.05
"""The mean of scores that are drawn: LPIPS of a full-size picture."""
TESTS = (
    "limit gate: passes, mean at limit",
    "limit gate: fails, mean at limit",
    "sign-flip",
    "sign-flip, Holm over two",
    "regression gate, no change",
    "regression gate, 15 % worse",
    "pictures over",
)


def lognormal(random: np.random.Generator, n: int) -> Values:
    """Standardized: of a normal variable of standard deviation 1, its exponential; skewness 6.2."""
    found: Values = (np.exp(random.normal(0, 1, n)) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)
    return found


def exponential(random: np.random.Generator, n: int) -> Values:
    """Standardized; skewness 2."""
    found: Values = random.exponential(1, n) - 1
    return found


DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda random, n: random.normal(0, 1, n),
    "exponential": exponential,
    "exponential, mirrored": lambda random, n: -exponential(random, n),
    "lognormal": lognormal,
}
QUANTILES = {
    "normal": 1.6448536269514722,
    "exponential": -math.log(RATE) - 1,
    "exponential, mirrored": 1 + math.log(1 - RATE),
    "lognormal": (math.exp(1.6448536269514722) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e),
}
"""Of each of them, standardized, at 1 - RATE: the limit of a single picture."""


@dataclass(frozen=True)
class Level:
    """How often a test decided against its null hypothesis, in so many simulations."""

    test: str
    n: int
    distribution: str
    hits: int
    simulations: int
    nominal: float
    exactly: bool

    @property
    def found(self) -> float:
        """The share."""
        return self.hits / self.simulations

    @property
    def error(self) -> float:
        """The standard error of the share, where the nominal level is the true one."""
        return math.sqrt(self.nominal * (1 - self.nominal) / self.simulations)

    @property
    def holds(self) -> bool:
        """Within two standard errors of nominal; not above by more, where that is only a bound."""
        above = self.found - self.nominal
        return (abs(above) if self.exactly else above) <= 2 * self.error


def decisions(draw: Draw, quantile: float, random: np.random.Generator, n: int) -> dict[str, bool]:
    """One simulation: what each test decides."""
    # the limit is the true mean, so each of the two decisions is wrong
    limit = limit_gate(list(TRUE * (1 + SPREAD * draw(random, n))), TRUE).decision
    first, second = SPREAD * draw(random, n), SPREAD * draw(random, n)
    accepted = np.full(n, TRUE)
    # scores whose log-ratios are `first`, offset and all
    changed = log_scores(first)
    adjusted = holm({"first": sign_flip(first), "second": sign_flip(second)})
    over = int((draw(random, n) > quantile).sum())
    return {
        TESTS[0]: limit is Decision.PASS,
        TESTS[1]: limit is Decision.FAIL,
        TESTS[2]: sign_flip(log_ratios(changed, accepted)) <= LEVEL,
        TESTS[3]: min(adjusted.values()) <= LEVEL,
        TESTS[4]: regression_gate(changed, accepted).worse,
        TESTS[5]: regression_gate(log_scores(first + math.log(1.15)), accepted).worse,
        TESTS[6]: pictures_over(over, n).fails,
    }


def log_scores(ratios: Values) -> Values:
    """The scores that lie `ratios`, logarithms, from the accepted one."""
    found: Values = (TRUE + 0.005) * np.exp(ratios) - 0.005
    return found


def nominal(test: str, n: int) -> tuple[float, bool] | None:
    """The level that `test` should have, and whether exactly that; None where something is wrong indeed."""
    if test.startswith("limit gate"):
        return LEVEL, True
    if test == "sign-flip":
        return attainable(n), True
    if test == "sign-flip, Holm over two":
        # of two that know nothing of each other: either is below half the level
        return 1 - (1 - attainable(n, LEVEL / 2)) ** 2, True
    if test == "regression gate, no change":
        return attainable(n), False
    if test == "pictures over":
        return pictures_over(0, n).level, True
    return None


def levels(distribution: str, n: int, simulations: int, seed: int) -> Iterator[Level]:
    """Each test's level; of the last regression gate it is its power, and nominal is nothing."""
    random = np.random.default_rng([seed, n])
    draw, quantile = DISTRIBUTIONS[distribution], QUANTILES[distribution]
    hits = dict.fromkeys(TESTS, 0)
    for _ in range(simulations):
        for test, decided in decisions(draw, quantile, random, n).items():
            hits[test] += decided
    for test, count in hits.items():
        wanted, exactly = nominal(test, n) or (math.nan, False)
        yield Level(test, n, distribution, count, simulations, wanted, exactly)


def row(level: Level) -> str:
    """A line of the table."""
    if math.isnan(level.nominal):
        told = f"{'':>9}"
    else:
        told = f"{'' if level.exactly else '<'}{level.nominal:.4f}".rjust(9)
    spread = math.sqrt(level.found * (1 - level.found) / level.simulations)
    mark = "" if math.isnan(level.nominal) or level.holds else " *"
    return f"{level.test:36}{level.n:4}  {level.distribution:22}{told}{level.found:9.4f} ± {spread:.4f}{mark}"


def main() -> None:
    """Simulate and print; exits 1 where, for normal values, a level is not within two standard errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from --seed on")
    parser.add_argument("--distribution", action="append", choices=tuple(DISTRIBUTIONS), default=[])
    parser.add_argument("--n", action="append", type=int, default=[])
    options = parser.parse_args()
    wrong = total = 0
    print(f"{'test':36}{'n':>4}  {'values':22}{'nominal':>9}{'found':>9} ± one standard error")
    for seed in range(options.seed, options.seed + options.seeds):
        for n in options.n or (10, 30):
            for distribution in options.distribution or DISTRIBUTIONS:
                for level in levels(distribution, n, options.simulations, seed):
                    print(row(level), flush=True)
                    if distribution == "normal" and not math.isnan(level.nominal):
                        total += 1
                        wrong += not level.holds
    print(f"normal values: {total - wrong} of {total} levels within two standard errors of nominal")
    sys.exit(bool(wrong and options.seeds == 1))


if __name__ == "__main__":
    main()
