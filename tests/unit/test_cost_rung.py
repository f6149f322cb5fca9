"""The cost rung on records as a GPU would leave them: what is judged, by which limit, and when it is not."""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ernie_qa.baseline.accepted import Tracked
from ernie_qa.baseline.store import Baseline, find_baseline
from ernie_qa.errors import RecipeError
from ernie_qa.frozen import thaw
from ernie_qa.judge import judge
from ernie_qa.nvml import REASONS
from ernie_qa.recipe import Limit, Recipe
from ernie_qa.record import Record
from ernie_qa.rungs import Evidence, check_limits, cost
from ernie_qa.verdict import Check, Status
from tests.accepting import accepted, against, bundle, on_a_gpu, with_figures

Observed = tuple[Recipe, dict[str, Record]]
H100 = "NVIDIA H100 80GB HBM3"
CALM = {"samples": 8, "reasons": dict.fromkeys(REASONS, 0), "other_processes": 0}
HOT = {**CALM, "reasons": {**CALM["reasons"], "hw_thermal_slowdown": 3}}
SHARED = {**CALM, "other_processes": 1}
STAGES = {"text_encoder": 0.1, "transformer": 0.7, "vae": 0.2}


def picture(seconds: float, *, peak: int = 10**9, compiled: int = 0) -> dict[str, Any]:
    """The figures of one picture whose stages fill its time."""
    stages = {stage: share * seconds for stage, share in STAGES.items()}
    peaks = {"allocated": peak, "reserved": 2 * peak, "driver": 3 * peak, "resident": None}
    return {"seconds": seconds, "stages": stages, "peak": peaks, "compiled": compiled}


def timed(record: Record, *pictures: Mapping[str, Any], **figures: Any) -> Record:
    """`record` as if a calm H100 had drawn `pictures`, with other `figures` changed."""
    record = on_a_gpu(record, 1.0)
    load = {"seconds": 9.0, "peak": {"allocated": 3 * 10**9}}
    named = {f"{number:02}": one for number, one in enumerate(pictures)}
    found = {"pictures": named, "load": load, "clocks": CALM} | figures
    for name, value in found.items():
        record = with_figures(record, "cost", name, value=value)
    return record


def compared(record: Record, bf16: Record | None) -> Record:
    """`record` with the ratios that observing it against `bf16` would have measured."""
    model, suite = SimpleNamespace(identity=record.model), SimpleNamespace(hash=record.suite.hash)
    arm: Any = SimpleNamespace(reference=bf16, model=model, suite=suite, timed_apart=False)
    ratios = cost._ratios(thaw(record.figures["cost"]), arm)
    record = with_figures(record, "cost", "ratios", value=ratios)
    return replace(record, reference=bf16.hash if bf16 else None)


def limited(recipe: Recipe, gpu: str = "", **limits: float) -> Recipe:
    """`recipe` with limits on cost: for every GPU, or in the budgets of the model `gpu`."""
    found = {f"cost.{name}": Limit(limit, None, "a test") for name, limit in limits.items()}
    gate = recipe.gates["small"]
    if gpu:
        return replace(recipe, gates={"small": replace(gate, budgets={**gate.budgets, gpu: found})})
    return replace(recipe, gates={"small": replace(gate, limits={**gate.limits, **found})})


def judged(record: Record, recipe: Recipe, bf16: Record | None = None) -> dict[str, Check]:
    checks = list(cost.judge(Evidence(record, bf16, recipe)))
    assert all("\n" not in check.message for check in checks)
    return {check.name.removeprefix("cost."): check for check in checks}


@pytest.fixture
def recipe(observed: Observed) -> Recipe:
    return observed[0]


@pytest.fixture
def bf16(observed: Observed) -> Record:
    """BF16: four seconds for the first picture, two for each other."""
    return timed(observed[1]["bf16"], picture(4.0), picture(2.0, peak=2 * 10**9), picture(2.0))


@pytest.fixture
def record(observed: Observed, bf16: Record) -> Record:
    """The quantized arm: three seconds, then one and two."""
    pictures = (picture(3.0, peak=5 * 10**9), picture(1.0), picture(2.0))
    return compared(timed(observed[1]["lenient"], *pictures), bf16)


# limits


def test_a_figure_without_a_limit_is_shown_and_not_judged(record: Record, recipe: Recipe) -> None:
    found = judged(record, recipe)
    assert {check.status for check in found.values()} == {Status.NOT_APPLICABLE}
    assert not any(check.required for check in found.values())
    # the first picture counts neither in time nor in memory
    assert {name: check.measured for name, check in found.items()} == {
        "latency": 1.5,
        "peak_allocated": 10**9,
        "first_image_warm": 3.0,
        "load": 9.0,
        "load_peak_allocated": 3 * 10**9,
        "latency_ratio": 0.75,
        "peak_ratio": 0.75,
    }
    assert found["latency"].message == (
        "steady latency a picture 1.5 s (median; mean 1.5, 1 to 2; text_encoder 10%, transformer 70%, "
        "vae 20%); no limit for this GPU"
    )
    assert found["peak_allocated"].message == "peak allocated while drawing 954 MiB; no limit for this GPU"


@pytest.mark.parametrize(("most", "status"), [(1.5, Status.PASS), (1.4, Status.FAIL)])
def test_a_budget_of_this_gpu_is_a_limit(record: Record, recipe: Recipe, most: float, status: Status) -> None:
    check = judged(record, limited(recipe, H100, latency=most))["latency"]
    assert (check.status, check.required, check.limit) == (status, True, most)
    assert f", at most {most} s (a test)" in check.message


def test_a_budget_of_another_gpu_is_none(record: Record, recipe: Recipe) -> None:
    elsewhere = limited(recipe, "NVIDIA L40S", latency=0.1)
    assert judged(record, elsewhere)["latency"].status is Status.NOT_APPLICABLE
    # it stands before what holds everywhere, and only where it is from
    both = limited(limited(recipe, latency=0.1), H100, latency=1.6)
    assert judged(record, both)["latency"].status is Status.PASS
    assert judged(record, limited(elsewhere, latency=0.2))["latency"].limit == 0.2


def test_a_ratio_holds_on_every_gpu(record: Record, bf16: Record, recipe: Recipe) -> None:
    found = judged(record, limited(recipe, latency_ratio=0.7, peak_ratio=0.8), bf16)
    assert found["latency_ratio"].status is Status.FAIL
    assert found["peak_ratio"].status is Status.PASS
    assert "steady latency against BF16 0.75, at most 0.7 (a test)" in found["latency_ratio"].message


def test_a_limit_decides_the_verdict(record: Record, bf16: Record, recipe: Recipe) -> None:
    record = against(record, bf16)
    assert judge(record, bf16, recipe).status is Status.PASS
    strict = judge(record, bf16, limited(recipe, H100, load=8.9))
    assert [check.label for check in strict.of(Status.FAIL)] == ["cost.load"]
    alone = against(compared(record, None), bf16)
    blind = judge(alone, bf16, limited(recipe, peak_ratio=0.5))
    assert (blind.status, [check.label for check in blind.of(Status.NOT_COMPARABLE)]) == (
        Status.NOT_COMPARABLE,
        ["cost.peak_ratio"],
    )


def test_a_limit_that_nothing_is_measured_for_is_refused(recipe: Recipe) -> None:
    check_limits(limited(limited(recipe, latency_ratio=0.9), H100, first_image_cold=60.0))
    with pytest.raises(
        RecipeError, match=r"'cost\.latencies'; did you mean \"cost\.latency\"\? allowed are "
    ):
        check_limits(limited(recipe, H100, latencies=1.0))


# what is not comparable

DISTURBED = {
    "heat": ({"clocks": HOT}, "the GPU ran too hot", {"latency", "first_image_warm"}),
    "company": ({"clocks": SHARED}, "1 other process computed", {"latency", "first_image_warm"}),
    "spilled": (
        {"physical": 9 * 10**9},
        "the driver spilled into main memory",
        {"latency", "load", "first_image_warm", "peak_allocated"},
    ),
}


@pytest.mark.parametrize("why", DISTURBED)
def test_a_disturbed_run_is_not_comparable(record: Record, recipe: Recipe, why: str) -> None:
    changed, said, spoiled = DISTURBED[why]
    for name, value in changed.items():
        record = with_figures(record, "cost", name, value=value)
    everything = {"latency": 0.1, "load": 0.1, "first_image_warm": 0.1, "peak_allocated": 1e12}
    found = judged(record, limited(recipe, H100, **everything))
    assert {name for name in everything if found[name].status is Status.NOT_COMPARABLE} == spoiled
    assert all(said in found[name].message for name in spoiled)
    # what is not judged is not accused either
    assert judged(record, recipe)["latency"].status is Status.NOT_APPLICABLE


def of_another_build(bf16: Record) -> Record:
    packages = {**bf16.fingerprint.packages, "torch": "9.9"}
    return replace(bf16, fingerprint=replace(bf16.fingerprint, packages=packages))


def without_ratios(record: Record, bf16: Record) -> dict[str, tuple[Record, Record | None, str]]:
    """Why there is nothing to compare with: the arm, its reference, what is said."""
    offloaded = with_figures(bf16, "cost", "residency", value=cost.OFFLOADED)
    hot = with_figures(bf16, "cost", "clocks", value=HOT)
    early = replace(bf16, figures={name: one for name, one in bf16.figures.items() if name != "cost"})
    alone = with_figures(bf16, "cost", "pictures", value={"00": picture(4.0)})
    return {
        "none": (compared(record, None), None, "there is no reference: observe with the bf16 record"),
        "residency": (compared(record, offloaded), offloaded, "resident and BF16 model_offload: run both"),
        "heat": (compared(record, hot), hot, "while BF16 was drawn, the GPU ran too hot"),
        "early": (compared(record, early), early, "the reference holds no figures of this rung"),
        "one picture": (compared(record, alone), alone, "no picture was steady"),
        "build": (
            compared(record, elsewhere := of_another_build(bf16)),
            elsewhere,
            "of another build or machine (packages.torch: ",
        ),
        "not given": (compared(record, bf16), None, "judge with that record as reference"),
        "not that one": (compared(record, bf16), hot, "judge with the former"),
        "suite": (
            compared(record, other := replace(bf16, suite=replace(bf16.suite, hash="0" * 64))),
            other,
            "of another model or suite",
        ),
    }


MEASURED = ("build", "not given", "not that one")
"""Where there are ratios, which are not to be judged."""


@pytest.mark.parametrize(
    "why", ["none", "residency", "heat", "early", "one picture", "suite", *MEASURED], ids=str
)
def test_without_a_fair_reference_ratios_are_not_comparable(
    record: Record, bf16: Record, recipe: Recipe, why: str
) -> None:
    arm, reference, said = without_ratios(record, bf16)[why]
    found = judged(arm, limited(recipe, latency_ratio=9.0, peak_ratio=9.0, load=9.0), reference)
    for name in ("latency_ratio", "peak_ratio"):
        assert (found[name].status, found[name].required) == (Status.NOT_COMPARABLE, True)
        assert said in found[name].message
    assert found["load"].status is Status.PASS
    if why not in MEASURED:
        assert "latency_ratio" not in judged(arm, recipe, reference)


# which pictures count


def test_a_picture_for_which_kernels_were_compiled_is_not_steady(
    observed: Observed, recipe: Recipe, bf16: Record
) -> None:
    slow = picture(40.0, peak=7 * 10**9, compiled=5)
    record = timed(observed[1]["lenient"], slow, picture(1.0), slow)
    assert list(cost.steady(record.figures["cost"])) == ["01"]
    found = judged(compared(record, bf16), recipe, bf16)
    assert (found["latency"].measured, found["peak_allocated"].measured) == (1.0, 10**9)
    assert (found["latency_ratio"].measured, found["peak_ratio"].measured) == (0.5, 0.5)


@pytest.mark.parametrize(("compiled", "kind", "other"), [(9, "cold", "warm"), (0, "warm", "cold")])
def test_a_first_picture_is_held_to_the_limit_of_its_kind(
    observed: Observed, recipe: Recipe, compiled: int, kind: str, other: str
) -> None:
    record = timed(observed[1]["lenient"], picture(30.0, compiled=compiled), picture(1.0))
    both = {f"first_image_{kind}": 31.0, f"first_image_{other}": 0.1}
    found = judged(record, limited(recipe, H100, **both))
    assert found[f"first_image_{kind}"].status is Status.PASS
    assert f"first_image_{other}" not in found


@pytest.mark.parametrize("pictures", [[picture(2.0)], [picture(9.0, compiled=3)] * 3], ids=["one", "all new"])
def test_a_suite_without_a_steady_picture(
    observed: Observed, recipe: Recipe, pictures: list[dict[str, Any]]
) -> None:
    record = timed(observed[1]["lenient"], *pictures)
    record = with_figures(record, "cost", "ratios", value={"why": cost.NONE_STEADY})
    assert "latency" not in judged(record, recipe)
    found = judged(
        record, limited(recipe, H100, latency=9.0, latency_ratio=9.0, peak_allocated=9e9, load=9.0)
    )
    assert found["load"].status is Status.PASS
    for name in ("latency", "latency_ratio", "peak_allocated"):
        assert found[name].status is Status.NOT_COMPARABLE
        assert found[name].message.endswith(cost.NONE_STEADY)


def test_a_pipeline_from_elsewhere_was_not_loaded(record: Record, recipe: Recipe) -> None:
    record = with_figures(record, "cost", "load", value=None)
    assert "load" not in judged(record, recipe)
    check = judged(record, limited(recipe, H100, load=9.0))["load"]
    assert check.status is Status.NOT_COMPARABLE
    assert "loading was not measured" in check.message


def test_what_the_prompt_enhancer_took_is_told_apart(record: Record, recipe: Recipe) -> None:
    wrote = {"prompt": "a fox", "tokens": 30, "seconds": 2.0}
    record = with_figures(record, "cost", "pictures", "01", "enhanced", value=wrote)
    check = judged(record, recipe)["enhancing"]
    assert (check.status, check.case, check.measured) == (Status.NOT_APPLICABLE, "01", 2.0)
    assert "wrote 30 tokens in 2.00 s (15.0 tokens a second)" in check.message
    assert cost.written(record) == {"01": "a fox"}
    assert cost.took(record)[0] == pytest.approx(9.0 + 3.0 + 1.0 + 2.0 + 2.0)


# other records


def test_a_cpu_is_recorded_and_not_judged(observed: Observed, recipe: Recipe) -> None:
    (check,) = judged(observed[1]["lenient"], limited(recipe, latency=0.001, latency_ratio=0.1)).values()
    assert (check.name, check.status) == ("cost.latency", Status.NOT_APPLICABLE)
    assert check.measured is not None
    assert check.message.endswith("on a CPU recorded, not judged")
    assert list(cost.track(observed[1]["lenient"], None)) == []


@pytest.mark.parametrize("figures", [None, {"load_seconds": 3.0, "seconds": {"a": 1.0}}], ids=["none", "old"])
def test_a_record_from_before_says_nothing(record: Record, recipe: Recipe, figures: Any) -> None:
    rest = {name: one for name, one in record.figures.items() if name != "cost"}
    old = replace(record, figures=rest if figures is None else {**rest, "cost": figures})
    (check,) = judged(old, recipe).values()
    assert (check.status, check.required) == (Status.NOT_APPLICABLE, False)
    (check,) = judged(old, limited(recipe, H100, load=9.0)).values()
    assert (check.status, check.required) == (Status.NOT_COMPARABLE, True)
    assert "observe the recipe again" in check.message
    assert list(cost.track(old, None)) == []
    assert cost.took(old) == (None, None)


# what is held on to


def tracked(record: Record) -> dict[str, Tracked]:
    return {one.name.removeprefix("cost."): one for one in cost.track(record, None)}


def test_what_is_held_on_to(record: Record) -> None:
    found = tracked(record)
    assert list(found) == ["peak_allocated", "load_peak_allocated", "latency", "latency_ratio"]
    assert {(one.runs, one.better, one.definition) for one in found.values()} == {(3, "lower", "")}
    assert not any(one.against_bf16 for one in found.values())
    assert list(tracked(compared(record, None))) == ["peak_allocated", "load_peak_allocated", "latency"]
    offloaded = tracked(with_figures(record, "cost", "residency", value=cost.OFFLOADED))
    assert {one.definition for one in offloaded.values()} == {cost.OFFLOADED}


@pytest.mark.parametrize("why", ["short", "hot"])
def test_seconds_that_say_little_are_not_held_on_to(observed: Observed, why: str) -> None:
    seconds = 0.99 * cost.SHORTEST if why == "short" else 1.0
    clocks = HOT if why == "hot" else CALM
    record = timed(observed[1]["lenient"], picture(9.0), picture(seconds), clocks=clocks)
    assert list(tracked(record)) == ["peak_allocated", "load_peak_allocated"]


@pytest.fixture(scope="module")
def kept(observed: Observed, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    """What three runs of a second a picture, on an H100, were accepted with."""
    recipe, records = observed
    directory = tmp_path_factory.mktemp("kept")
    runs = []
    for number, seconds in enumerate((1.0, 1.002, 1.001)):
        bf16 = on_a_gpu(records["bf16"], seconds)
        arms = {"bf16": bf16, "lenient": against(on_a_gpu(records["lenient"], seconds), bf16)}
        runs.append(bundle(directory / f"run{number}", arms))
    accepted(directory / "kept", *runs, recipes=(recipe,))
    found = find_baseline(directory / "kept", "tiny", H100)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("seconds", "peak", "failing"),
    [
        (1.0, 10**9, set()),
        (1.02, 1_005_000_000, set()),
        (1.1, 10**9, {"baseline.cost.latency"}),
        (1.0, 1_030_000_000, {"baseline.cost.peak_allocated"}),
    ],
    ids=["the same", "2 % slower", "10 % slower", "3 % more memory"],
)
def test_against_three_accepted_runs(
    observed: Observed, kept: Baseline, seconds: float, peak: int, failing: set[str]
) -> None:
    recipe, records = observed
    bf16 = on_a_gpu(records["bf16"], 1.0)
    record = against(on_a_gpu(records["lenient"], seconds, peak), bf16)
    verdict = judge(record, bf16, recipe, kept, require_baseline=True)
    assert {check.label for check in verdict.of(Status.FAIL)} == failing
    assert not verdict.of(Status.NOT_COMPARABLE)
    assert verdict.status is (Status.FAIL if failing else Status.PASS)


def test_an_offloaded_run_is_not_held_against_a_resident_one(observed: Observed, kept: Baseline) -> None:
    recipe, records = observed
    bf16 = on_a_gpu(records["bf16"], 1.0)
    offloaded = with_figures(on_a_gpu(records["lenient"], 5.0), "cost", "residency", value=cost.OFFLOADED)
    verdict = judge(against(offloaded, bf16), bf16, recipe, kept)
    assert not verdict.of(Status.FAIL)
    (check,) = [check for check in verdict.checks if check.label == "baseline.cost.latency"]
    assert check.status is Status.NOT_COMPARABLE
    assert "computed otherwise than when it was accepted: model_offload" in check.message
