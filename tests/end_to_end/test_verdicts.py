"""The shipped miniature from recipe to verdict: damage is refused, and the same run gives the same record."""

from dataclasses import replace
from pathlib import Path

import pytest

from ernie_qa.judge import judge
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.recipe import Recipe, find_recipe
from ernie_qa.record import Record, load_record
from ernie_qa.suite import Suite, find_suite
from ernie_qa.verdict import Status, Verdict


@pytest.fixture(scope="module")
def suite() -> Suite:
    """Two cases of the shipped suite: enough to tell, and few enough for slow machines."""
    whole = find_suite("mini")
    return replace(whole, cases=(whole.cases[3], whole.cases[5]))


@pytest.fixture(scope="module")
def bf16(suite: Suite) -> Record:
    return observe(load_pipeline("mini", "bf16", "cpu"), "bf16", suite)


def run(recipe: Recipe, suite: Suite, reference: Record) -> tuple[Record, Verdict]:
    record = observe(load_pipeline("mini", recipe, "cpu"), recipe, suite, reference=reference)
    return record, judge(record, reference, recipe)


def test_uint2_fails_on_images_where_it_differs_in_nothing_else(
    suite: Suite, bf16: Record, tmp_path: Path
) -> None:
    text = find_recipe("sdnq-uint4-static").path.read_text(encoding="utf-8")
    path = tmp_path / "sdnq-uint2-static.toml"
    path.write_text(text.replace('weights_dtype = "uint4"', 'weights_dtype = "uint2"'), encoding="utf-8")
    _, verdict = run(find_recipe(path), suite, bf16)
    assert verdict.status is Status.FAIL
    assert {check.rung for check in verdict.of(Status.FAIL)} == {"images"}
    assert "images.lpips_mean" in {check.name for check in verdict.of(Status.FAIL)}


def test_the_same_run_gives_the_same_pictures_and_verdict(suite: Suite, bf16: Record) -> None:
    again = observe(load_pipeline("mini", "bf16", "cpu"), "bf16", suite)
    assert again.pictures == bf16.pictures
    recipe = find_recipe("bnb-nf4")
    (first, one), (second, two) = (run(recipe, suite, reference) for reference in (bf16, bf16))
    assert first.pictures == second.pictures
    assert [check for check in one.checks if check.rung != "cost"] == [
        check for check in two.checks if check.rung != "cost"
    ]
    assert one.status is Status.PASS


def test_a_stored_record_is_judged_like_the_live_one(suite: Suite, bf16: Record, tmp_path: Path) -> None:
    bf16.save(tmp_path / "bf16")
    stored = load_record(tmp_path / "bf16")
    assert stored.hash == bf16.hash
    assert judge(stored, None, "bf16") == judge(bf16, None, "bf16")
