"""Pages about stored records: what is missing is said, what cannot be compared is not."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

from ernie_qa.cli import main
from ernie_qa.execute import Session
from ernie_qa.picture import Picture
from ernie_qa.plan import plan
from ernie_qa.recipe import Recipe
from ernie_qa.record import Ended, Identity, Record, load_record
from ernie_qa.report.files import SCHEMA, document
from ernie_qa.report.page import curves, sides, write_page
from ernie_qa.report.page.axes import round_numbers
from ernie_qa.report.page.triplets import DIRECTORY, difference_map
from ernie_qa.report.shown import Shown, from_disk, of_session
from ernie_qa.report.written import write_report
from ernie_qa.verdict import Check, Status, Verdict
from ernie_qa.wording import figure

Observed = tuple[Recipe, dict[str, Record]]
ROUNDS = {0.0131: 0.015, 0.04: 0.04, 1.0: 1.0, 7.0: 8.0, 523.0: 600.0, 1e-9: 1e-9}


@pytest.fixture(scope="module")
def session(tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]) -> Session:
    """BF16, a recipe that passes and one that fails."""
    run = Session(
        plan(tiny_model, ["bf16", write_recipe("ok", 1.0), write_recipe("bad", 1e-12)], small_suite)
    )
    assert [outcome.verdict.status for outcome in run] == ["pass", "pass", "fail"]
    return run


@pytest.fixture
def run(session: Session, tmp_path: Path) -> Path:
    """What that session leaves on disk."""
    write_report(tmp_path / "run", session)
    return tmp_path / "run"


def page_of(arguments: list[object], tmp_path: Path) -> str:
    assert main(["report", *map(str, arguments), "--output", str(tmp_path / "page")]) == 0
    return (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


def test_a_run_leaves_its_page_small_and_complete(run: Path) -> None:
    page = (run / "index.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 300_000
    linked = set(re.findall(rf'(?:src|href)="({DIRECTORY}/[^"]+)"', page))
    assert linked == {f"{DIRECTORY}/{file.name}" for file in (run / DIRECTORY).iterdir()}
    # two cases by two recipes: BF16's own pictures are there once, and the recipes' are the same
    assert len(linked) <= 2 * (1 + 2 + 2)
    assert not re.search(r'(?:src|href)="(?!_pictures/|#|data:,)', page)


@pytest.mark.parametrize("many", [4, 24])
def test_a_page_of_recipes_that_fail_everywhere_is_bounded(
    session: Session, tmp_path: Path, many: int
) -> None:
    ladder = ("package", "activation", "components", "images", "text", "cost", "baseline")
    checks = tuple(
        Check(f"images.n{n}", rung, Status.FAIL, f"{n} " + "a long message " * 140, case=f"case-{n}")
        for rung in ladder
        for n in range(40)
    )
    shown = [replace(one, verdict=Verdict("bad", checks)) for one in of_session(session)[:1] * many]
    page = write_page(tmp_path / "page", shown).read_text(encoding="utf-8")
    assert len(page.encode()) < 300_000
    # three of each rung, or where that is too much none, and then it says where they are
    tables = len(re.findall(r"<tr><th scope=\"row\">images\.n\d+\[", page))
    assert (tables >= many * len(ladder) * 3) is (many == 4)
    assert page.count("40, which verdict.json holds.") == (0 if many == 4 else many * len(ladder))
    assert page.count("0 a long message") >= many


def test_a_rung_that_decides_nothing_says_one_thing(session: Session, tmp_path: Path) -> None:
    checks = (
        Check("images.lpips_mean", "images", Status.PASS, "LPIPS"),
        Check("text.lines_lost_mean", "text", Status.PASS, "words", required=False),
    )
    shown = [replace(of_session(session)[0], verdict=Verdict("ok", checks))]
    page = write_page(tmp_path / "page", shown).read_text(encoding="utf-8")
    (summary,) = re.findall(r'<span class="rung">text</span>(.*?)</summary>', page)
    words = " ".join(re.sub("<[^>]+>", " ", summary).split())
    assert words.startswith("(pass) ")
    assert words.endswith(" 1 check, decides nothing")
    assert "not applicable" not in words


def test_a_prompt_of_html_is_text_on_the_page(tiny_model: Path, small_suite: Path, tmp_path: Path) -> None:
    suite = tmp_path / "hostile.toml"
    hostile = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>"
    text = small_suite.read_text(encoding="utf-8").replace('prompt = "', f'prompt = "{hostile} ')
    suite.write_text(text, encoding="utf-8")
    drawn = Session(plan(tiny_model, ["bf16"], suite))
    list(drawn)
    write_report(tmp_path / "run", drawn)
    page = (tmp_path / "run" / "index.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page


def test_every_figure_of_the_page_is_the_records(run: Path) -> None:
    record = load_record(run / "bad")
    page = (run / "index.html").read_text(encoding="utf-8")
    for scores in (one["scores"] for one in record.figures["images"]["cases"].values()):
        assert f"<span>LPIPS {figure(scores['lpips'])}</span>" in page
    for line in record.figures["components"]["transformer"]["curve"].values():
        assert all(f'<td class="number">{figure(step["l2"])}</td>' in page for step in line)
    verdict = next(
        one for one in json.loads((run / "verdict.json").read_text())["verdicts"] if one["recipe"] == "bad"
    )
    failed = [check for check in verdict["checks"] if check["status"] == "fail" and check["required"]]
    assert failed
    assert all(check["name"] in page for check in failed)


def test_verdict_json_is_as_its_schema_says(run: Path, session: Session) -> None:
    schema = json.loads((files("ernie_qa.report") / "verdict.schema.json").read_text(encoding="utf-8"))
    written = json.loads((run / "verdict.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(written, schema)
    assert schema["properties"]["schema"]["const"] == SCHEMA
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**written, "status": "passed"}, schema)
    # documents from before an interruption was told are still ones
    jsonschema.validate({name: value for name, value in written.items() if name != "unfinished"}, schema)


def test_an_infinite_figure_is_null_in_verdict_json(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    infinite = Check("images.psnr", "images", Status.PASS, "identical", measured=math.inf, unit="dB")
    outcome = session.outcomes[1]
    name = outcome.verdict.recipe
    changed = replace(outcome, verdict=Verdict(name, (infinite,)))
    monkeypatch.setitem(session._outcomes, name, changed)
    written = json.loads(json.dumps(document(session), allow_nan=False))
    assert written["verdicts"][1]["checks"][0]["measured"] is None


def test_records_on_disk_are_shown_as_the_gate_judged_them(run: Path, session: Session) -> None:
    shown = from_disk([run])
    assert {one.label: one.verdict for one in shown} == {
        outcome.verdict.recipe: outcome.verdict for outcome in session.outcomes
    }
    (alone,) = from_disk([run / "bad" / "record.json"])
    assert alone.reference == load_record(run / "bf16")


def test_the_noise_floor_of_a_stored_verdict_is_shown(run: Path, tmp_path: Path) -> None:
    document = json.loads((run / "verdict.json").read_text())
    figure = next(
        check
        for check in document["verdicts"][1]["checks"]
        if check["name"] == "images.lpips_mean" and check["measured"] is not None
    )
    figure |= {"measured": 0.03, "floor": 0.01, "ceiling": 0.05}
    (run / "verdict.json").write_text(json.dumps(document))
    found = [one for shown in from_disk([run]) for one in shown.verdict.checks if one.floor is not None]
    assert [(one.name, one.position) for one in found] == [("images.lpips_mean", pytest.approx(0.5))]
    page = page_of([run], tmp_path)
    assert page.count("50.0 %") >= 1
    assert "0.01 to 0.05" in page
    for check in document["verdicts"][1]["checks"]:
        check.pop("floor"), check.pop("ceiling")
    (run / "verdict.json").write_text(json.dumps(document))
    assert all(one.floor is None for shown in from_disk([run]) for one in shown.verdict.checks)


def test_a_record_without_a_verdict_is_judged_by_the_recipe_that_is_named(
    run: Path, session: Session
) -> None:
    (run / "verdict.json").unlink()
    (unknown,) = from_disk([run / "bad"])
    assert unknown.verdict.status is Status.NOT_COMPARABLE
    assert "--recipe" in unknown.verdict.checks[0].message
    path = next(recipe.path for recipe in session.plan.recipes if recipe.name == "bad")
    (judged,) = from_disk([run / "bad"], [path])
    assert judged.verdict.status is Status.FAIL


def test_a_record_without_pictures_says_so(run: Path, tmp_path: Path) -> None:
    record = replace(load_record(run / "bad"), pictures=())
    record.save(tmp_path / "bare")
    page = page_of([tmp_path / "bare"], tmp_path)
    assert "The record holds no pictures." in page
    assert not (tmp_path / "page" / DIRECTORY).exists()


def test_lpips_of_random_weights_is_not_applicable_rather_than_missing(session: Session) -> None:
    known = of_session(session)[1]
    figures = {name: value for name, value in known.record.figures.items() if name != "images"}
    without = replace(known.record, figures=figures)
    random = replace(without, model=replace(without.model, weights="random"))
    bars = [sides.sides([replace(known, record=one)])[0][1][0] for one in (without, random)]
    assert [(bar.said, bar.share) for bar in bars] == [
        ("missing", None),
        ("not applicable: random weights", None),
    ]


def test_an_arm_that_ended_early_names_where(run: Path, tmp_path: Path) -> None:
    whole = load_record(run / "bad")
    figures = {"package": whole.figures["package"]}
    ended = Ended("package", "package.same[vae]", "the VAE is another")
    replace(whole, pictures=(), figures=figures, ended=ended).save(tmp_path / "ended")
    page = page_of([tmp_path / "ended"], tmp_path)
    assert "Ended at package, before a picture was drawn: package.same[vae]" in page
    assert "bad: missing (the arm ended at package)" in page
    assert "missing: the record holds no figures of this rung" in page


def test_a_record_of_another_suite_is_never_laid_beside(run: Path, tmp_path: Path, session: Session) -> None:
    bf16, bad = load_record(run / "bf16"), load_record(run / "bad")
    other = replace(bad, suite=Identity("other", "0" * 64))
    shown = (*of_session(session), Shown("other", other, session.outcomes[2].verdict, bf16, "by a test"))
    page = write_page(tmp_path / "page", shown).read_text(encoding="utf-8")
    assert "Not comparable: bf16 drew another suite, small." in page
    assert (
        "Not comparable with one another: these records are of 2 different models, suites or machines."
        in page
    )


def test_a_picture_of_another_size_is_shown_without_a_map(
    run: Path, tmp_path: Path, session: Session
) -> None:
    bf16, bad = load_record(run / "bf16"), load_record(run / "bad")
    larger = Picture.from_pixels("one", np.zeros((70, 64, 3), np.uint8))
    shown = Shown("bad", replace(bad, pictures=(larger,)), session.outcomes[2].verdict, bf16, "by a test")
    page = write_page(tmp_path / "page", [shown]).read_text(encoding="utf-8")
    assert "not comparable: the other picture has 64 × 64 pixels" in page
    assert len(list((tmp_path / "page" / DIRECTORY).iterdir())) == 1


def test_only_the_worst_cases_are_written(run: Path, tmp_path: Path) -> None:
    page = page_of([run / "bad", "--pictures", 1], tmp_path)
    scores = {
        case: one["scores"]["lpips"]
        for case, one in load_record(run / "bad").figures["images"]["cases"].items()
    }
    worst = max(scores, key=lambda case: scores[case])
    assert re.findall(r'data-case="(\w+)"', page) == [worst]
    assert "and 1 more cases" in page
    assert len(list((tmp_path / "page" / DIRECTORY).iterdir())) == 3


def test_stored_pictures_are_the_records_own(run: Path, tmp_path: Path) -> None:
    page_of([run / "bad"], tmp_path)
    for picture in load_record(run / "bad").pictures:
        with Image.open(tmp_path / "page" / DIRECTORY / f"{picture.sha256[:33]}.webp") as image:
            assert (np.asarray(image.convert("RGB")) == picture.pixels()).all()


def test_the_map_is_one_scale_for_all_pictures() -> None:
    left = np.zeros((1, 4, 3), np.uint8)
    right = left.copy()
    right[0, 1:, 1] = (1, 64, 255)
    heat, worst = difference_map(left, right)
    assert worst == 255
    assert heat[0, 0].tolist() == [0, 0, 4]
    assert heat[0, 3].tolist() == [252, 255, 164]
    brightness = heat[0].astype(int).sum(axis=1)
    assert (np.diff(brightness) > 0).all()
    assert (difference_map(right, left)[0] == heat).all()


def test_a_step_that_is_not_finite_is_a_gap(session: Session) -> None:
    bad = of_session(session)[2]
    figures = {name: dict(one) for name, one in bad.record.figures.items()}
    curve = [{"timestep": 1.0, "l2": value, "cosine": 1.0} for value in (0.1, None, 0.3)]
    figures["components"]["transformer"] = {"curve": {"one": curve}}
    group = curves.curves([replace(bad, record=replace(bad.record, figures=figures))])
    (line,) = group.cases[0].lines
    assert line.values == (0.1, None, 0.3)
    assert len(line.stretches) == 2


@pytest.mark.parametrize(("most", "last"), ROUNDS.items())
def test_an_axis_ends_at_a_round_number(most: float, last: float) -> None:
    numbers = round_numbers(most)
    assert numbers[0] == 0
    assert numbers[-1] == pytest.approx(last)
    assert 3 <= len(numbers) <= 6


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "verdict.json").write_text("{"), "verdict.json: not valid JSON"),
        (lambda run: (run / "bad" / "record.json").write_text("{}"), "record.json: schema: missing"),
        (lambda run: (run / "bad" / "pictures" / "one.png").unlink(), "one.png: no such picture"),
    ],
    ids=["verdict", "record", "picture"],
)
def test_damaged_input_is_one_line_and_writes_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], said: str
) -> None:
    damage(run)
    assert main(["report", str(run), "--output", str(tmp_path / "page")]) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert output.err.count("\n") == 1
    assert not (tmp_path / "page").exists()


def test_no_record_and_a_full_directory_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "absent"), "--output", str(tmp_path / "page")]) == 2
    assert "no record here" in capsys.readouterr().err
    assert main(["report", str(run), "--output", str(run)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_figures_of_another_layout_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = Path(__file__).parents[1] / "data" / "record-schema1"
    assert main(["report", str(stored), "--output", str(tmp_path / "page")]) == 2
    output = capsys.readouterr().err
    assert "as this ernie_qa lays them out" in output
    assert output.count("\n") == 1
