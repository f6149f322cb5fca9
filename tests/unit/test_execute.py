import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ernie_qa import execute
from ernie_qa.cli import main
from ernie_qa.errors import ErnieQAError, UnavailableError
from ernie_qa.execute import Session
from ernie_qa.meter import require_device
from ernie_qa.plan import plan
from ernie_qa.recipe import REFERENCE, Recipe, recipe_names
from ernie_qa.verdict import Status


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recipes that were loaded, in order. Each load asserts that no earlier pipeline is alive."""
    names: list[str] = []
    alive: list[weakref.ref[Any]] = []
    load = execute.load_pipeline

    def watched(model: Any, recipe: Recipe, device: str, **options: Any) -> Any:
        assert not [pipe for pipe in alive if pipe() is not None]
        pipe = load(model, recipe, device, **options)
        names.append(recipe.name)
        alive.extend(map(weakref.ref, (pipe.transformer, pipe.text_encoder)))
        return pipe

    monkeypatch.setattr(execute, "load_pipeline", watched)
    return names


def test_plan_takes_all_shipped_recipes(tiny_model: Path, small_suite: Path) -> None:
    planned = plan(tiny_model, suite=small_suite)
    assert tuple(recipe.name for recipe in planned.recipes) == recipe_names()
    assert planned.device == "cpu"


def test_bf16_is_drawn_first_once_and_dropped_before_the_next(
    loaded: list[str],
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
) -> None:
    session = Session(plan(tiny_model, [write_recipe("mine", 1.0), REFERENCE], small_suite))
    first, second = session
    assert loaded == [REFERENCE, "mine"]
    assert [outcome.record.recipe.name for outcome in (first, second)] == ["mine", REFERENCE]
    assert first.record.reference == second.record.hash
    assert first.verdict.status is Status.PASS, str(first.verdict)
    assert second.verdict.status is Status.PASS, str(second.verdict)
    assert session.outcome(session.plan.recipes[0]) is first
    assert session.outcomes == (first, second)


def test_an_arm_that_broke_off_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, small_suite: Path
) -> None:
    session = Session(plan(tiny_model, [REFERENCE], small_suite))

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(execute, "load_pipeline", broken)
    with pytest.raises(
        ErnieQAError, match=r"bf16 broke off: RuntimeError: CUDA out of memory \(test_execute.py, line"
    ):
        session.outcome(session.plan.recipes[0])
    with pytest.raises(ErnieQAError, match="bf16 broke off before"):
        session.outcome(session.plan.recipes[0])


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UnavailableError, match="no usable GPU: "):
        require_device("cuda:99")
    require_device("cpu")


def test_an_arm_that_broke_off_leaves_the_others_and_no_pass(
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    load, pipelines = execute.load_pipeline, []

    def broken(model: Any, recipe: Recipe, device: str, **options: Any) -> Any:
        pipe = load(model, recipe, device, **options)
        pipelines.append(weakref.ref(pipe.transformer))
        if recipe.name == "second":
            raise UnavailableError("not enough GPU memory")
        return pipe

    monkeypatch.setattr(execute, "load_pipeline", broken)
    recipes = [str(write_recipe(name, 1.0)) for name in ("first", "second")]
    given = ["--model", str(tiny_model), "--suite", str(small_suite), "--device", "cpu"]
    given += ["--report", str(tmp_path / "out")]
    code = main(["gate", *given, "--recipe", recipes[0], "--recipe", recipes[1]])
    told = capfd.readouterr()
    assert code == 3
    assert "ernie-qa: second: not enough GPU memory" in told.err
    assert "first" in told.out
    assert [pipe() for pipe in pipelines] == [None] * 3
    # what was drawn is kept, the reference too, and can be shown
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bf16", "first", "verdict.json"]
    assert main(["show", str(tmp_path / "out")]) == 2
    assert "name one of" in capfd.readouterr().err
    assert main(["show", str(tmp_path / "out" / "first" / "record.json")]) == 0
    assert "ran the quantized kernel (aten::_int_mm), 8 few_rows" in capfd.readouterr().out
