"""Accepting: what becomes a baseline, what may not, and what takes a flag of its own."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_qa.acceptance import propose
from ernie_qa.baseline.accepted import Figure, Tracked, figure_of
from ernie_qa.baseline.bundle import Bundle
from ernie_qa.baseline.change import Change
from ernie_qa.baseline.pictures import LARGEST, pictures_hash, pictures_of
from ernie_qa.baseline.store import find_baseline
from ernie_qa.errors import BaselineError
from ernie_qa.execute import Session
from ernie_qa.judge import judge
from ernie_qa.plan import plan
from ernie_qa.recipe import Recipe, Waiver
from ernie_qa.record import ModelIdentity, Record
from ernie_qa.report.changes import change_lines
from ernie_qa.report.files import next_step
from ernie_qa.verdict import Status
from tests.accepting import accepted, against, bundle, moved, on_a_gpu, scored, with_figures

Observed = tuple[Recipe, dict[str, Record]]


def later(records: dict[str, Record], added: float = 0.0) -> dict[str, Record]:
    """Another run that drew the same, an hour later, with `added` to the recipe's mean LPIPS."""
    bf16 = replace(records["bf16"], created="2030-01-01T00:00:00+00:00")
    return {"bf16": bf16, "lenient": against(scored(records["lenient"], added=added), bf16)}


VALUES = st.floats(0.001, 1e9)


@pytest.fixture
def recipes(observed: Observed) -> tuple[Recipe, ...]:
    return (observed[0],)


@pytest.fixture
def records(observed: Observed) -> dict[str, Record]:
    return observed[1]


@pytest.fixture
def run(tmp_path: Path, records: dict[str, Record]) -> Bundle:
    return bundle(tmp_path / "run", records)


@pytest.fixture
def root(tmp_path: Path, run: Bundle, recipes: tuple[Recipe, ...]) -> Path:
    """Baselines in which the run is accepted."""
    accepted(tmp_path / "baselines", run, recipes=recipes)
    return tmp_path / "baselines"


def figure(*values: float, better: str = "lower", **noise: float) -> Figure:
    ideal = 0.0 if better == "lower" else None
    return figure_of([Tracked("a.b", value, better, ideal=ideal, **noise) for value in values])


@given(st.lists(VALUES, min_size=1, max_size=5), st.sampled_from(["lower", "higher"]), st.floats(0, 1))
def test_every_accepted_run_keeps_the_limit_that_it_set(
    values: list[float], better: str, share: float
) -> None:
    found = figure(*values, better=better, share=share)
    assert all(found.keeps(value) for value in values)
    assert min(values) <= found.typical <= max(values)


@given(st.lists(VALUES, min_size=1, max_size=4), VALUES)
def test_another_run_never_tightens(values: list[float], more: float) -> None:
    change = Change("mine", "a.b", figure(*values), figure(*values, more))
    assert change.kind in ("same", "loosened")


def test_the_limit_is_the_largest_noise_beyond_the_worst_run() -> None:
    assert figure(10.0).limit == 10.0
    assert figure(10.0, 12.0, 11.0).limit == 14.0
    assert figure(10.0, floor=3.0, share=0.1).limit == 13.0
    assert figure(10.0, floor=0.5, share=0.1).limit == 11.0
    assert figure(10.0, 12.0, better="higher").limit == 8.0
    assert figure(1.0, 2.0, runs=3).limit is None
    assert figure(1.0, 2.0, 3.0, runs=3).limit == 5.0


def test_tightened_and_loosened_with_their_factors() -> None:
    old = figure(10.0, share=0.2)
    assert Change("r", "a.b", old, figure(5.0, share=0.2)).kind == "tightened"
    assert Change("r", "a.b", old, figure(5.0, share=0.2)).factor == pytest.approx(0.5)
    assert Change("r", "a.b", old, figure(20.0, share=0.2)).kind == "loosened"
    assert Change("r", "a.b", old, figure(20.0, share=0.2)).factor == pytest.approx(2.0)
    assert Change("r", "a.b", old, None).loosens
    assert Change("r", "a.b", old, figure(10.0, runs=3)).loosens
    assert not Change("r", "a.b", None, old).loosens


def test_loosening_needs_its_own_flag_and_tightening_none(
    root: Path, tmp_path: Path, records: dict[str, Record], recipes: tuple[Recipe, ...]
) -> None:
    worse = bundle(tmp_path / "worse", {**records, "lenient": scored(records["lenient"], added=0.01)})
    with pytest.raises(BaselineError, match=r"these would loosen: lenient images.lpips_mean; "):
        accepted(root, worse, recipes=recipes)
    proposal = accepted(root, worse, recipes=recipes, loosen=True)
    (change,) = proposal.loosened
    assert change.factor is not None
    assert change.factor > 1
    lines = change_lines(proposal.changes)
    (line,) = [line for line in lines if "images.lpips_mean" in line]
    assert "loosened x" in line
    assert not any("memory_bytes" in line for line in lines)
    painted = change_lines(proposal.changes, colour=True)
    assert [line for line in painted if "\x1b" in line] == [f"\x1b[31;1m{line}\x1b[0m"]
    assert [line.removeprefix("\x1b[31;1m").removesuffix("\x1b[0m") for line in painted] == lines
    better = bundle(tmp_path / "better", records)
    assert not accepted(root, better, recipes=recipes).loosened


def test_an_artifact_is_accepted_as_such(
    root: Path, tmp_path: Path, records: dict[str, Record], recipes: tuple[Recipe, ...]
) -> None:
    artifact = ModelIdentity("tiny-int8", "f" * 40, "unknown", "1" * 64, pinned=True)
    stored = {**records, "lenient": replace(records["lenient"], artifact=artifact)}
    run = bundle(tmp_path / "stored", stored)
    assert run.records["lenient"].artifact == artifact
    # figures of what was quantized in memory are not the same figures
    with pytest.raises(BaselineError, match="these would loosen"):
        accepted(root, run, recipes=recipes)
    accepted(root, run, recipes=recipes, loosen=True)
    baseline = find_baseline(root, "tiny", "cpu")
    assert baseline is not None
    assert {name: one.artifact for name, one in baseline.accepted.items()} == {
        "bf16": None,
        "lenient": artifact.hash,
    }
    assert judge(stored["lenient"], records["bf16"], recipes[0], baseline).status is Status.PASS
    verdict = judge(records["lenient"], records["bf16"], recipes[0], baseline)
    (check,) = [check for check in verdict.checks if check.name == "baseline.accepted"]
    assert check.status is Status.NOT_COMPARABLE
    assert "is of a model quantized in memory, what was accepted is of the artifact 1111" in check.message


def test_runs_of_an_artifact_and_of_none_are_not_taken_together(
    tmp_path: Path, run: Bundle, records: dict[str, Record], recipes: tuple[Recipe, ...]
) -> None:
    again = later(records)
    artifact = ModelIdentity("tiny-int8", None, "unknown", "1" * 64)
    stored = bundle(tmp_path / "s", {**again, "lenient": replace(again["lenient"], artifact=artifact)})
    with pytest.raises(BaselineError, match="lenient: runs of different artifacts, or of one and of none"):
        accepted(tmp_path / "baselines", run, stored, recipes=recipes)


def test_several_runs_know_the_noise(
    tmp_path: Path, run: Bundle, records: dict[str, Record], recipes: tuple[Recipe, ...]
) -> None:
    noisy = bundle(tmp_path / "noisy", later(records, added=0.01))
    proposal = accepted(tmp_path / "baselines", run, noisy, recipes=recipes)
    one = proposal.new.accepted["lenient"]
    mean = one.figures["images.lpips_mean"]
    assert len(one.runs) == len(mean.measured) == 2
    assert mean.limit is not None
    assert mean.limit >= max(mean.measured) + (max(mean.measured) - min(mean.measured))


def test_cost_on_a_gpu_needs_three_runs(
    tmp_path: Path, records: dict[str, Record], recipes: tuple[Recipe, ...]
) -> None:
    runs = []
    for number, seconds in enumerate((1.0, 1.1, 1.05)):
        bf16 = on_a_gpu(records["bf16"], seconds)
        arms = {"bf16": bf16, "lenient": against(on_a_gpu(records["lenient"], seconds), bf16)}
        runs.append(bundle(tmp_path / f"run{number}", arms))
    for count, limit in ((2, None), (3, pytest.approx(1.01e9))):
        proposal = propose(tmp_path / "none", runs[:count], why="-", by="-", recipes=recipes)
        assert proposal.new.accepted["lenient"].figures["cost.peak_allocated"].limit == limit
    assert proposal.new.path.name == "NVIDIA-H100-80GB-HBM3"


def test_what_fails_its_own_limits_is_not_accepted(
    tmp_path: Path, records: dict[str, Record], recipes: tuple[Recipe, ...]
) -> None:
    mean = scored(records["lenient"], added=1.5)
    with pytest.raises(BaselineError) as told:
        accepted(tmp_path / "b", bundle(tmp_path / "run", {**records, "lenient": mean}), recipes=recipes)
    assert re.fullmatch(
        f"{tmp_path}/run/lenient: does not pass its own limits: images.lpips_mean: measured 1.5\\d*, "
        "limit 1; see it with `ernie-qa report`",
        str(told.value),
    )
    assert not list((tmp_path / "b").iterdir())


def test_why_a_record_fails_is_told_shortly(
    tmp_path: Path, records: dict[str, Record], recipes: tuple[Recipe, ...]
) -> None:
    place = ("activation", "components", "transformer", "probe")
    unknown = with_figures(records["lenient"], *place, value="it knows nothing of this release " * 20)
    run = bundle(tmp_path / "run", {**records, "lenient": unknown})
    with pytest.raises(BaselineError) as told:
        propose(tmp_path / "b", [run], why="-", by="-", recipes=recipes)
    said = str(told.value).removeprefix(str(run.path))
    assert said.startswith(
        "/lenient: does not pass its own limits: activation.flag[transformer]: transformer: it knows nothing"
    )
    assert said.endswith(" … and 3 more; see it with `ernie-qa report`")
    assert len(said) < 280


def test_a_record_of_another_recipe_is_not_accepted(
    run: Bundle, tmp_path: Path, recipes: tuple[Recipe, ...]
) -> None:
    (lenient,) = recipes
    other = replace(lenient, components={"transformer": "sdnq", "pe": "sdnq"})
    with pytest.raises(BaselineError, match=r"made with another recipe .* than .*lenient.toml"):
        accepted(tmp_path / "b", run, recipes=(other,))


def test_a_recipe_that_is_not_shipped_has_to_be_named(run: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match=r"lenient is no shipped recipe: name its file"):
        accepted(tmp_path / "b", run, recipes=())


def test_a_reason_is_needed(run: Bundle, tmp_path: Path, recipes: tuple[Recipe, ...]) -> None:
    from ernie_qa.acceptance import accept

    for why in (" ", "two\nlines", "\udcff"):
        with pytest.raises(BaselineError, match="needs a reason"):
            accept(tmp_path, [run], why=why, by="a tester", recipes=recipes)


def test_bf16_that_moved_within_its_noise_is_no_obstacle(
    root: Path, tmp_path: Path, records: dict[str, Record], recipes: tuple[Recipe, ...]
) -> None:
    pictures = pictures_hash(records["bf16"].pictures)
    near = bundle(tmp_path / "near", moved(records, 0.00002, pictures))
    proposal = accepted(root, near, recipes=recipes)
    # the pictures stay those that were accepted: small steps do not add up
    assert proposal.new.pictures is not None
    assert proposal.new.pictures.hash == pictures


def test_bf16_that_moved_asks_for_a_rebase(
    root: Path, tmp_path: Path, records: dict[str, Record], recipes: tuple[Recipe, ...]
) -> None:
    pictures = pictures_hash(records["bf16"].pictures)
    far = moved(records, 0.01, pictures)
    with pytest.raises(BaselineError, match=r"images.drift_lpips_mean: 0.01.*BF16 itself has moved"):
        accepted(root, bundle(tmp_path / "far", far), recipes=recipes)
    all_arms = bundle(tmp_path / "all", far)
    shown = propose(root, [all_arms], why="-", by="-", recipes=recipes, look=True)
    assert "BF16 itself has moved" in shown.moved
    proposal = accepted(root, all_arms, recipes=recipes, rebase=True)
    assert "BF16 itself has moved" in proposal.moved
    assert proposal.new.pictures is not None
    assert proposal.new.pictures.hash == pictures_hash(far["bf16"].pictures)
    assert proposal.new.accepted["bf16"].figures["images.drift_lpips_mean"].measured == (0.0,)


def test_a_rebase_that_leaves_a_recipe_out_loosens(
    root: Path, tmp_path: Path, records: dict[str, Record]
) -> None:
    alone = bundle(tmp_path / "alone", {"bf16": moved(records, None)["bf16"]})
    with pytest.raises(BaselineError, match=r"these would loosen: lenient "):
        accepted(root, alone, recipes=(), rebase=True)
    proposal = accepted(root, alone, recipes=(), rebase=True, loosen=True)
    assert list(proposal.new.accepted) == ["bf16"]


@pytest.mark.parametrize("what", ["suite", "model"])
def test_a_rebase_onto_another_suite_or_model_drops_every_figure(
    root: Path, tmp_path: Path, records: dict[str, Record], recipes: tuple[Recipe, ...], what: str
) -> None:
    other = {
        name: replace(record, **{what: replace(getattr(record, what), hash="0" * 64)})
        for name, record in records.items()
    }
    other = {"bf16": other["bf16"], "lenient": against(other["lenient"], other["bf16"])}
    run = bundle(tmp_path / "other", other)
    with pytest.raises(BaselineError, match=r"another model or suite than .* holds: rebase"):
        accepted(root, run, recipes=recipes)
    with pytest.raises(BaselineError, match=r"these would loosen: .* and \d+ more"):
        accepted(root, run, recipes=recipes, rebase=True)
    assert accepted(root, run, recipes=recipes, rebase=True, loosen=True).loosened


def test_a_run_counts_once(run: Bundle, tmp_path: Path, recipes: tuple[Recipe, ...]) -> None:
    with pytest.raises(BaselineError, match="the same run as"):
        accepted(tmp_path / "b", run, run, recipes=recipes)


def test_runs_have_to_be_of_one_bf16(
    run: Bundle, tmp_path: Path, records: dict[str, Record], recipes: tuple[Recipe, ...]
) -> None:
    pictures = pictures_hash(records["bf16"].pictures)
    for drift, said in ((0.01, "BF16 itself has moved"), (None, "does not have it")):
        other = bundle(tmp_path / f"other{drift}", moved(records, drift, pictures))
        with pytest.raises(BaselineError, match=said):
            accepted(tmp_path / "b", run, other, recipes=recipes)
    near = bundle(tmp_path / "near", moved(records, 0.00002, pictures))
    proposal = accepted(tmp_path / "b", run, near, recipes=recipes)
    assert proposal.new.accepted["bf16"].figures["images.drift_lpips_mean"].measured == (0.0, 0.00002)


@pytest.mark.parametrize("first", [True, False])
def test_a_figure_that_one_run_lacks_is_not_dropped(
    run: Bundle, tmp_path: Path, records: dict[str, Record], recipes: tuple[Recipe, ...], first: bool
) -> None:
    lacking = later(records)
    lacking["lenient"] = with_figures(lacking["lenient"], "images", "metrics", "ssim", "min", value=None)
    runs = [bundle(tmp_path / "lacking", lacking), run]
    with pytest.raises(BaselineError, match=r"not every run measured images.ssim_min"):
        accepted(tmp_path / "b", *(runs if first else runs[::-1]), recipes=recipes)


def test_a_waiver_lets_nothing_into_the_baseline(
    tmp_path: Path, records: dict[str, Record], recipes: tuple[Recipe, ...]
) -> None:
    (lenient,) = recipes
    waiver = Waiver("images.lpips_mean", "known", date(2100, 1, 1))
    waived = replace(lenient, gates={"small": replace(lenient.gates["small"], waivers=(waiver,))})
    bad = bundle(tmp_path / "bad", {**records, "lenient": scored(records["lenient"], added=1.5)})
    assert judge(bad.records["lenient"], bad.reference, waived).status is Status.PASS
    with pytest.raises(BaselineError, match="does not pass its own limits"):
        accepted(tmp_path / "b", bad, recipes=(waived,))


def test_bf16_that_was_not_compared_has_to_be(
    root: Path, tmp_path: Path, records: dict[str, Record], recipes: tuple[Recipe, ...]
) -> None:
    unknown = bundle(tmp_path / "unknown", moved(records, None))
    with pytest.raises(
        BaselineError, match="this record does not have it: observe again, with the baselines at hand"
    ):
        accepted(root, unknown, recipes=recipes)


def test_bundles_have_to_hang_together(tmp_path: Path, records: dict[str, Record]) -> None:
    other = replace(records["bf16"], created="2026-01-01T00:00:00+00:00")
    with pytest.raises(BaselineError, match="was measured against another BF16 record"):
        bundle(tmp_path / "mixed", {**records, "bf16": other})
    with pytest.raises(BaselineError, match="holds a record of lenient; put it back"):
        bundle(tmp_path / "renamed", {"bf16": records["bf16"], "strict": records["lenient"]})
    with pytest.raises(BaselineError, match=r"no bundle: it holds no bf16/record.json"):
        bundle(tmp_path / "lone", {"lenient": records["lenient"]})


def test_runs_of_two_machines_are_not_one_baseline(
    run: Bundle, tmp_path: Path, records: dict[str, Record], recipes: tuple[Recipe, ...]
) -> None:
    bf16 = on_a_gpu(records["bf16"], 1.0)
    gpu = bundle(
        tmp_path / "gpu", {"bf16": bf16, "lenient": against(on_a_gpu(records["lenient"], 1.0), bf16)}
    )
    with pytest.raises(BaselineError, match="of another model, suite or machine than"):
        accepted(tmp_path / "b", run, gpu, recipes=recipes)


def test_large_pictures_stay_out(records: dict[str, Record]) -> None:
    bf16 = records["bf16"]
    assert pictures_of(bf16) is not None
    (first, *others) = bf16.pictures
    large = replace(bf16, pictures=(replace(first, width=LARGEST, height=2), *others))
    assert pictures_of(large) is None


def test_only_what_could_be_accepted_is_offered(
    observed: Observed,
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
    tmp_path: Path,
) -> None:
    recipe, records = observed
    strict = replace(records["lenient"], recipe=replace(records["lenient"].recipe, name="strict"))
    given = (str(recipe.path), str(write_recipe("strict", 0.0)))
    offered = {}
    for names in (given, given[1:]):
        session = Session(plan(tiny_model, names, small_suite))
        session.adopt({**records, "strict": strict}, (), [one.name for one in session.plan.recipes])
        offered[len(names)] = next_step(tmp_path, session, tmp_path / "bundle")
    refused = "not to be accepted, for their own limits are not passed: strict"
    assert offered[2][1] == refused
    assert offered[2][2].endswith(f"--recipe {recipe.path}")
    assert offered[1][1:] == (refused,)
