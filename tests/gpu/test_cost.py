"""Cost on a real GPU: windows, stages, memory that runs out, and the allocator. Run by `pytest -m gpu`."""

from typing import Any

import pytest

from ernie_qa import observer
from ernie_qa.errors import OutOfMemoryError, UnavailableError
from ernie_qa.execute import Session
from ernie_qa.recipe import REFERENCE, find_recipe
from ernie_qa.rungs import cost
from ernie_qa.verdict import Status
from tests.gpu.few import few

pytestmark = pytest.mark.gpu


def test_nothing_is_emptied_between_pictures_and_stages_fill_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    session = Session(few(REFERENCE))
    recipe = find_recipe(REFERENCE)
    left = session.begin(recipe)
    emptied = []
    empty = torch.cuda.empty_cache
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: (emptied.append(1), empty()))
    for _ in range(left):
        session.draw(recipe)
    assert not emptied
    record = session.outcome(recipe).record
    figures = record.figures[cost.NAME]
    assert list(cost.steady(figures)) == [case.id for case in session.plan.suite.cases[1:]]
    for one in figures["pictures"].values():
        assert 0 < sum(one["stages"].values()) <= one["seconds"]
        assert 0 < one["peak"]["allocated"] <= one["peak"]["reserved"] < one["peak"]["driver"]
    assert figures["clocks"]["error"] is None
    assert figures["clocks"]["sm_clock_mhz"]
    print(figures["clocks"])


def test_steady_pictures_of_three_quantized_components_are_drawn_unwatched() -> None:
    from sdnq.layers.linear import linear_int8

    original = linear_int8.int8_matmul
    session = Session(few("sdnq-uint4-static"))
    (recipe,) = session.plan.recipes
    left = session.begin(recipe)
    wrapped: list[bool] = []
    session.observer.observing.arm.pipe.vae.decoder.register_forward_hook(
        lambda *_: wrapped.append(linear_int8.int8_matmul is not original)
    )
    for _ in range(left):
        session.warm_up(recipe)
        session.draw(recipe)
    # a step that is counted comes before each picture but the first
    assert wrapped == [True, *[True, False] * (left - 1)]
    verdict = session.outcome(recipe).verdict
    assert linear_int8.int8_matmul is original
    assert not [check for check in verdict.of(Status.FAIL) if check.rung == "activation"]
    assert cost.steady(session.records[recipe.name].figures[cost.NAME])


def test_memory_that_runs_out_while_loading_is_told_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    load, hogs = observer.load_pipeline, []

    def loading(*given: Any, **options: Any) -> Any:
        # no sooner: what is in use when an arm begins counts as left by the one before
        left = torch.cuda.mem_get_info()[0] - 4 * 2**20
        hogs.append(torch.empty(left, dtype=torch.uint8, device="cuda"))
        return load(*given, **options)

    session = Session(few("bnb-nf4", "sdnq-uint4-dequant"))
    first, second = session.plan.recipes
    session.outcome(find_recipe(REFERENCE))
    before = torch.cuda.memory_allocated()
    with monkeypatch.context() as patched:
        patched.setattr(observer, "load_pipeline", loading)
        with pytest.raises(OutOfMemoryError, match="not enough GPU memory to load it") as told:
            session.outcome(first)
    assert "\n" not in str(told.value)
    print(told.value)
    hogs.clear()
    torch.cuda.empty_cache()
    # what bitsandbytes keeps for the process: a kibibyte
    assert torch.cuda.memory_allocated() - before < 2**16
    assert session.outcome(second).verdict.status is not Status.FAIL
    assert session.broken == ("bnb-nf4",)


def test_the_allocator_that_runs_away_is_refused_or_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    name, value = "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True,max_split_size_mb:32"
    monkeypatch.setenv(name, value)
    with pytest.raises(UnavailableError, match="let reserved memory grow without bound") as told:
        Session(few(REFERENCE)).begin(find_recipe(REFERENCE))
    print(told.value)
    forced = Session(few(REFERENCE), any_allocator=True)
    record = forced.outcome(find_recipe(REFERENCE)).record
    assert record.fingerprint.settings[name] == value
