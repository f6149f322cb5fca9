"""BF16 against the accepted pictures: another CPU is within the noise, a quarter of UINT4's error is not."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.drift import damaged
from ernie_qa.baseline.store import find_baseline
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.regression import drift
from ernie_qa.suite import find_suite
from ernie_qa.verdict import Status

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_damage_far_below_uint4s_is_told_from_another_cpu(share: float) -> None:
    baseline = find_baseline(ROOT / "baselines", "mini", "cpu")
    assert baseline is not None
    assert baseline.pictures is not None
    whole = find_suite("mini")
    # two cases are enough to tell, and few enough for slow machines
    suite = replace(whole, cases=(whole.cases[3], whole.cases[5]))
    names = {case.id for case in suite.cases}
    pictures = replace(
        baseline.pictures,
        pictures=tuple(picture for picture in baseline.pictures.pictures if picture.case in names),
    )
    pipe = damaged("cpu", share) if share else load_pipeline("mini", "bf16", "cpu")
    checks = list(
        drift(
            observe(pipe, "bf16", suite, accepted=pictures, all_rungs=True),
            baseline.accepted["bf16"],
            pictures,
        )
    )
    assert len(checks) == 4
    mean = next(check for check in checks if check.name.endswith("drift_lpips_mean"))
    assert mean.status is (Status.FAIL if share else Status.PASS), mean.message
    if not share:
        assert {check.status for check in checks} == {Status.PASS}
