"""Limits and figures beside the noise floor, and the floor on disk."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ernie_qa.baseline.noise import Moved, Noise, find_noise, noise_file, save_noise, verify_noise
from ernie_qa.calibration.figures import definitions
from ernie_qa.cli import main
from ernie_qa.errors import BaselineError
from ernie_qa.floor import floored
from ernie_qa.judge import judge, refusal
from ernie_qa.record import Identity, Record
from ernie_qa.report.calibration import lines
from ernie_qa.rungs import Evidence, images
from ernie_qa.verdict import Check, Status
from tests.accepting import accepted, bundle
from tests.unit.test_images_rung import FINGERPRINT, at_least, at_most, draw, gated, observe


def moved(same: int = 0, **figures: float) -> Moved:
    named = {f"images.{name}": value for name, value in figures.items()}
    when = "2026-11-22T12:00:00+00:00"
    return Moved("a test", named, same, 2, 2, 0, 1.0, when, "0" * 64, FINGERPRINT, FINGERPRINT)


def noise_of(record: Record, ceiling: Mapping[str, float] | None = None, **changes: Moved) -> Noise:
    return Noise(record.model, "cpu", record.suite, changes, ceiling or {}, 2, definitions())


@pytest.fixture(scope="module")
def bf16() -> Record:
    return observe(draw(0, 0), "bf16")


@pytest.fixture(scope="module")
def int8(bf16: Record) -> Record:
    return observe(draw(0, 30), reference=bf16)


@pytest.fixture(scope="module")
def noise(bf16: Record) -> Noise:
    """Two changes, each the worse of the two in one figure."""
    ceiling = {"images.lpips_mean": 1.01, "images.ssim_mean": 0.5}
    math, avx2 = moved(lpips_mean=0.01, ssim_mean=0.98), moved(lpips_mean=0.002, ssim_mean=0.97)
    return noise_of(bf16, ceiling, math=math, avx2=avx2)


def named(name: str, checks: tuple[Check, ...]) -> Check:
    (check,) = (check for check in checks if check.name == name)
    return check


@pytest.mark.parametrize(
    ("figure", "within", "beyond", "floor", "change"),
    [
        ("lpips_mean", at_most(0.0099), at_most(0.01), 0.01, "math"),
        ("ssim_mean", at_least(0.9701), at_least(0.97), 0.97, "avx2"),
    ],
)
def test_a_limit_within_the_floor_is_refused_in_one_line(
    bf16: Record,
    int8: Record,
    noise: Noise,
    figure: str,
    within: object,
    beyond: object,
    floor: float,
    change: str,
) -> None:
    good = observe(draw(0, 0), reference=bf16)
    check = named(f"images.{figure}", judge(good, bf16, gated(**{figure: within}), noise=noise).checks)
    assert check.status is Status.NOT_COMPARABLE
    assert f"noise floor, {floor}" in check.message
    assert f"under {change}" in check.message
    assert "\n" not in check.message
    check = named(f"images.{figure}", judge(good, bf16, gated(**{figure: beyond}), noise=noise).checks)
    assert check.status is Status.PASS
    # what is worse than both fails whatever the limit
    for limit in (within, beyond):
        check = named(f"images.{figure}", judge(int8, bf16, gated(**{figure: limit}), noise=noise).checks)
        assert check.status is Status.FAIL


def test_a_refused_limit_never_passes_and_ends_an_arm_that_is_beyond_the_floor(
    bf16: Record, int8: Record, noise: Noise
) -> None:
    recipe = gated(lpips_mean=at_most(0.000001))
    assert refusal(int8, bf16, recipe, images) is not None
    assert refusal(int8, bf16, recipe, images, noise) is not None
    assert refusal(int8, bf16, recipe, images, noise_of(bf16, math=moved(lpips_mean=1.0))) is None
    good = observe(draw(0, 0), reference=bf16)
    for given, status in ((None, Status.PASS), (noise, Status.NOT_COMPARABLE)):
        verdict = judge(good, bf16, recipe, noise=given)
        assert named("images.lpips_mean", verdict.checks).status is status


def test_a_figure_is_shown_between_the_floor_and_the_ceiling(
    bf16: Record, int8: Record, noise: Noise
) -> None:
    check = named("images.lpips_mean", judge(int8, bf16, gated(lpips_mean=at_most(1)), noise=noise).checks)
    assert (check.floor, check.ceiling) == (0.01, 1.01)
    assert check.measured is not None
    assert check.position == pytest.approx(check.measured - 0.01)
    floor = replace(check, measured=0.97, floor=0.97, ceiling=0.5)
    assert (floor.position, replace(floor, measured=0.5).position) == (0, 1)
    assert replace(floor, ceiling=None).position is None
    assert replace(floor, ceiling=0.97).position is None


def test_a_missing_floor_is_told_and_changes_no_verdict(bf16: Record, int8: Record, noise: Noise) -> None:
    recipe = gated(lpips_mean=at_most(0.009))
    without = judge(int8, bf16, recipe)
    check = named("noise.floor", without.checks)
    assert (check.status, check.required) == (Status.NOT_APPLICABLE, False)
    assert "floor not measured: `ernie-qa calibrate toy --suite pair`" in check.message
    others = (
        replace(noise, machine="NVIDIA H100 80GB HBM3"),
        replace(noise, suite=Identity("pair", "1" * 64)),
        replace(noise, model=replace(noise.model, hash="1" * 64)),
    )
    for other in others:
        verdict = judge(int8, bf16, recipe, noise=other)
        assert verdict.status is without.status
        assert "floor not measured" in named("noise.floor", verdict.checks).message


def test_a_floor_of_nothing_is_deterministic(bf16: Record) -> None:
    still = noise_of(bf16, again=moved(same=2, lpips_mean=0.0, ssim_mean=1.0))
    assert still.deterministic
    assert "deterministic: no change moved a bit" in list(lines(still, {}))
    for other in (moved(same=1), replace(moved(same=2), figures={"components.pe_kl_max": 1e-12})):
        assert not noise_of(bf16, again=still.changes["again"], other=other).deterministic


def test_more_changes_join_those_that_are_there(bf16: Record, noise: Noise, tmp_path: Path) -> None:
    assert find_noise(tmp_path, "toy", "cpu", "pair") is None
    save_noise(tmp_path, noise)
    file = save_noise(tmp_path, noise_of(bf16, math=moved(lpips_mean=0.001)))
    found = find_noise(tmp_path, "toy", "cpu", "pair")
    assert found is not None
    assert verify_noise(tmp_path) == ((file, found),)
    assert found.floor("images.lpips_mean", "max").value == 0.002
    assert found.ceiling == noise.ceiling
    other = noise_of(replace(bf16, suite=Identity("pair", "1" * 64)), avx2=moved())
    save_noise(tmp_path, other)
    assert find_noise(tmp_path, "toy", "cpu", "pair") == other


def test_an_edited_or_moved_floor_is_refused(
    noise: Noise, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save_noise(tmp_path, noise)
    assert main(["baseline", "verify", "--baselines", str(tmp_path)]) == 0
    assert "the noise floor under 2 changes" in capsys.readouterr().out
    there = noise_file(tmp_path, "toy", "cpu", "another")
    file.rename(there)
    assert main(["baseline", "verify", "--baselines", str(tmp_path)]) == 2
    assert "moved or renamed" in capsys.readouterr().err
    there.rename(file)
    document = json.loads(file.read_text())
    document["changes"]["math"]["figures"]["images.lpips_mean"] = 0.5
    file.write_text(json.dumps(document))
    with pytest.raises(BaselineError, match="was edited"):
        find_noise(tmp_path, "toy", "cpu", "pair")
    assert main(["baseline", "verify", "--baselines", str(tmp_path)]) == 2


def test_what_was_accepted_may_move_as_far_as_the_floor(observed: tuple, tmp_path: Path) -> None:
    recipe, records = observed
    run, root = bundle(tmp_path / "run", records), tmp_path / "baselines"
    new = accepted(root, run, recipes=(recipe,)).new
    found = new.accepted[recipe.name].figures["images.lpips_mean"].measured[0]
    name = "baseline.images.lpips_mean"
    for factor, status in ((1.01, Status.PASS), (0.99, Status.FAIL)):
        floor = noise_of(records["bf16"], math=moved(lpips_mean=found * factor))
        strict = {**new.accepted[recipe.name].figures}
        strict["images.lpips_mean"] = replace(strict["images.lpips_mean"], limit=found / 2)
        one = replace(new.accepted[recipe.name], figures=strict)
        baseline = replace(new, accepted={**new.accepted, recipe.name: one})
        verdict = judge(records[recipe.name], records["bf16"], recipe, baseline, noise=floor)
        check = named(name, verdict.checks)
        assert check.status is status
        assert ("within the noise floor" in check.message) is (status is Status.PASS)


def test_a_floor_that_was_computed_otherwise_counts_for_nothing(
    bf16: Record, int8: Record, noise: Noise, tmp_path: Path
) -> None:
    recipe = gated(lpips_mean=at_most(0.009))
    other = replace(noise, definitions={**noise.definitions, "images.lpips_mean": "0" * 12})
    verdict = judge(int8, bf16, recipe, noise=other)
    assert verdict.status is judge(int8, bf16, recipe).status
    check = named("images.lpips_mean", verdict.checks)
    assert (check.floor, check.ceiling) == (None, None)
    assert "without a floor: images.lpips_mean" in named("noise.floor", verdict.checks).message
    save_noise(tmp_path, noise)
    save_noise(tmp_path, replace(other, changes={"avx2": noise.changes["avx2"]}))
    found = find_noise(tmp_path, "toy", "cpu", "pair")
    assert found is not None
    assert set(found.changes) == {"avx2"}


def test_a_floor_of_some_cases_is_none_of_the_suite_and_lies_beside_it(
    bf16: Record, int8: Record, noise: Noise, tmp_path: Path
) -> None:
    few = replace(noise, changes={"math": replace(noise.changes["math"], cases=1)})
    recipe = gated(lpips_mean=at_most(0.009))
    verdict = judge(int8, bf16, recipe, noise=few)
    assert verdict.status is judge(int8, bf16, recipe).status
    assert "measured in 1 of 2 cases" in named("noise.floor", verdict.checks).message
    whole, part = save_noise(tmp_path, noise), save_noise(tmp_path, few)
    assert part.name == "pair.first-1.json"
    assert find_noise(tmp_path, "toy", "cpu", "pair") == noise
    assert {file for file, _ in verify_noise(tmp_path)} == {whole, part}


def test_what_is_not_finite_fails_whatever_the_floor(bf16: Record, int8: Record, noise: Noise) -> None:
    check = Check("images.lpips_mean", "images", Status.FAIL, "not a number", measured=None, limit=0.001)
    evidence = Evidence(int8, bf16, gated(lpips_mean=at_most(0.001)))
    (found,) = (one for one in floored(evidence, [check], noise) if one.name == check.name)
    assert found.status is Status.FAIL


def test_a_place_that_cannot_be_written_is_told_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("", encoding="utf-8")
    monkeypatch.setattr("ernie_qa.calibration.calibrate", None)
    assert main(["calibrate", "mini", "--device", "cpu", "--baselines", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ernie-qa: {file}/noise: cannot be written: ")
    assert said.count("\n") == 1
