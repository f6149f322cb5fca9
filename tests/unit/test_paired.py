"""Single pictures against the accepted ones: what of a change is chance, and what of it matters."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ernie_qa.baseline.accepted import Tracked, figure_of, read_accepted
from ernie_qa.baseline.store import Baseline, find_baseline
from ernie_qa.errors import BaselineError
from ernie_qa.execute import Session
from ernie_qa.fidelity.statistics import log_ratios, sign_flip
from ernie_qa.frozen import Frozen
from ernie_qa.judge import judge
from ernie_qa.paired import paired
from ernie_qa.plan import plan
from ernie_qa.recipe import Recipe
from ernie_qa.record import Record
from ernie_qa.verdict import Check, Status, Verdict
from tests.accepting import accepted, bundle, with_scores

Observed = tuple[Recipe, dict[str, Record]]
STORED = Path(__file__).parents[1] / "data" / "accepted-schema1.json"
LPIPS = [0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10, 0.11]
SSIM = [0.95] * 10


def named(name: str, verdict: Verdict) -> Check:
    (check,) = [check for check in verdict.checks if check.name == f"baseline.images.{name}"]
    return check


@pytest.fixture(scope="module")
def ten(observed: Observed) -> Record:
    """The lenient arm, as if it had drawn ten pictures."""
    return with_scores(observed[1]["lenient"], LPIPS, SSIM)


@pytest.fixture(scope="module")
def baseline(observed: Observed, ten: Record, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    directory = tmp_path_factory.mktemp("accepted")
    records = {**observed[1], "lenient": ten}
    accepted(directory / "baselines", bundle(directory / "run", records), recipes=(observed[0],))
    found = find_baseline(directory / "baselines", "tiny", "cpu")
    assert found is not None
    return found


def test_scores_are_accepted_and_read_back(baseline: Baseline) -> None:
    figures = baseline.accepted["lenient"].figures
    assert [*figures["images.lpips_mean"].scores.values()] == LPIPS
    assert [*figures["images.ssim_mean"].scores.values()] == SSIM
    assert not figures["images.lpips_max"].scores
    text = (baseline.path / "lenient.json").read_text(encoding="utf-8")
    assert json.loads(text)["schema"] == 2
    (line,) = [line for line in text.splitlines() if '"images.lpips_mean"' in line]
    assert '"case9": 0.11' in line


def test_schema_1_is_read_and_written_as_it_was() -> None:
    old = read_accepted(STORED)
    assert (old.schema, old.recipe.name) == (1, "bnb-nf4")
    assert not any(figure.scores for figure in old.figures.values())
    assert old.text() == STORED.read_text(encoding="utf-8")


def test_of_several_runs_the_typical_score_is_kept() -> None:
    runs = [
        Tracked("images.ssim_mean", sum(scores) / 2, "higher", scores=dict(zip("ab", scores, strict=True)))
        for scores in ((0.9, 0.5), (0.8, 0.6), (0.7, 0.7))
    ]
    assert figure_of(runs).scores == {"a": 0.8, "b": 0.6}
    # of two the worse, and only of cases that all have
    short = replace(runs[1], scores={"a": 0.8})
    assert figure_of([runs[0], short]).scores == {"a": 0.8}


# factors of LPIPS + 0.005, as the test has it
CHANGES = {
    "nothing": ([1.0] * 10, Status.PASS, "chance is not ruled out"),
    "all a little": ([1.05] * 10, Status.PASS, "smaller than the ratio that matters, 1.15"),
    "one by far": ([1.0] * 9 + [8.0], Status.FAIL, "on the same build and machine pictures repeat"),
    "half of them": ([1.9] * 5 + [1.0] * 5, Status.FAIL, "on the same build and machine pictures repeat"),
    "all by a quarter": (
        [1.25] * 10,
        Status.FAIL,
        "1.25 times as high over 10 pictures, sign-flip p 0.002: worse",
    ),
    "better": ([0.7] * 10, Status.PASS, "chance is not ruled out"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_mean_is_judged_by_its_pairs(
    observed: Observed, ten: Record, baseline: Baseline, change: str
) -> None:
    factors, status, said = CHANGES[change]
    lpips = [(score + 0.005) * factor - 0.005 for score, factor in zip(LPIPS, factors, strict=True)]
    recipe, records = observed
    verdict = judge(with_scores(ten, lpips, SSIM), records["bf16"], recipe, baseline)
    check = named("lpips_mean", verdict)
    assert check.status is status, check.message
    assert said in check.message
    assert (check.limit, check.unit) == (1.15, "times")
    assert named("ssim_mean", verdict).status is Status.PASS
    # the worst picture is held on to by itself, and sees nothing of what happens to the better ones
    assert (named("lpips_max", verdict).status is Status.FAIL) == (factors[-1] > 1.2)
    if "worse" in said:
        assert "confirm it on fresh seeds: build and machine are the same" in check.message


def test_a_mean_beyond_its_limit_on_another_build_is_not_passed(
    observed: Observed, ten: Record, baseline: Baseline
) -> None:
    recipe, records = observed
    lenient = baseline.accepted["lenient"]
    runs = tuple(
        replace(run, fingerprint=replace(run.fingerprint, packages={"torch": "1.0"})) for run in lenient.runs
    )
    held = replace(baseline, accepted={**baseline.accepted, "lenient": replace(lenient, runs=runs)})
    half = [2.2 * score for score in LPIPS[:5]] + LPIPS[5:]
    check = named("lpips_mean", judge(with_scores(ten, half, SSIM), records["bf16"], recipe, held))
    assert check.status is Status.NOT_COMPARABLE
    assert "beyond what was accepted, and chance is not ruled out" in check.message
    assert "--seeds N (pytest: --ernie-seeds=N)" in check.message


def test_runs_that_were_computed_differently_make_no_figure() -> None:
    runs = [Tracked("a.b", 0.1, "lower", definition=f"of {number} cases") for number in (2, 4)]
    with pytest.raises(
        BaselineError, match=r"a\.b: the runs computed it differently: of 2 cases; of 4 cases"
    ):
        figure_of(runs)


def test_similarity_is_judged_by_its_distance_from_1(
    observed: Observed, ten: Record, baseline: Baseline
) -> None:
    recipe, records = observed
    # 0.05 + 0.005 becomes 0.0687 + 0.005: a third more
    worse = with_scores(ten, LPIPS, [0.9313] * 10)
    check = named("ssim_mean", judge(worse, records["bf16"], recipe, baseline))
    assert check.status is Status.FAIL
    assert check.measured == pytest.approx(0.0737 / 0.055)


def test_two_metrics_that_may_each_be_chance_are_held_against_half_the_level() -> None:
    # p = 20/1024 alone; of two, Holm makes it 40/1024; and 40/1024 makes 80/1024
    accepted_scores = dict(zip("abcdefghij", LPIPS, strict=True))

    def tracked(name: str, scores: dict[str, float]) -> Tracked:
        return Tracked(name, sum(scores.values()) / 10, "lower", ideal=0.0, scores=scores)

    changed = {
        case: score * factor for (case, score), factor in zip(accepted_scores.items(), FACTORS, strict=True)
    }
    alone = sign_flip(log_ratios([*changed.values()], LPIPS))
    assert 0.025 < alone < 0.05
    names = ("images.lpips_mean", "images.other_mean", "text.other_mean")
    figures = {name: figure_of([tracked(name, accepted_scores)]) for name in names}
    found = paired(figures, {name: tracked(name, changed) for name in names})
    assert [found[name].p for name in names] == pytest.approx([2 * alone, 2 * alone, alone])
    assert [found[name].worse for name in names] == [False, False, True]


FACTORS = [1.6, 1.5, 1.4, 1.5, 1.3, 1.4, 1.0, 0.7, 0.9, 1.1]


def test_without_scores_of_both_the_limit_decides_as_before(
    observed: Observed, ten: Record, baseline: Baseline
) -> None:
    recipe, records = observed
    lenient = baseline.accepted["lenient"]
    figures = {name: replace(figure, scores=Frozen({})) for name, figure in lenient.figures.items()}
    old = replace(baseline, accepted={**baseline.accepted, "lenient": replace(lenient, figures=figures)})
    worse = with_scores(ten, [score * 1.2 for score in LPIPS], SSIM)
    for found, limit in ((ten, Status.PASS), (worse, Status.FAIL)):
        check = named("lpips_mean", judge(found, records["bf16"], recipe, old))
        assert check.status is limit
        assert "at most" in check.message


def test_scores_beside_which_the_offset_is_large_are_held_to_the_limit(
    observed: Observed, tmp_path: Path
) -> None:
    recipe, records = observed
    small = [score / 20 for score in LPIPS]
    arms = {**records, "lenient": with_scores(records["lenient"], small, SSIM)}
    accepted(tmp_path / "baselines", bundle(tmp_path / "run", arms), recipes=(recipe,))
    held = find_baseline(tmp_path / "baselines", "tiny", "cpu")
    # a quarter more, which is 1.09 times with the offset
    worse = with_scores(records["lenient"], [1.25 * score for score in small], SSIM)
    check = named("lpips_mean", judge(worse, records["bf16"], recipe, held))
    assert check.status is Status.FAIL
    assert "at most" in check.message


def test_a_handful_of_pairs_cannot_rule_out_chance(observed: Observed, tmp_path: Path) -> None:
    recipe, records = observed
    five = with_scores(records["lenient"], LPIPS[:5], SSIM[:5])
    arms = {**records, "lenient": five}
    accepted(tmp_path / "baselines", bundle(tmp_path / "run", arms), recipes=(recipe,))
    held = find_baseline(tmp_path / "baselines", "tiny", "cpu")
    worse = with_scores(records["lenient"], [2 * score for score in LPIPS[:5]], SSIM[:5])
    check = named("lpips_mean", judge(worse, records["bf16"], recipe, held))
    assert check.status is Status.FAIL
    assert "at most" in check.message


@pytest.fixture(scope="module")
def two_seeds(observed: Observed, tiny_model: Path, small_suite: Path) -> dict[str, Record]:
    """Both arms, drawn with two seeds a case."""
    session = Session(plan(tiny_model, [observed[0]], small_suite, seeds=2))
    list(session)
    return session.records


def test_more_seeds_are_compared_by_those_that_were_accepted(
    observed: Observed, two_seeds: dict[str, Record], tiny_model: Path, small_suite: Path, tmp_path: Path
) -> None:
    recipe, records = observed
    accepted(tmp_path / "baselines", bundle(tmp_path / "run", records), recipes=(recipe,))
    held = find_baseline(tmp_path / "baselines", "tiny", "cpu")
    # BF16 has to be observed with the baselines at hand: its pictures are compared with the accepted ones
    wanted = plan(tiny_model, ["bf16", recipe], small_suite, seeds=2)
    bf16, lenient = Session(wanted, baselines=tmp_path / "baselines", require_baseline=True)
    assert [bf16.verdict.status, lenient.verdict.status] == [Status.PASS] * 2, str(lenient.verdict)
    assert named("drift_lpips_mean", bf16.verdict).measured == 0
    again = named("lpips_mean", lenient.verdict)
    assert held is not None
    assert again.measured == pytest.approx(held.accepted["lenient"].figures["images.lpips_mean"].typical)
    drawn = two_seeds["lenient"].figures["images"]["metrics"]["lpips"]["mean"]
    assert drawn != pytest.approx(again.measured, rel=1e-3)


def test_fewer_seeds_than_were_accepted_are_not_comparable(
    observed: Observed, two_seeds: dict[str, Record], tmp_path: Path
) -> None:
    recipe, records = observed
    accepted(tmp_path / "baselines", bundle(tmp_path / "run", two_seeds), recipes=(recipe,))
    held = find_baseline(tmp_path / "baselines", "tiny", "cpu")
    verdict = judge(records["lenient"], records["bf16"], recipe, held)
    (check,) = [check for check in verdict.checks if check.name == "baseline.accepted"]
    assert check.status is Status.NOT_COMPARABLE
    assert (
        "accepted with more seeds a case (1 more): draw as many, --seeds N (pytest: --ernie-seeds=N)"
        in check.message
    )
