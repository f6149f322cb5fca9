"""Records against what was accepted: what fails, what cannot be compared, and who is blamed."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ernie_qa.baseline.accepted import is_drift
from ernie_qa.baseline.pictures import pictures_hash
from ernie_qa.baseline.store import Baseline, find_baseline
from ernie_qa.errors import RecipeError
from ernie_qa.judge import judge
from ernie_qa.recipe import Recipe, Waiver, find_recipe
from ernie_qa.record import Identity, ModelIdentity, Record
from ernie_qa.rungs import check_limits
from ernie_qa.verdict import Check, Status, Verdict
from tests.accepting import accepted, against, bundle, moved, on_a_gpu, scored, with_figures

Observed = tuple[Recipe, dict[str, Record]]


@pytest.fixture(scope="module")
def baseline(observed: Observed, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    recipe, records = observed
    directory = tmp_path_factory.mktemp("accepted")
    accepted(directory / "baselines", bundle(directory / "run", records), recipes=(recipe,))
    found = find_baseline(directory / "baselines", "tiny", "cpu")
    assert found is not None
    return found


def named(name: str, verdict: Verdict) -> Check:
    (check,) = [check for check in verdict.checks if name in (check.name, check.label)]
    return check


def of_the_baseline(verdict: Verdict, status: Status) -> list[str]:
    return [check.label for check in verdict.of(status) if check.rung == "baseline"]


def test_the_same_again_passes(observed: Observed, baseline: Baseline) -> None:
    recipe, records = observed
    for verdict in (
        judge(records["bf16"], None, "bf16", baseline, require_baseline=True),
        judge(records["lenient"], records["bf16"], recipe, baseline, require_baseline=True),
    ):
        assert verdict.status is Status.PASS, str(verdict)
        assert len(of_the_baseline(verdict, Status.PASS)) > 5
        assert "accepted by a tester" in named("baseline.accepted", verdict).message


PLANTED: dict[str, tuple[Callable[[Record], Record], str]] = {
    "package": (
        lambda record: with_figures(
            record, "package", "components", "transformer", "memory", value={"uint8": 10**9}
        ),
        "baseline.package.memory_bytes[transformer]",
    ),
    "activation": (
        lambda record: with_figures(
            record,
            *("activation", "components", "transformer", "calls"),
            value=[
                {**group, "quantized": 0}
                for group in record.figures["activation"]["components"]["transformer"]["calls"]
            ],
        ),
        "baseline.activation.kernel_share[transformer]",
    ),
    "images": (lambda record: scored(record, added=0.01), "baseline.images.lpips_mean"),
}


@pytest.mark.parametrize("rung", PLANTED)
def test_a_change_for_the_worse_fails_on_every_rung(
    observed: Observed, baseline: Baseline, rung: str
) -> None:
    recipe, records = observed
    plant, name = PLANTED[rung]
    verdict = judge(plant(records["lenient"]), records["bf16"], recipe, baseline)
    assert name in of_the_baseline(verdict, Status.FAIL)
    message = named(name, verdict).message
    assert "accepted" in message
    assert "build and machine are the same" in message
    # its own limits are another matter: this recipe's are lenient
    assert named("images.lpips_mean", verdict).status is Status.PASS


def test_a_change_for_the_better_passes(observed: Observed, baseline: Baseline) -> None:
    recipe, records = observed
    verdict = judge(scored(records["lenient"], 0.1), records["bf16"], recipe, baseline)
    assert not of_the_baseline(verdict, Status.FAIL)


def test_a_figure_that_is_missing_is_no_pass(observed: Observed, baseline: Baseline) -> None:
    recipe, records = observed
    without = with_figures(records["lenient"], "images", "metrics", "lpips", "mean", value=None)
    verdict = judge(without, records["bf16"], recipe, baseline)
    assert "baseline.images.lpips_mean" in of_the_baseline(verdict, Status.NOT_COMPARABLE)


def test_nothing_accepted_is_not_applicable_unless_it_is_required(
    observed: Observed, baseline: Baseline
) -> None:
    recipe, records = observed
    stranger = replace(recipe, name="stranger")
    for record, wanted, store in (
        (records["lenient"], recipe, None),
        (records["lenient"], stranger, baseline),
    ):
        for require, status in ((False, Status.NOT_APPLICABLE), (True, Status.NOT_COMPARABLE)):
            verdict = judge(record, records["bf16"], wanted, store, require_baseline=require)
            assert named("baseline.accepted", verdict).status is status


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"suite": Identity("small", "0" * 64)}, "the suite small (000000000000) is not the one"),
        ({"suite": Identity("other", "0" * 64)}, "the suite other (000000000000) is not the one"),
        (
            {"model": ModelIdentity("tiny", None, "unknown", "0" * 64)},
            "the model tiny (000000000000) is not the one",
        ),
        ({"recipe": Identity("lenient", "0" * 64)}, "the recipe lenient (000000000000) is not the one"),
        (
            {"artifact": ModelIdentity("tiny-int8", None, "unknown", "0" * 64)},
            "the record is of the artifact 000000000000, what was accepted is of a model quantized in memory",
        ),
    ],
)
def test_figures_of_something_else_are_not_comparable(
    observed: Observed, baseline: Baseline, change: dict[str, Any], said: str
) -> None:
    recipe, records = observed
    verdict = judge(replace(records["lenient"], **change), records["bf16"], recipe, baseline)
    check = named("baseline.accepted", verdict)
    assert check.status is Status.NOT_COMPARABLE
    assert said in check.message


def test_another_machine_is_not_comparable(observed: Observed, baseline: Baseline) -> None:
    recipe, records = observed
    bf16 = on_a_gpu(records["bf16"], 1.0)
    lenient = against(on_a_gpu(records["lenient"], 1.0), bf16)
    check = named("baseline.accepted", judge(lenient, bf16, recipe, baseline))
    assert check.status is Status.NOT_COMPARABLE
    assert "the record is of NVIDIA H100 80GB HBM3, what was accepted is of cpu" in check.message


@pytest.mark.parametrize(("drift", "blamed"), [(0.00002, False), (0.01, True), (None, True)])
def test_bf16_that_moved_is_blamed_and_not_the_quantization(
    observed: Observed, baseline: Baseline, drift: float | None, blamed: bool
) -> None:
    recipe, records = observed
    now = moved(records, drift, pictures_hash(records["bf16"].pictures))
    bf16 = judge(now["bf16"], None, "bf16", baseline)
    lenient = judge(scored(now["lenient"], added=0.01), now["bf16"], recipe, baseline)
    drifted = named("baseline.images.drift_lpips_mean", bf16)
    mean = named("baseline.images.lpips_mean", lenient)
    # what does not depend on BF16's pictures is judged all the same
    assert named("baseline.package.memory_bytes[transformer]", lenient).status is Status.PASS
    if not blamed:
        assert (drifted.status, mean.status) == (Status.PASS, Status.FAIL)
        return
    assert drifted.status is (Status.FAIL if drift else Status.NOT_COMPARABLE)
    assert mean.status is Status.NOT_COMPARABLE
    assert "BF16 is not where it was accepted" in mean.message
    assert not of_the_baseline(lenient, Status.FAIL)


def test_without_pictures_another_stack_cannot_be_compared(observed: Observed, baseline: Baseline) -> None:
    recipe, records = observed
    bf16 = baseline.accepted["bf16"]
    figures = {name: figure for name, figure in bf16.figures.items() if not is_drift(name)}
    blind = Baseline(baseline.path, {**baseline.accepted, "bf16": replace(bf16, figures=figures)}, None)
    verdict = judge(records["lenient"], records["bf16"], recipe, blind)
    assert not of_the_baseline(verdict, Status.NOT_COMPARABLE)
    packages = {**records["bf16"].fingerprint.packages, "torch": "9.9"}
    newer = replace(records["bf16"], fingerprint=replace(records["bf16"].fingerprint, packages=packages))
    verdict = judge(against(records["lenient"], newer), newer, recipe, blind)
    check = named("baseline.images.lpips_mean", verdict)
    assert check.status is Status.NOT_COMPARABLE
    assert "packages.torch" in check.message


def gated(recipe: Recipe, **changes: Any) -> Recipe:
    gate = recipe.gates["small"]
    return replace(recipe, gates={"small": replace(gate, **changes)})


def test_what_is_informational_does_not_decide_here_either(observed: Observed, baseline: Baseline) -> None:
    recipe, records = observed
    limits = recipe.gates["small"].limits
    shown = gated(recipe, informational=frozenset({"images.ssim_mean"}), limits=limits)
    worse = with_figures(records["lenient"], "images", "metrics", "ssim", "mean", value=0.1)
    for wanted, decides in ((recipe, True), (shown, False)):
        check = named("baseline.images.ssim_mean", judge(worse, records["bf16"], wanted, baseline))
        assert (check.status, check.required) == (Status.FAIL, decides)


def test_what_was_computed_otherwise_is_not_compared(observed: Observed, baseline: Baseline) -> None:
    recipe, records = observed
    other = with_figures(
        records["lenient"], "images", "metrics", "lpips", "definition", value="lpips 0.1, VGG"
    )
    check = named("baseline.images.lpips_mean", judge(other, records["bf16"], recipe, baseline))
    assert check.status is Status.NOT_COMPARABLE
    assert "lpips 0.1, VGG" in check.message


def test_the_baseline_cannot_be_made_informational(observed: Observed) -> None:
    recipe, _ = observed
    with pytest.raises(RecipeError, match="use a waiver, which ends"):
        check_limits(gated(recipe, informational=frozenset({"baseline.accepted"})))


TODAY = date(2026, 11, 22)


@pytest.mark.parametrize("name", ["baseline.images.lpips_mean", "baseline.package.memory_bytes[transformer]"])
@pytest.mark.parametrize(("until", "status"), [("2026-11-22", Status.PASS), ("2026-11-21", Status.FAIL)])
def test_a_waiver_holds_until_its_date(
    observed: Observed, baseline: Baseline, name: str, until: str, status: Status
) -> None:
    recipe, records = observed
    waiver = Waiver(name, "sdnq issue 12", date.fromisoformat(until))
    worse = scored(records["lenient"], added=0.01)
    if "package" in name:
        worse = PLANTED["package"][0](records["lenient"])
    plain = judge(worse, records["bf16"], recipe, baseline, today=TODAY)
    assert plain.status is Status.FAIL
    verdict = judge(worse, records["bf16"], gated(recipe, waivers=(waiver,)), baseline, today=TODAY)
    assert verdict.status is status, str(verdict)
    check = named(name, verdict)
    assert check.status is Status.FAIL
    assert check.message.startswith("waived until 2026-11-22 (sdnq issue 12): ") == (status is Status.PASS)
    (use,) = verdict.waivers
    assert (use.expired, use.checks) == (status is Status.FAIL, 1)
    assert str(use) in str(verdict)


def test_an_expired_waiver_fails_though_nothing_else_does(observed: Observed, baseline: Baseline) -> None:
    recipe, records = observed
    old = gated(recipe, waivers=(Waiver("images.lpips_mean", "was once needed", date(2020, 1, 1)),))
    verdict = judge(records["lenient"], records["bf16"], old, baseline, today=TODAY)
    assert verdict.status is Status.FAIL
    assert [check.name for check in verdict.of(Status.FAIL)] == ["waivers.expired"]


def test_a_waiver_of_nothing_says_so(observed: Observed) -> None:
    recipe, records = observed
    other = gated(recipe, waivers=(Waiver("images.lpips_mena", "a slip", date(2030, 1, 1)),))
    verdict = judge(records["lenient"], records["bf16"], other, today=TODAY)
    assert "no check has this name" in str(verdict)
    with pytest.raises(RecipeError, match=r"waivers: 'image.x' belongs to no rung"):
        check_limits(gated(recipe, waivers=(Waiver("image.x", "a slip", date(2030, 1, 1)),)))


def test_waivers_are_read_from_the_recipe(observed: Observed, tmp_path: Path) -> None:
    recipe, _ = observed
    text = recipe.path.read_text(encoding="utf-8")
    entry = '\n[[gates.small.waivers]]\ncheck = "activation.kernels[pe]"\nreason = "why"\nuntil = {}\n'
    path = tmp_path / "waived.toml"
    path.write_text(text + entry.format("2026-12-31"), encoding="utf-8")
    assert find_recipe(path).gates["small"].waivers == (
        Waiver("activation.kernels[pe]", "why", date(2026, 12, 31)),
    )
    for wrong in ('"2026-12-31"', "2026-12-31T00:00:00", "20261231"):
        path.write_text(text + entry.format(wrong), encoding="utf-8")
        with pytest.raises(RecipeError, match=r"waivers\[0\].until: .*a date without quotes"):
            find_recipe(path)
