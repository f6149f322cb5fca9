"""The shipped miniature from recipe to verdict: damage is refused, and the same run gives the same record."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

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


def run(recipe: Recipe, suite: Suite, reference: Record, **how: Any) -> tuple[Record, Verdict]:
    record = observe(load_pipeline("mini", recipe, "cpu"), recipe, suite, reference=reference, **how)
    return record, judge(record, reference, recipe)


@pytest.fixture(scope="module")
def uint2(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The shipped UINT4 recipe with its limits, and two bits."""
    text = find_recipe("sdnq-uint4-static").path.read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("recipes") / "sdnq-uint2-static.toml"
    path.write_text(text.replace('weights_dtype = "uint4"', 'weights_dtype = "uint2"'), encoding="utf-8")
    return find_recipe(path)


def test_uint2_fails_by_its_parts_and_its_pictures_where_it_differs_in_nothing_else(
    suite: Suite, bf16: Record, uint2: Recipe
) -> None:
    _, verdict = run(uint2, suite, bf16, all_rungs=True)
    assert verdict.status is Status.FAIL
    failed = {check.name for check in verdict.of(Status.FAIL)}
    assert {check.rung for check in verdict.of(Status.FAIL)} == {"components", "images"}
    assert {"components.text_encoder_l2_mean", "components.transformer_l2_max"} <= failed
    assert "images.lpips_mean" in failed


def test_uint2_is_refused_before_a_picture_is_drawn(
    suite: Suite, bf16: Record, uint2: Recipe, tmp_path: Path
) -> None:
    record, verdict = run(uint2, suite, bf16)
    assert record.ended is not None
    assert record.ended.rung == "components"
    assert (record.pictures, list(record.figures)) == ((), ["package", "activation", "components"])
    assert verdict.status is Status.FAIL
    by_rung = {check.rung: check for check in verdict.checks}
    for rung in ("images", "text", "cost"):
        # on a CPU nothing limits the cost
        wanted = Status.NOT_APPLICABLE if rung == "cost" else Status.NOT_COMPARABLE
        assert by_rung[rung].status is wanted
        assert by_rung[rung].message == f"not measured: the arm ended at components: {record.ended.check}"
    record.save(tmp_path / "refused")
    stored = load_record(tmp_path / "refused")
    assert (stored.hash, stored.ended) == (record.hash, record.ended)
    assert judge(stored, bf16, uint2) == verdict


def test_a_scale_that_is_off_by_two_percent_in_one_layer_is_caught_and_named(
    suite: Suite, bf16: Record
) -> None:
    recipe = find_recipe("sdnq-uint4-static")
    pipe = load_pipeline("mini", recipe, "cpu")
    layer = pipe.transformer.get_submodule("layers.3.mlp.up_proj")
    with torch.no_grad():
        layer.scale.mul_(1.02)
        layer.zero_point.mul_(1.02)
    record = observe(pipe, recipe, suite, reference=bf16, all_rungs=True)
    failed = {check.label: check for check in judge(record, bf16, recipe).of(Status.FAIL)}
    weights = failed["package.weights[transformer]"]
    gain = failed["components.transformer_layer_gain_max[transformer]"]
    assert "layers.3.mlp.up_proj (+2.01% too strong)" in weights.message
    assert "layers.3.mlp.up_proj" in gain.message
    assert gain.measured == pytest.approx(0.02, abs=0.002)
    assert not any(label.startswith("images.lpips[") for label in failed)


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
    assert stored.trajectories == bf16.trajectories
    assert judge(stored, None, "bf16") == judge(bf16, None, "bf16")
