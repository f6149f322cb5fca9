"""What an arm leaves on a GPU is never in the next one's figures."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_qa import observer
from ernie_qa.broken import KEPT
from ernie_qa.errors import ErnieQAError, UnavailableError
from ernie_qa.execute import Session
from ernie_qa.plan import Plan, plan
from ernie_qa.verdict import Status

BEFORE = 2**30


@pytest.fixture
def planned(tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]) -> Plan:
    return plan(tiny_model, [write_recipe("first", 1.0), write_recipe("second", 1.0)], small_suite)


def keep(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """So much is left once `first` was loaded: a CPU counts nothing of the kind."""
    load, there = observer.load_pipeline, [BEFORE]

    def loading(model: object, recipe: object, *given: object, **options: object) -> object:
        if getattr(recipe, "name", "") == "first":
            there[0] = BEFORE + kept
        return load(model, recipe, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(observer, "load_pipeline", loading)
    monkeypatch.setattr(observer, "held", lambda device: there[0])


def test_what_follows_a_leak_is_not_begun(monkeypatch: pytest.MonkeyPatch, planned: Plan) -> None:
    keep(monkeypatch, 300 * 2**20)
    session = Session(planned)
    first, second = planned.recipes
    assert session.outcome(first).verdict.status is Status.PASS
    with pytest.raises(UnavailableError, match=r"^second was not begun: first left 300 MiB on the GPU, and"):
        session.outcome(second)
    assert session.broken == ("second",)
    assert session.status is Status.NOT_COMPARABLE
    assert session.leaked == "first left 300 MiB on the GPU"


def test_what_libraries_keep_is_no_leak(monkeypatch: pytest.MonkeyPatch, planned: Plan) -> None:
    keep(monkeypatch, KEPT)
    session = Session(planned)
    assert [outcome.verdict.status for outcome in session] == [Status.PASS, Status.PASS]
    assert session.leaked == ""


def test_a_gpu_that_an_error_left_unusable_hides_no_first_error(
    monkeypatch: pytest.MonkeyPatch, planned: Plan
) -> None:
    first, second = planned.recipes
    session = Session(planned)
    assert session.outcome(first).verdict.status is Status.PASS

    def fails(*given: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def loading(*given: object, **options: object) -> None:
        raise RuntimeError("the first error")

    monkeypatch.setattr(observer, "load_pipeline", loading)
    monkeypatch.setattr(observer, "release", fails)
    with pytest.raises(ErnieQAError, match="second broke off: RuntimeError: the first error"):
        session.outcome(second)
    # what was finished before is there
    assert [outcome.verdict.recipe for outcome in session.outcomes] == ["first"]


def test_memory_that_cannot_be_given_back_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, planned: Plan
) -> None:
    def fails(*given: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(observer, "release", fails)
    with pytest.raises(ErnieQAError, match="bf16 broke off: RuntimeError: CUDA error: device-side assert"):
        Session(planned).outcome(planned.recipes[0])
