"""Statistics: exact small cases, scipy beside them, and the levels that they have in simulations."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks import levels
from ernie_qa.fidelity import statistics
from ernie_qa.fidelity.statistics import (
    Decision,
    attainable,
    holm,
    limit_gate,
    log_ratios,
    pictures_over,
    regression_gate,
    seeds_needed,
    sign_flip,
)

SCORES = st.lists(st.floats(0, 1).map(lambda score: round(score, 6)), min_size=2, max_size=30)


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = "import sys, ernie_qa.fidelity.statistics; print({'scipy', 'numpy', 'torch'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize(
    ("limit", "decision"),
    # of 1 to 10: mean 5.5, s = 3.0277, half = 0.5797 * s = 1.755
    [(7.26, "pass"), (7.25, "undecided"), (3.75, "undecided"), (3.74, "fail")],
)
def test_a_limit_gate_of_ten(limit: float, decision: str) -> None:
    gate = limit_gate(range(1, 11), limit)
    assert (gate.decision, gate.mean) == (decision, 5.5)
    assert gate.half == pytest.approx(0.5797 * np.std(range(1, 11), ddof=1), rel=1e-4)


@given(SCORES, st.floats(0, 1))
def test_the_limit_gate_is_two_t_tests(scores: list[float], limit: float) -> None:
    decision = limit_gate(scores, limit).decision
    if min(scores) == max(scores):
        # no spread: the mean is what it is
        assert decision is not Decision.UNDECIDED
        return
    tested = {side: stats.ttest_1samp(scores, limit, alternative=side).pvalue for side in ("less", "greater")}
    if all(abs(p - 0.05) > 1e-6 for p in tested.values()):
        wanted = "pass" if tested["less"] < 0.05 else "fail" if tested["greater"] < 0.05 else "undecided"
        assert decision == wanted


def test_one_score_decides_nothing() -> None:
    assert limit_gate([0.1], 100).decision is Decision.UNDECIDED
    assert seeds_needed([0.1], 100) is None


@given(SCORES, st.floats(0, 1))
def test_as_many_more_as_are_needed_decide_and_one_less_does_not(scores: list[float], limit: float) -> None:
    needed = seeds_needed(scores, limit)
    if limit_gate(scores, limit).decision is not Decision.UNDECIDED:
        assert needed == 0
    elif needed is None:
        assert abs(np.mean(scores) - limit) < 1e-5
    else:
        distance, spread = abs(np.mean(scores) - limit), np.std(scores, ddof=1)
        for more, decides in ((needed, True), (needed - 1, False)):
            n = len(scores) + more
            half = stats.t.ppf(0.95, n - 1) * spread / math.sqrt(n)
            assert (half <= distance * (1 + 1e-9 if decides else 1 - 1e-9)) == decides


def test_log_ratios() -> None:
    found = log_ratios([0.005, 0.0, 0.095], [0.0, 0.0, 0.045])
    assert found == pytest.approx([math.log(2), 0, math.log(2)])
    for scores, accepted in (([0.1], [0.1, 0.2]), ([-0.005], [0.1]), ([float("nan")], [0.1])):
        with pytest.raises(ValueError, match="as many scores"):
            log_ratios(scores, accepted)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1], 1 / 2),
        ([-1], 1),
        ([1, 2, 3], 1 / 8),
        # sums: 6 4 2 0 0 -2 -4 -6
        ([1, 2, -3], 5 / 8),
        ([-1, 2, 3], 2 / 8),
        ([0, 0, 0], 1),
        ([0.1, 0.2, -0.3], 5 / 8),
        ([1e-9] * 10, 1 / 1024),
    ],
)
def test_sign_flip_by_hand(differences: list[float], p: float) -> None:
    assert sign_flip(differences) == p


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=9))
def test_sign_flip_counts_all_signs(differences: list[int]) -> None:
    sums = [
        sum(sign * abs(one) for sign, one in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    # in tenths, which no float holds exactly
    p = sign_flip([one / 10 for one in differences])
    assert p == sum(one >= sum(differences) for one in sums) / len(sums)


def test_sign_flip_beside_scipy() -> None:
    d = np.random.default_rng(1).normal(0.3, 1, 13)
    other = stats.permutation_test(
        (d,), np.sum, permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    assert sign_flip(d) == other.pvalue


def test_signs_are_drawn_where_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    d = np.random.default_rng(2).normal(0.3, 1, 30)
    exact = sign_flip(d)
    monkeypatch.setattr(statistics, "EXACT", 29)
    error = math.sqrt(exact * (1 - exact) / statistics.RESAMPLES)
    assert sign_flip(d) == sign_flip(d) == pytest.approx(exact, abs=4 * error)
    assert sign_flip(d) != exact


def test_no_difference_is_refused() -> None:
    for wrong in ([], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match="finite differences"):
            sign_flip(wrong)


def test_what_level_is_attainable() -> None:
    assert attainable(10) == 51 / 1024
    assert attainable(4) == 0
    assert attainable(5) == 1 / 32


ACCEPTED = [0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.11]


@pytest.mark.parametrize(
    ("factors", "significant", "large"),
    [
        ([1.3] * 10, True, True),
        ([1.02] * 10, True, False),
        # one picture ten times as bad: large, and it may be chance
        ([1] * 9 + [10], False, True),
        ([1] * 10, False, False),
        ([0.5] * 10, False, False),
    ],
)
def test_a_regression_is_certain_and_large(factors: list[float], significant: bool, large: bool) -> None:
    scores = [factor * score for factor, score in zip(factors, ACCEPTED, strict=True)]
    found = regression_gate(scores, ACCEPTED)
    assert (found.significant, found.large, found.worse) == (significant, large, significant and large)
    assert ("chance is not ruled out" in str(found)) is not significant
    assert ("smaller than the ratio that matters" in str(found)) is not large
    assert ("confirm it on fresh seeds" in str(found)) is found.worse
    assert found.p == sign_flip(log_ratios(scores, ACCEPTED))


def test_three_of_ten_pictures() -> None:
    found = pictures_over(2, 10)
    assert (found.needed, found.fails) == (3, False)
    assert found.level == pytest.approx(0.0115, abs=5e-5)
    assert pictures_over(3, 10).fails
    assert stats.binom.sf(0, 10, 0.05) == pytest.approx(0.401, abs=1e-3)


@given(st.integers(1, 200), st.floats(0.001, 0.5), st.floats(0.001, 0.2))
def test_the_fewest_pictures_that_hold_the_level(n: int, rate: float, level: float) -> None:
    found = pictures_over(0, n, rate, level)
    assert found.level <= level
    assert found.level == pytest.approx(stats.binom.sf(found.needed - 1, n, rate), rel=1e-9, abs=1e-15)
    assert stats.binom.sf(found.needed - 2, n, rate) > level * (1 - 1e-9)


def test_holm_by_hand() -> None:
    # the example of Holm's paper in shape: 0.01 * 4, 0.02 * 3, 0.03 * 2, then no less than before
    found = holm({"d": 0.04, "a": 0.01, "b": 0.02, "c": 0.03})
    assert list(found) == ["d", "a", "b", "c"]
    assert [found[name] for name in "abcd"] == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_between_the_plain_and_bonferroni(p: list[float]) -> None:
    plain = {str(index): one for index, one in enumerate(p)}
    for name, one in holm(plain).items():
        assert plain[name] <= one <= min(1, len(p) * plain[name])


@pytest.mark.parametrize(("n", "simulations"), [(10, 10_000), (30, 500)])
def test_levels_for_normal_values(n: int, simulations: int) -> None:
    # a seed at which all are within: of many some are not, for that is what two standard errors mean; so this
    # shows that nothing is far off, and docs/statistics.md counts over twenty
    found = [one for one in levels.levels("normal", n, simulations, seed=6) if not math.isnan(one.nominal)]
    assert len(found) == 6
    assert [levels.row(one) for one in found if not one.holds] == []


def test_a_test_that_does_not_hold_its_level_is_seen() -> None:
    skewed = {one.test: one for one in levels.levels("exponential, mirrored", 10, 2_000, seed=0)}
    assert not skewed["sign-flip"].holds
    assert skewed["sign-flip"].found > 0.1
