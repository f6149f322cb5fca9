"""Ctrl-C in a gate: what was drawn to its end is judged and kept, the rest is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ernie_qa import observer
from ernie_qa.cli import main
from ernie_qa.execute import Session
from ernie_qa.plan import plan
from ernie_qa.recipe import REFERENCE, Recipe
from ernie_qa.record import load_record
from ernie_qa.verdict import Status


@pytest.fixture
def stop_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`stop_in(recipe)`: Ctrl-C is pressed while its transformer computes."""
    load = observer.load_pipeline

    def press(*_: Any) -> None:
        raise KeyboardInterrupt

    def stop(name: str) -> None:
        def loading(model: Any, recipe: Recipe, device: str, **options: Any) -> Any:
            pipe = load(model, recipe, device, **options)
            if recipe.name == name:
                pipe.transformer.register_forward_pre_hook(press)
            return pipe

        monkeypatch.setattr(observer, "load_pipeline", loading)

    return stop


@pytest.fixture
def given(tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]) -> list[str]:
    """Arguments of `gate` with three recipes beside BF16."""
    given = ["gate", "--model", str(tiny_model), "--suite", str(small_suite), "--device", "cpu"]
    return given + [f"--recipe={write_recipe(name, 1.0)}" for name in ("first", "second", "third")]


def test_what_was_finished_is_judged_and_kept(
    stop_in: Callable[[str], None], given: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stop_in("second")
    assert main([*given, "--report", str(tmp_path / "out")]) == 130
    said = capfd.readouterr()
    assert said.err.splitlines()[-1] == "ernie-qa: interrupted, and not judged: second, third"
    rows = [line.split()[0] for line in said.out.splitlines() if line.strip()]
    assert "first" in rows
    assert "second" not in rows
    for name in (REFERENCE, "first"):
        assert load_record(tmp_path / "out" / name).recipe.name == name
    assert not (tmp_path / "out" / "second").exists()
    document = json.loads((tmp_path / "out" / "verdict.json").read_text(encoding="utf-8"))
    assert document["status"] == "not_comparable"
    assert document["unfinished"] == ["second", "third"]
    assert [one["recipe"] for one in document["verdicts"]] == ["first"]
    assert document["verdicts"][0]["status"] == "pass"
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "1 of 3 pass. Interrupted, and not judged: second, third." in page
    markdown = (tmp_path / "out" / "verdict.md").read_text(encoding="utf-8")
    assert "1 of 3 pass. Interrupted, and not judged&#58; second, third." in markdown
    assert main(["show", str(tmp_path / "out" / "first")]) == 0


def test_candidates_of_half_a_session_are_called_so(
    stop_in: Callable[[str], None], given: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stop_in("second")
    assert main([*given, "--baselines", str(tmp_path / "kept"), "--update"]) == 130
    said = capfd.readouterr().out
    assert "kept as candidates" in said
    assert "these candidates are not the whole run: second, third missing" in said


def test_the_reference_alone_is_kept_too(
    stop_in: Callable[[str], None], given: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stop_in("first")
    assert main([*given, "--report", str(tmp_path / "out")]) == 130
    said = capfd.readouterr()
    assert said.out == f"\nreport: {tmp_path / 'out' / 'index.html'}\n"
    assert said.err.splitlines()[-1] == "ernie-qa: interrupted, and not judged: first, second, third"
    assert load_record(tmp_path / "out" / REFERENCE).recipe.name == REFERENCE
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "0 of 3 pass. Interrupted, and not judged: first, second, third." in page


def test_where_nothing_was_finished_nothing_is_written(
    stop_in: Callable[[str], None], given: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stop_in(REFERENCE)
    assert main([*given, "--report", str(tmp_path / "out")]) == 130
    said = capfd.readouterr()
    assert (said.out, said.err.splitlines()[-1]) == ("", "ernie-qa: interrupted")
    assert not (tmp_path / "out").exists()


def test_a_session_that_is_interrupted_judges_what_was_drawn(
    tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]
) -> None:
    recipes = [REFERENCE, *(write_recipe(name, 1.0) for name in ("first", "second"))]
    session = Session(plan(tiny_model, recipes, small_suite))
    bf16, first, _ = session.plan.recipes
    session.begin(bf16)
    session.begin(first)
    assert session.outcomes == ()
    session.interrupt()
    assert [outcome.verdict.recipe for outcome in session.outcomes] == [REFERENCE]
    assert (session.unfinished, session.broken) == (("first", "second"), ())
    assert session.status is Status.NOT_COMPARABLE
    session.interrupt(wanted={REFERENCE})
    assert session.unfinished == ()
