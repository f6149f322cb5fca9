"""A metric's scores against a limit: what a mean decides and leaves open, and what more seeds are for."""

from typing import Any

import pytest

from ernie_qa.fidelity.limits import limit_check
from ernie_qa.recipe import Limit
from ernie_qa.verdict import Check, Status

TEN = [0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.010]
"""Mean 0.0055, s = 0.0030277, half of the interval 0.5797 s = 0.001755."""


def figures(metric: str, scores: list[Any], more: list[Any] | None = None) -> dict[str, Any]:
    """What the images rung records of one metric; `more` are of other seeds, as many a case as there are."""
    ids = [f"case{index}" for index in range(len(scores))]
    given = dict(zip(ids, scores, strict=True))
    for index, score in enumerate(more or []):
        given[f"{ids[index % len(ids)]}+{index // len(ids) + 1}"] = score
    cases = {case: {"scores": {metric: score}} for case, score in given.items()}
    # how the rung sums up is tested there; here it only has to be there
    return {"cases": cases, "metrics": {metric: dict.fromkeys(("mean", "max", "min"), 0.0)}}


def check(name: str, found: dict[str, Any], about: str = "pictures", **bounds: float) -> Check:
    limit = Limit(bounds.get("max"), bounds.get("min"), "a test", about=about)
    return limit_check("images", f"images.{name}", limit, found, "own")


@pytest.mark.parametrize(
    ("bound", "status"),
    [
        (0.00726, Status.PASS),
        (0.0072, Status.NOT_COMPARABLE),
        (0.0038, Status.NOT_COMPARABLE),
        (0.0037, Status.FAIL),
    ],
)
def test_a_mean_has_three_outcomes(bound: float, status: Status) -> None:
    lpips = check("lpips_mean", figures("lpips", TEN), max=bound)
    ssim = check("ssim_mean", figures("ssim", [1 - score for score in TEN]), min=1 - bound)
    assert (lpips.status, ssim.status) == (status, status)
    assert (lpips.measured, lpips.limit) == (pytest.approx(0.0055), bound)
    assert "mean 0.0055 ± 0.0018 over 10 pictures" in lpips.message


def test_an_undecided_mean_says_what_would_decide_it() -> None:
    found = check("lpips_mean", figures("lpips", TEN), max=0.0065)
    assert found.message == (
        "undecided: mean 0.0055 ± 0.0018 over 10 pictures against 0.0065: "
        "about 17 more pictures would decide; --seeds 3 (pytest: --ernie-seeds=3)"
    )
    # as many more, if they are like these, and it is decided
    again = check("lpips_mean", figures("lpips", TEN, TEN * 2), max=0.0065)
    assert again.status is Status.PASS
    assert "over 30 pictures" in again.message


def test_one_picture_and_a_mean_at_the_limit() -> None:
    alone = check("lpips_mean", figures("lpips", [0.1]), max=0.2)
    assert alone.status is Status.NOT_COMPARABLE
    assert alone.message.endswith("one picture tells nothing of others; --seeds 2 (pytest: --ernie-seeds=2)")
    at_it = check("lpips_mean", figures("lpips", TEN), max=0.0055)
    assert at_it.message.endswith("100 seeds a case would not decide it: the mean is at the limit")


def test_a_window_is_decided_by_its_worse_side() -> None:
    assert check("lpips_mean", figures("lpips", TEN), min=0.001, max=0.01).status is Status.PASS
    too_good = check("lpips_mean", figures("lpips", TEN), min=0.02, max=0.03)
    assert (too_good.status, too_good.limit) == (Status.FAIL, 0.02)
    assert check("lpips_mean", figures("lpips", TEN), min=0.005, max=0.03).status is Status.NOT_COMPARABLE


def test_a_limit_about_the_suite_leaves_nothing_to_chance() -> None:
    for bound, status in ((0.0055001, Status.PASS), (0.0054999, Status.FAIL)):
        assert check("lpips_mean", figures("lpips", TEN), "suite", max=bound).status is status
    more = check("lpips_mean", figures("lpips", TEN, [0.1] * 10), "suite", max=0.006)
    assert (more.status, more.measured) == (Status.PASS, pytest.approx(0.0055))
    assert "with other seeds, which this limit is not about, mean 0.05275 ±" in more.message


def test_identical_pictures_have_no_spread() -> None:
    assert check("lpips_mean", figures("lpips", [0.0] * 10), max=0.0).status is Status.PASS
    psnr = check("psnr_mean", figures("psnr", ["identical"] * 3), min=40)
    assert (psnr.status, psnr.measured) == (Status.PASS, None)
    some = check("psnr_mean", figures("psnr", ["identical", 50.0, 51.0]), min=10)
    assert (some.status, some.measured) == (Status.PASS, 50.5)
    assert "over 2 pictures" in some.message


def test_the_worst_of_a_suites_own_pictures_keeps_the_limit() -> None:
    assert check("lpips_max", figures("lpips", TEN), max=0.0101).status is Status.PASS
    broken = check("lpips_max", figures("lpips", TEN), max=0.0099)
    assert broken.status is Status.FAIL
    assert (
        "of what --report DIR (pytest: --ernie-report=DIR) keeps, compare own/pictures/case9.png with bf16's"
        in broken.message
    )
    assert "`ernie-qa explain DIR/own` names" in broken.message


@pytest.mark.parametrize(("over", "status"), [(3, Status.PASS), (4, Status.FAIL)])
def test_of_more_pictures_some_may_lie_over_it(over: int, status: Status) -> None:
    # of twenty, four are what no more than 5 % of clean runs have where 5 % of pictures are over
    more = [0.2] * over + [0.001] * (10 - over)
    found = check("lpips_max", figures("lpips", TEN, more), max=0.02)
    assert found.status is status
    assert f"{over} of all 20 pictures are over it, 4 would fail" in found.message
    assert check("lpips_max", figures("lpips", TEN, more), "suite", max=0.02).status is Status.PASS
    assert check("lpips_max", figures("lpips", TEN, [0.001] * 10), max=0.0099).status is Status.FAIL


def test_a_case_without_a_score_is_no_pass() -> None:
    found = figures("lpips", TEN)
    found["cases"]["case3"]["scores"] = {}
    for about in ("pictures", "suite"):
        lacking = check("lpips_mean", found, about, max=1.0)
        assert lacking.status is Status.NOT_COMPARABLE
        assert "case3 has no score" in lacking.message
