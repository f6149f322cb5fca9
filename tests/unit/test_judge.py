"""From a record to a verdict: what judging adds to what the rungs say."""

from dataclasses import replace

import pytest

from ernie_qa.errors import RecipeError
from ernie_qa.judge import judge
from ernie_qa.recipe import Limit, find_recipe
from ernie_qa.record import Record
from ernie_qa.rungs import Evidence, check_limits
from ernie_qa.verdict import Check, Status
from tests.unit.test_images_rung import at_least, at_most, draw, gated, observe


@pytest.fixture(scope="module")
def bf16() -> Record:
    return observe(draw(0, 0), "bf16")


@pytest.fixture(scope="module")
def int8(bf16: Record) -> Record:
    return observe(draw(0, 30), reference=bf16)


def named(name: str, checks: tuple[Check, ...]) -> list[Check]:
    return [check for check in checks if check.name == name]


def test_an_informational_check_fails_and_does_not_decide(bf16: Record, int8: Record) -> None:
    limits = {"ssim_mean": at_least(1), "lpips_mean": at_most(1)}
    for informational, required in (((), True), (("images.ssim_mean",), False)):
        verdict = judge(int8, bf16, gated(informational=informational, **limits))
        (check,) = named("images.ssim_mean", verdict.checks)
        assert (check.status, check.required) == (Status.FAIL, required)
        assert (verdict.status is Status.FAIL) == required


def test_limits_that_are_all_informational_decide_nothing(bf16: Record, int8: Record) -> None:
    recipe = gated(informational=("images.lpips_mean",), lpips_mean=at_most(1))
    (check,) = named("images.limits", judge(int8, bf16, recipe).checks)
    assert check.status is Status.NOT_COMPARABLE


@pytest.mark.parametrize("lie", ["a blank picture", "another recipe"])
def test_a_reference_that_is_no_sound_bf16_arm_is_not_compared_with(lie: str) -> None:
    pictures = draw(0, 0)
    if lie == "a blank picture":
        pictures["tall"] = pictures["tall"] * 0
    reference = observe(pictures, "bf16" if lie == "a blank picture" else "sdnq-int8")
    record = observe(draw(0, 0), reference=reference)
    verdict = judge(record, reference, gated(lpips_mean=at_most(1)))
    (check,) = named("reference.sound", verdict.checks)
    assert check.status is Status.NOT_COMPARABLE
    assert ("blank" if lie == "a blank picture" else "an arm of sdnq-int8") in check.message
    (mean,) = named("images.lpips_mean", verdict.checks)
    assert mean.status is Status.NOT_COMPARABLE


def test_a_record_of_another_recipe_is_not_comparable(bf16: Record, int8: Record) -> None:
    verdict = judge(int8, bf16, "sdnq-uint4-static")
    (check,) = named("recipe.same", verdict.checks)
    assert check.status is Status.NOT_COMPARABLE
    assert "made under recipe sdnq-int8" in check.message


def test_a_required_baseline_that_nobody_accepted_is_not_comparable(bf16: Record) -> None:
    (check,) = named("baseline.accepted", judge(bf16, None, "bf16").checks)
    assert check.status is Status.NOT_APPLICABLE
    (check,) = named("baseline.accepted", judge(bf16, None, "bf16", require_baseline=True).checks)
    assert check.status is Status.NOT_COMPARABLE


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (gated(lpips_maen=at_most(1)), "no rung judges 'images.lpips_maen'"),
        (gated(lpips_mean=at_least(0.1)), "images.lpips_mean: has no max"),
        (
            gated(lpips_mean=at_most(-1)),
            r"limits.images.lpips_mean.max: found -1, and no such figure is below",
        ),
        (gated(ssim_mean=at_most(0.98)), "images.ssim_mean: has no min"),
        (gated(ssim_mean=at_least(1.5)), r"ssim_mean.min: found 1.5, and no such figure is above 1: nothing"),
        (gated(informational=("image.psnr_mean",)), "'image.psnr_mean' belongs to no rung"),
    ],
)
def test_a_limit_that_keeps_nothing_out_is_refused(bf16: Record, recipe: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as refused:
        check_limits(recipe)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_what_a_limit_is_about_is_for_images_alone() -> None:
    recipe = gated()
    about = replace(at_most(0.1), about="suite")
    for name, refused in (("text.lines_lost_mean", True), ("images.lpips_mean", False)):
        gates = {suite: replace(gate, limits={name: about}) for suite, gate in recipe.gates.items()}
        given = replace(recipe, gates=gates)
        if not refused:
            check_limits(given)
            continue
        with pytest.raises(RecipeError, match='about = "suite" is for limits on images'):
            check_limits(given)


def test_a_budget_that_keeps_nothing_out_is_refused() -> None:
    recipe = gated()
    place = r'\.budgets\."NVIDIA L40S"'
    for budget, message in (
        ({"images.lpips_maen": at_most(1)}, f"{place}: no rung judges 'images.lpips_maen'"),
        ({"images.lpips_mean": at_least(0.1)}, f"{place}.images.lpips_mean: has no max"),
    ):
        gates = {name: replace(gate, budgets={"NVIDIA L40S": budget}) for name, gate in recipe.gates.items()}
        with pytest.raises(RecipeError, match=message):
            check_limits(replace(recipe, gates=gates))


def test_a_budget_holds_on_its_own_gpu_instead_of_the_limit(bf16: Record, int8: Record) -> None:
    strict = {"images.lpips_mean": at_most(1e-9), "images.ssim_mean": at_least(0.5)}
    recipe = gated(lpips_mean=at_most(0.5), psnr_mean=at_least(1))
    gates = {name: replace(gate, budgets={"NVIDIA L40S": strict}) for name, gate in recipe.gates.items()}
    recipe = replace(recipe, gates=gates)

    def limits(gpu: str | None) -> dict[str, tuple[float | None, float | None]]:
        record = replace(int8, fingerprint=replace(int8.fingerprint, gpu=gpu))
        found = Evidence(record, bf16, recipe).limits
        return {name: (limit.min, limit.max) for name, limit in found.items()}

    general = {"images.lpips_mean": (None, 0.5), "images.psnr_mean": (1, None)}
    assert limits(None) == limits("NVIDIA L4") == general
    budget = {"images.lpips_mean": (None, 1e-9), "images.ssim_mean": (0.5, None)}
    assert limits("NVIDIA L40S") == general | budget
    assert not Evidence(int8, bf16, replace(recipe, gates={})).limits


def test_a_limit_may_have_both_sides() -> None:
    check_limits(gated(lpips_mean=Limit(0.2, 0.0001, "too good is suspicious as well")))
    check_limits(replace(find_recipe("sdnq-int8"), gates={}))
