"""One run of the gates on a tiny real pipeline, looked at from every side."""

import json
import os
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ernie_qa.record import load_record

from .conftest import Gated


@dataclass(frozen=True)
class Run:
    done: subprocess.CompletedProcess[str]
    directory: Path

    @property
    def output(self) -> str:
        return self.done.stdout


@pytest.fixture(scope="module")
def run(
    gated: Gated,
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """bf16, a recipe that passes, and one that must not, configured by an ini file except for the last."""
    directory = tmp_path_factory.mktemp("project")
    lenient = write_recipe("lenient", 1.0)
    (directory / "mine").mkdir()
    (directory / "mine" / "lenient.toml").write_text(lenient.read_text(encoding="utf-8"), encoding="utf-8")
    (directory / "pytest.ini").write_text(
        f"[pytest]\nernie_model = {tiny_model}\nernie_suite = {small_suite}\nernie_report = out\n"
    )
    done = gated(
        directory,
        *("-v", "--junitxml", "junit.xml", "--ernie-recipe", "bf16", "--ernie-recipe", "mine/lenient.toml"),
        *("--ernie-recipe", write_recipe("strict", 0.0)),
        environment={"GITHUB_STEP_SUMMARY": str(directory / "summary.md")},
    )
    return Run(done, directory)


def results(output: str) -> dict[str, str]:
    """`test_images.py::test_picture[bf16-one]` -> PASSED, in the order in which they ran."""
    words = (line.split() for line in output.splitlines() if "::" in line and "%]" in line)
    return {name.rpartition("/")[2]: outcome for name, outcome, *_ in words}


def test_only_the_strict_recipe_fails_and_only_on_images(run: Run) -> None:
    found = results(run.output)
    assert run.done.returncode == 1, run.output
    assert {name for name, outcome in found.items() if outcome == "FAILED"} == {
        "test_images.py::test_suite[strict]",
        "test_verdict.py::test_verdict[strict]",
    }
    assert found["test_package.py::test_package[lenient]"] == "PASSED"
    assert found["test_activation.py::test_activation[lenient]"] == "PASSED"
    assert found["test_images.py::test_picture[lenient-two]"] == "PASSED"


def test_gates_of_one_recipe_run_together(run: Run) -> None:
    recipes = [name.rpartition("[")[2].rstrip("]").partition("-")[0] for name in results(run.output)]
    assert list(dict.fromkeys(recipes)) == ["bf16", "lenient", "strict"]
    assert recipes == sorted(recipes)


def test_the_only_drawing_comes_first_and_is_timed(run: Run) -> None:
    names = list(results(run.output))
    for recipe in ("bf16", "lenient", "strict"):
        of_it = [name for name in names if recipe in name]
        assert of_it[0] == f"test_cost.py::test_draw[{recipe}]"
    # a row a recipe: of two pictures the first shows what getting ready costs, and is no round
    assert "benchmark 'a picture': 3 tests" in run.output
    table = run.output.partition("benchmark 'a picture'")[2].partition("Legend:")[0]
    rows = [line.split() for line in table.splitlines()]
    timed = {row[0]: row[-2] for row in rows if row[:1] and row[0] in ("bf16", "lenient", "strict")}
    assert timed == {"bf16": "1", "lenient": "1", "strict": "1"}


def test_terminal_summary_holds_the_table_and_the_reason(run: Run) -> None:
    rows = [line.split() for line in run.output.splitlines()]
    header = next(row for row in rows if row[:1] == ["recipe"])
    assert header[:4] == ["recipe", "package", "activation", "components"]
    assert next(row for row in rows if row[:1] == ["lenient"])[:6] == [
        "lenient",
        "pass",
        "pass",
        "pass",
        "pass",
        "PASS",
    ]
    assert next(row for row in rows if row[:1] == ["strict"])[:6] == [
        "strict",
        "pass",
        "pass",
        "pass",
        "FAIL",
        "FAIL",
    ]
    assert "FAIL  strict  images.lpips_mean" in run.output


def test_a_failed_gate_shows_the_message_and_no_traceback(run: Run) -> None:
    assert "images.lpips_mean: LPIPS mean" in run.output
    assert "pytest_plugin.py" not in run.output
    assert "Traceback" not in run.output


def test_the_report_is_a_page_beside_the_records(run: Run) -> None:
    page = (run.directory / "out" / "index.html").read_text(encoding="utf-8")
    assert "2 of 3 pass. strict fails at images." in page


def test_github_gets_the_verdict_in_markdown(run: Run) -> None:
    text = (run.directory / "summary.md").read_text(encoding="utf-8")
    assert text == (run.directory / "out" / "verdict.md").read_text(encoding="utf-8") + "\n"
    assert "2 of 3 pass. strict fails at images." in text
    assert "| strict | ❌ fail |" in text


def test_junit_carries_the_verdict_and_its_record(run: Run) -> None:
    found = {
        case.get("name"): {one.get("name"): one.get("value") for one in case.iter("property")}
        for case in ElementTree.parse(run.directory / "junit.xml").iter("testcase")
    }
    record = load_record(run.directory / "out" / "strict")
    expected = {"ernie_qa.verdict": "fail", "ernie_qa.record": record.hash}
    assert expected.items() <= found["test_verdict[strict]"].items()


def test_junit_carries_each_figure_with_its_limit(run: Run) -> None:
    cases = ElementTree.parse(run.directory / "junit.xml").iter("testcase")
    case = next(case for case in cases if case.get("name") == "test_suite[strict]")
    properties = {entry.get("name"): json.loads(entry.get("value", "")) for entry in case.iter("property")}
    figure = properties["images.lpips_mean"]
    assert figure["status"] == "fail"
    assert figure["limit"] == 0.0
    assert figure["measured"] > 0.0


def test_report_holds_records_and_verdicts(run: Run) -> None:
    out = run.directory / "out"
    document = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
    assert document["status"] == "fail"
    assert [(one["recipe"], one["status"]) for one in document["verdicts"]] == [
        ("bf16", "pass"),
        ("lenient", "pass"),
        ("strict", "fail"),
    ]
    for one in document["verdicts"]:
        assert load_record(out / one["recipe"]).hash == one["record"]


def test_a_second_run_does_not_write_over_the_first(run: Run, gated: Gated) -> None:
    done = gated(run.directory)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert [line for line in done.stderr.splitlines() if line] == [
        f"ERROR: {run.directory / 'out'}: not empty; name a new or an empty directory for the report"
    ]


def test_without_pytest_benchmark_and_without_the_drawing_test(
    gated: Gated,
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
    tmp_path: Path,
) -> None:
    done = gated(
        tmp_path,
        *("-v", "-p", "no:benchmark", "-k", "(bf16 and cost) or (mine and images)"),
        *("--ernie-recipe", "bf16", "--ernie-recipe", write_recipe("mine", 1.0)),
        *("--ernie-model", tiny_model, "--ernie-suite", small_suite),
    )
    assert done.returncode == 0, done.stdout
    assert results(done.stdout) == {
        "test_cost.py::test_draw[bf16]": "PASSED",
        "test_cost.py::test_cost[bf16]": "SKIPPED",
        "test_images.py::test_suite[mine]": "PASSED",
        "test_images.py::test_picture[mine-one]": "PASSED",
        "test_images.py::test_picture[mine-two]": "PASSED",
    }
    assert "benchmark" not in done.stdout


def test_a_recipe_that_fails_early_draws_nothing_and_every_later_gate_says_why(
    gated: Gated,
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
    tmp_path: Path,
) -> None:
    recipe = write_recipe("early", 1.0)
    limit = '\n[gates.small.limits."components.transformer_l2_max"]\nmax = 0.0\nsource = "a test"\n'
    recipe.write_text(recipe.read_text() + limit)
    given = ("--ernie-recipe", recipe, "--ernie-model", tiny_model, "--ernie-suite", small_suite)
    done = gated(tmp_path, "-v", *given)
    assert done.returncode == 1, done.stdout
    found = results(done.stdout)
    assert found["test_cost.py::test_draw[early]"] == "SKIPPED"
    assert found["test_package.py::test_package[early]"] == "PASSED"
    for gate in ("components.py::test_components", "images.py::test_suite"):
        assert found[f"test_{gate}[early]"] == "FAILED"
    # the recipe limits none of its words
    assert found["test_text.py::test_text[early]"] == "SKIPPED"
    assert found["test_images.py::test_picture[early-one]"] == "FAILED"
    label = "components.transformer_l2_max[transformer]"
    said = f"not comparable: images.measured: not measured: the arm ended at components: {label}"
    assert said in done.stdout
    (tmp_path / "all").mkdir()
    whole = gated(tmp_path / "all", "-v", "--ernie-all-rungs", "-k", "components or images", *given)
    found = results(whole.stdout)
    assert found["test_components.py::test_components[early]"] == "FAILED"
    assert found["test_images.py::test_picture[early-one]"] == "PASSED"


def test_a_number_of_cases_that_is_none(
    gated: Gated, tiny_model: Path, small_suite: Path, tmp_path: Path
) -> None:
    given = ("--ernie-model", tiny_model, "--ernie-suite", small_suite)
    done = gated(tmp_path, "--ernie-teacher-cases=few", *given)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--ernie-teacher-cases few: needed is a whole number" in done.stderr


Planted = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def planted(gated: Gated, tiny_model: Path, small_suite: Path, tmp_path: Path) -> Planted:
    """`planted(text, *options)`: run the gates on the tiny model with that plugin, report to out/."""

    def run(text: str, *options: object) -> subprocess.CompletedProcess[str]:
        (tmp_path / "planted.py").write_text(text, encoding="utf-8")
        return gated(
            tmp_path,
            *("-p", "planted", "--ernie-report=out", *options),
            *(f"--ernie-model={tiny_model}", f"--ernie-suite={small_suite}"),
            environment={"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        )

    return run


PRESSED = """
def pytest_runtest_logreport(report):
    if report.when == "teardown" and "test_verdict[bf16]" in report.nodeid:
        raise KeyboardInterrupt
"""


PRESSED_LOADING = """
from ernie_qa import observer

load = observer.load_pipeline

def loading(model, recipe, *given, **options):
    if recipe.name == "mine":
        raise KeyboardInterrupt
    return load(model, recipe, *given, **options)

observer.load_pipeline = loading
"""


def test_an_interruption_keeps_what_was_judged_and_names_the_rest(
    planted: Planted, write_recipe: Callable[[str, float], Path], tmp_path: Path
) -> None:
    recipes = [f"--ernie-recipe={one}" for one in ("bf16", write_recipe("mine", 1.0), "sdnq-int8")]
    done = planted(PRESSED, "-k", "bf16 or mine", *recipes)
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout + done.stderr
    # what -k left out was not asked for
    assert "interrupted, and not judged: mine\n" in done.stdout
    document = json.loads((tmp_path / "out" / "verdict.json").read_text(encoding="utf-8"))
    assert document["unfinished"] == ["mine"]
    assert [one["recipe"] for one in document["verdicts"]] == ["bf16"]


def test_an_interruption_before_the_first_verdict_keeps_bf16_and_names_the_rest(
    planted: Planted, write_recipe: Callable[[str, float], Path], tmp_path: Path
) -> None:
    done = planted(PRESSED_LOADING, f"--ernie-recipe={write_recipe('mine', 1.0)}")
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout + done.stderr
    assert "interrupted, and not judged: mine\n" in done.stdout
    document = json.loads((tmp_path / "out" / "verdict.json").read_text(encoding="utf-8"))
    assert (document["unfinished"], document["verdicts"]) == (["mine"], [])
    assert load_record(tmp_path / "out" / "bf16").pictures


STOPPED = """
def pytest_runtest_logreport(report):
    if report.when == "teardown" and "test_verdict[bf16]" in report.nodeid:
        session.shouldfail = "stopping after 1 failures"

def pytest_sessionstart(session):
    globals()["session"] = session
"""


def test_a_run_that_ends_at_its_first_failure_is_no_pass(
    planted: Planted, write_recipe: Callable[[str, float], Path], tmp_path: Path
) -> None:
    done = planted(STOPPED, "--ernie-recipe=bf16", f"--ernie-recipe={write_recipe('mine', 1.0)}")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    document = json.loads((tmp_path / "out" / "verdict.json").read_text(encoding="utf-8"))
    assert (document["status"], document["unfinished"]) == ("not_comparable", ["mine"])
