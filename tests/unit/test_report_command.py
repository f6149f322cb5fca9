"""`ernie-qa report` and `compare`: what is refused in one line, and what a page is judged by."""

import re
from pathlib import Path

import pytest

from ernie_qa.baseline.noise import save_noise
from ernie_qa.cli import main
from ernie_qa.execute import Session
from ernie_qa.plan import plan
from ernie_qa.recipe import REFERENCE, Recipe
from ernie_qa.record import Record
from ernie_qa.report.shown import from_disk
from ernie_qa.report.written import write_report
from ernie_qa.suite import find_suite
from ernie_qa.verdict import Status
from tests.accepting import accepted, bundle, scored
from tests.unit.test_floor import moved, noise_of

Observed = tuple[Recipe, dict[str, Record]]


@pytest.fixture
def stored(observed: Observed, tmp_path: Path) -> Path:
    """A record on disk, of the small suite."""
    observed[1]["lenient"].save(tmp_path / "lenient")
    return tmp_path / "lenient"


def refused(arguments: list[object], output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said on one line; nothing is written."""
    assert main([*map(str, arguments), "--output", str(output)]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert not output.exists()
    return said.err


@pytest.mark.parametrize("command", ["report", "compare"])
def test_what_cannot_be_shown_is_refused(
    stored: Path, small_suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    given: list[object] = [command, stored, stored]
    place = tmp_path / "page"
    said = refused([*given, "--pictures", -1], place, capsys)
    assert said == "ernie-qa: --pictures -1: needed is 0 or more\n"
    said = refused([*given, "--suite", "turbo10"], place, capsys)
    assert said.startswith(
        f"ernie-qa: --suite turbo10: no record here drew it as it is now ({hash_of('turbo10')})"
    )
    assert f"they drew small ({hash_of(small_suite)})" in said
    assert (
        main([*map(str, given), "--suite", str(small_suite), "--pictures", "0", "--output", str(place)]) == 0
    )


def hash_of(suite: str | Path) -> str:
    return find_suite(suite).hash[:12]


@pytest.fixture
def floor(observed: Observed, tmp_path: Path) -> Path:
    """Baselines that hold a floor for the record's model, machine and suite, and nothing accepted."""
    bf16 = observed[1][REFERENCE]
    root = tmp_path / "baselines"
    save_noise(root, noise_of(bf16, {"images.lpips_mean": 0.5}, math=moved(lpips_mean=0.001)))
    return root


def test_a_page_by_baselines_shows_the_floor_that_they_hold(
    observed: Observed, stored: Path, floor: Path, tmp_path: Path
) -> None:
    recipe, records = observed
    records[REFERENCE].save(tmp_path / REFERENCE)
    given = ["report", str(stored), "--recipe", str(recipe.path)]
    assert main([*given, "--output", str(tmp_path / "without")]) == 0
    assert main([*given, "--baselines", str(floor), "--output", str(tmp_path / "with")]) == 0
    without, page = (
        (tmp_path / name / "index.html").read_text(encoding="utf-8") for name in ("without", "with")
    )
    assert "floor not measured" in without
    assert "BF16 itself” is how far" not in without
    assert "floor not measured" not in page
    assert "measured under math" in page
    assert "0.001 to 0.5" in page
    assert f"judged for this page by the recipe&#39;s limits and what {floor} holds" in page


def test_what_was_accepted_is_compared_for_the_page(observed: Observed, stored: Path, tmp_path: Path) -> None:
    recipe, records = observed
    records[REFERENCE].save(tmp_path / REFERENCE)
    root = tmp_path / "baselines"
    accepted(root, bundle(tmp_path / "run", records), recipes=(recipe,))
    (one,) = from_disk([tmp_path / "run" / recipe.name], [recipe.path], root)
    assert one.verdict.status is Status.PASS
    found = {check.name: check for check in one.verdict.checks if check.rung == "baseline"}
    assert found["baseline.images.lpips_mean"].status is Status.PASS
    worse = bundle(tmp_path / "worse", {**records, recipe.name: scored(records[recipe.name], 3.0)})
    (one,) = from_disk([worse.path / recipe.name], [recipe.path], root)
    assert one.verdict.of(Status.FAIL)[0].name == "baseline.images.lpips_mean"


def test_baselines_that_are_not_there_are_refused(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["report", stored, "--baselines", tmp_path / "no"], tmp_path / "page", capsys)
    assert "no such directory" in said


def test_what_a_run_did_not_judge_is_no_pass_in_its_page_either(
    observed: Observed, tiny_model: Path, small_suite: Path, tmp_path: Path
) -> None:
    recipe, records = observed
    session = Session(plan(tiny_model, [recipe, "bnb-nf4", "sdnq-int8"], small_suite))
    session.adopt(records, ["bnb-nf4"], [recipe.name])
    session.interrupt()
    write_report(tmp_path / "out", session)
    gates = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert main(["report", str(tmp_path / "out"), "--output", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    said = re.compile('<p class="headline">(.*)</p>')
    # BF16, drawn as the reference alone, counts in neither
    headline = "1 of 3 pass. Broke off, and not judged: bnb-nf4. Interrupted, and not judged: sdnq-int8."
    assert said.search(gates)[1] == said.search(page)[1] == headline  # type: ignore[index]
    assert '<h1><span class="badge not_comparable">' in page


def test_bf16_counts_in_no_page_of_a_run_that_judged_nothing(
    observed: Observed, tiny_model: Path, small_suite: Path, tmp_path: Path
) -> None:
    session = Session(plan(tiny_model, ["bnb-nf4"], small_suite))
    session.adopt({REFERENCE: observed[1][REFERENCE]}, [], [])
    session.interrupt()
    write_report(tmp_path / "out", session)
    gates = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert main(["report", str(tmp_path / "out"), "--output", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    for one in (gates, page):
        assert "0 of 1 pass. Interrupted, and not judged: bnb-nf4." in one
