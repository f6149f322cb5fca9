"""The images rung on records with real pictures: what it measures, and every way in which it judges."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ernie_qa.drawing import Drawn
from ernie_qa.fidelity.metrics import metrics
from ernie_qa.fingerprint import take_fingerprint
from ernie_qa.models.find import Model
from ernie_qa.picture import Picture
from ernie_qa.recipe import Gate, Limit, Recipe, find_recipe
from ernie_qa.record import Identity, ModelIdentity, Record
from ernie_qa.rungs import Arm, Evidence, images, rungs
from ernie_qa.suite import Case, Suite
from ernie_qa.verdict import Check, Status, Verdict

SUITE = Suite(
    name="pair",
    version=1,
    summary="two cases",
    steps=2,
    guidance=1.0,
    use_pe=False,
    cases=(Case("tall", "a", 48, 64, 1, "colour"), Case("wide", "b", 64, 48, 2, "colour")),
    path=Path("pair.toml"),
)
FINGERPRINT = take_fingerprint("cpu")


def texture(case: Case, damage: int = 0) -> np.ndarray:
    """A smooth picture of the case's size; `damage` is the amplitude of noise on it, in levels."""
    y, x = np.mgrid[: case.height, : case.width]
    ground = np.stack([x * 3, y * 3, x + y], axis=-1) % 256
    noise = np.random.default_rng(case.seed).integers(-damage, damage + 1, ground.shape)
    return (ground + noise).clip(0, 255).astype(np.uint8)


def draw(*damage: int) -> dict[str, np.ndarray]:
    return {case.id: texture(case, level) for case, level in zip(SUITE.cases, damage, strict=True)}


def observe(
    pictures: Mapping[str, np.ndarray],
    recipe: str = "sdnq-int8",
    reference: Record | None = None,
    weights: str = "trained",
    nonfinite: int = 0,
) -> Record:
    """What the real observe does around this rung."""
    model = Model(Path("model"), ModelIdentity("toy", None, weights, "0" * 64), (), None)
    found = find_recipe(recipe)
    drawn = tuple(Drawn(case, pixels, nonfinite, 0.1, {}, {}) for case, pixels in pictures.items())
    measuring = images.measure(Arm(SimpleNamespace(device="cpu"), model, found, SUITE, reference))
    next(measuring)
    with pytest.raises(StopIteration) as stop:
        measuring.send(drawn)
    return Record(
        schema=1,
        created="2026-11-22T12:00:00+00:00",
        model=model.identity,
        recipe=Identity(found.name, found.hash),
        suite=Identity(SUITE.name, SUITE.hash),
        fingerprint=FINGERPRINT,
        figures={"images": stop.value.value},
        pictures=tuple(Picture.from_pixels(one.case, one.pixels) for one in drawn),
        reference=reference.hash if reference else None,
    )


def gated(recipe: str = "sdnq-int8", informational: tuple[str, ...] = (), **limits: Limit) -> Recipe:
    """A shipped recipe with other limits: `lpips_mean=...` sets images.lpips_mean."""
    gate = Gate({f"images.{name}": limit for name, limit in limits.items()}, frozenset(informational))
    return replace(find_recipe(recipe), gates={SUITE.name: gate})


def at_most(bound: float, about: str = "suite") -> Limit:
    return Limit(bound, None, "a test", provisional=True, about=about)


def at_least(bound: float, about: str = "suite") -> Limit:
    return Limit(None, bound, "a test", about=about)


def judge(record: Record, reference: Record | None, recipe: Recipe) -> dict[tuple[str, str | None], Check]:
    return {(check.name, check.case): check for check in images.judge(Evidence(record, reference, recipe))}


@pytest.fixture(scope="module")
def bf16() -> Record:
    return observe(draw(0, 0), "bf16")


@pytest.fixture(scope="module")
def int8(bf16: Record) -> Record:
    return observe(draw(0, 30), reference=bf16)


def test_the_rung_is_found() -> None:
    assert images in rungs()
    assert list(rungs()) == sorted(rungs(), key=lambda rung: rung.ORDER)


def test_every_metric_can_be_limited_by_its_mean_and_its_worst() -> None:
    assert set(images.LIMITS) == {
        "images.lpips_mean", "images.lpips_max", "images.ssim_mean", "images.ssim_min",
        "images.psnr_mean", "images.psnr_min",
    }  # fmt: skip


def test_figures_are_per_case_and_over_the_suite(bf16: Record, int8: Record) -> None:
    figures = int8.figures["images"]
    tall, wide = (figures["cases"][case]["scores"] for case in ("tall", "wide"))
    assert (tall["lpips"], tall["ssim"], tall["psnr"]) == (0.0, 1.0, "identical")
    assert figures["metrics"]["lpips"]["mean"] == pytest.approx(wide["lpips"] / 2)
    assert figures["metrics"]["lpips"]["max"] == wide["lpips"] > 0.01
    assert figures["metrics"]["ssim"]["min"] == wide["ssim"] < 0.99
    assert {summary["worst_case"] for summary in figures["metrics"].values()} == {"wide"}
    assert figures["cases"]["wide"]["sha256"] == int8.pictures[1].sha256
    assert figures["reference"] == bf16.hash


def test_an_identical_picture_does_not_lift_the_mean_of_psnr(bf16: Record, int8: Record) -> None:
    summary = int8.figures["images"]["metrics"]["psnr"]
    assert summary["mean"] == summary["min"] == int8.figures["images"]["cases"]["wide"]["scores"]["psnr"]
    same = observe(draw(0, 0), reference=bf16).figures["images"]["metrics"]["psnr"]
    assert (same["mean"], same["min"]) == ("identical", "identical")


def test_limits_kept_pass(bf16: Record, int8: Record) -> None:
    checks = judge(int8, bf16, gated(lpips_mean=at_most(0.9), ssim_min=at_least(0.1), psnr_mean=at_least(5)))
    required = [check for check in checks.values() if check.required]
    assert {check.status for check in required} == {Status.PASS}
    assert {check.name for check in required} == {
        "images.defects", "images.lpips_mean", "images.ssim_min", "images.psnr_mean",
    }  # fmt: skip


@pytest.mark.parametrize(
    "limit",
    [
        {"lpips_mean": at_most(0.0001)},
        {"lpips_max": at_most(0.0001)},
        {"lpips_mean": at_least(0.9)},
        {"ssim_mean": at_least(0.9999)},
        {"ssim_min": at_least(0.9999)},
        {"psnr_min": at_least(90)},
    ],
    ids=["mean", "max", "too good", "ssim", "ssim min", "psnr"],
)
def test_a_broken_limit_fails_and_names_the_worst_picture(
    bf16: Record, int8: Record, limit: dict[str, Limit]
) -> None:
    (name,) = limit
    check = judge(int8, bf16, gated(**limit))[f"images.{name}", None]
    assert check.status is Status.FAIL
    assert f"compare {int8.recipe.name}/pictures/wide.png with bf16's; `ernie-qa explain D" in check.message
    assert "a test" in check.message
    assert check.measured is not None
    assert check.limit in (limit[name].max, limit[name].min)


def test_a_provisional_limit_says_so(bf16: Record, int8: Record) -> None:
    recipe = gated(lpips_mean=at_most(0.9), ssim_mean=at_least(0.1))
    checks = judge(int8, bf16, recipe)
    assert "(a test, provisional)" in checks["images.lpips_mean", None].message
    assert "(a test)" in checks["images.ssim_mean", None].message


def test_single_pictures_are_shown_and_do_not_decide(bf16: Record, int8: Record) -> None:
    checks = judge(int8, bf16, gated(lpips_max=at_most(0.0001), ssim_mean=at_least(0.1)))
    singles = {key: check for key, check in checks.items() if not check.required}
    assert set(singles) == {(f"images.{m.NAME}", case.id) for m in metrics() for case in SUITE.cases}
    assert singles["images.lpips", "tall"].status is Status.PASS
    assert singles["images.lpips", "wide"].status is Status.FAIL
    assert singles["images.ssim", "wide"].status is Status.NOT_APPLICABLE
    assert singles["images.psnr", "tall"].measured is None
    assert "identical" in singles["images.psnr", "tall"].message


def test_identical_pictures_pass_any_limit_on_psnr(bf16: Record) -> None:
    check = judge(observe(draw(0, 0), reference=bf16), bf16, gated(psnr_mean=at_least(99)))
    assert check["images.psnr_mean", None].status is Status.PASS
    assert "PSNR mean identical" in check["images.psnr_mean", None].message


@pytest.mark.parametrize(
    ("picture", "nonfinite", "complaint"),
    [
        (texture(SUITE.cases[0]), 12, "12 values are NaN or infinite"),
        (np.full((64, 48, 3), 77, np.uint8), 0, "blank"),
        (np.full((64, 48, 3), (0, 255, 9), np.uint8), 0, "blank"),
        (texture(SUITE.cases[0])[:, :40], 0, "40x64 pixels instead of 48x64"),
    ],
    ids=["nan", "grey", "green", "size"],
)
def test_a_defect_fails_outright(bf16: Record, picture: np.ndarray, nonfinite: int, complaint: str) -> None:
    record = observe({**draw(0, 0), "tall": picture}, reference=bf16, nonfinite=nonfinite)
    check = judge(record, bf16, gated(lpips_mean=at_most(1)))["images.defects", "tall"]
    assert (check.status, check.required) == (Status.FAIL, True)
    assert complaint in check.message


def test_a_case_without_a_score_leaves_the_suite_undecided(bf16: Record) -> None:
    record = observe({"wide": draw(0, 0)["wide"]}, reference=bf16)
    checks = judge(record, bf16, gated(lpips_mean=at_most(1)))
    assert checks["images.defects", "tall"].status is Status.FAIL
    assert checks["images.lpips_mean", None].status is Status.NOT_COMPARABLE
    assert "tall" in checks["images.lpips_mean", None].message


def other_machine(record: Record) -> Record:
    return replace(record, fingerprint=replace(record.fingerprint, cpu="another CPU"))


def test_what_cannot_be_compared_is_never_a_pass(bf16: Record, int8: Record) -> None:
    recipe = gated(lpips_mean=at_most(1))
    elsewhere = other_machine(bf16)
    others = {
        "without a reference": (observe(draw(0, 0)), bf16),
        "judge with that record": (int8, None),
        "the reference given is": (int8, observe(draw(1, 1), "bf16")),
        "another suite": (observe(draw(0, 0), reference=replace(bf16, suite=Identity("x", "1" * 64))), bf16),
        "another build or machine": (observe(draw(0, 0), reference=elsewhere), elsewhere),
    }
    for reason, (record, reference) in others.items():
        check = judge(record, reference, recipe)["images.lpips_mean", None]
        assert (check.status, check.required) == (Status.NOT_COMPARABLE, True)
        assert reason in check.message


def test_a_quantized_recipe_without_limits_is_not_comparable(bf16: Record, int8: Record) -> None:
    recipe = replace(find_recipe("sdnq-int8"), gates={})
    check = judge(int8, bf16, recipe)["images.limits", None]
    assert check.status is Status.NOT_COMPARABLE
    wanted = "sdnq-int8 has no images limits that decide for suite pair: add [gates.pair.limits]"
    assert wanted in check.message


def test_bf16_has_no_reference_and_needs_none(bf16: Record) -> None:
    checks = judge(bf16, None, gated("bf16", lpips_mean=at_most(0.1)))
    assert checks["images.lpips_mean", None].status is Status.NOT_APPLICABLE
    assert Verdict("bf16", tuple(checks.values())).status is Status.PASS


def test_bf16_given_a_reference_is_judged_like_any_other(bf16: Record) -> None:
    again = observe(draw(0, 30), "bf16", reference=bf16)
    checks = judge(again, bf16, gated("bf16", lpips_mean=at_most(0.0001)))
    assert checks["images.lpips_mean", None].status is Status.FAIL


def test_random_weights_are_not_applicable_whatever_they_show() -> None:
    # Nothing is scored either: a replica's run must not ask for LPIPS weights.
    reference = observe(draw(0, 0), "bf16", weights="random")
    record = observe(draw(0, 99), reference=reference, weights="random", nonfinite=3)
    assert record.figures["images"]["cases"]["wide"]["scores"] == {}
    checks = judge(record, reference, gated(lpips_mean=at_most(0.1)))
    assert {check.status for check in checks.values()} == {Status.NOT_APPLICABLE}


def test_a_record_without_figures_is_not_comparable(bf16: Record, int8: Record) -> None:
    (check,) = judge(replace(int8, figures={}), bf16, gated(lpips_mean=at_most(1))).values()
    assert check.status is Status.NOT_COMPARABLE
