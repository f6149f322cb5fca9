"""Chunks, and what a worker of a cluster does with one, or refuses."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ernie_qa import cluster, observer
from ernie_qa.baseline.store import files_about
from ernie_qa.cluster import work as working
from ernie_qa.cluster.chunks import check_size, chunks
from ernie_qa.cluster.work import Broke, Done, work
from ernie_qa.errors import ErnieQAError, InputError
from ernie_qa.models.find import find_model
from ernie_qa.pieces import arm_of, pieces
from ernie_qa.plan import Plan, plan
from ernie_qa.recipe import REFERENCE
from ernie_qa.settings import Settings
from tests.clusters import Observed, given


@pytest.fixture(scope="module")
def planned(tiny_model: Path, small_suite: Path, observed: Observed) -> Plan:
    return plan(tiny_model, [observed[0]], small_suite)


def test_a_suite_in_chunks(planned: Plan) -> None:
    suite, recipe = planned.suite, planned.recipes[0]
    cases = [case.id for case in suite.cases]
    (whole,) = chunks(recipe, pieces(cases, 0))
    assert (whole.name, str(whole), whole.cases) == ("lenient", "lenient", ("one", "two"))
    first, second = chunks(recipe, pieces(cases, 1))
    assert (first.cases, second.cases) == (("one",), ("two",))
    assert (second.name, str(second)) == ("lenient+2of2", "lenient (part 2 of 2)")
    assert arm_of(second.name) == arm_of(whole.name) == "lenient"
    assert pieces(cases, 5) == pieces(cases, 0)


@pytest.mark.parametrize(("size", "fed", "fine"), [(0, 2, True), (1, 2, False), (2, 2, True), (1, 0, True)])
def test_the_first_chunk_holds_what_is_fed(planned: Plan, size: int, fed: int, fine: bool) -> None:
    if fine:
        check_size(size, replace(planned, teacher_cases=fed))
    else:
        with pytest.raises(InputError, match="--chunk 1: needed are 2 cases or more"):
            check_size(size, replace(planned, teacher_cases=fed))


def test_a_negative_chunk_is_refused(planned: Plan) -> None:
    with pytest.raises(InputError, match="--chunk -1"):
        check_size(-1, replace(planned, teacher_cases=0))


def test_what_finds_a_model_elsewhere(tiny_model: Path) -> None:
    assert find_model("mini").address == "mini"
    assert find_model(tiny_model).address == str(tiny_model)
    hub = find_model("mini")
    hub = replace(hub, path=tiny_model, identity=replace(hub.identity, name="org/name", revision="abc"))
    assert hub.address == "org/name@abc"


def test_a_worker_refuses_another_model(planned: Plan) -> None:
    other = replace(planned.model, identity=replace(planned.model.identity, hash="0" * 64))
    other_plan = replace(planned, model=other)
    (chunk,) = chunks(planned.recipes[0], (("one", "two"),))
    found = work(given(other_plan, chunk), {}, None)
    assert isinstance(found, Broke)
    assert "holds another model than the caller's" in found.why


def test_a_worker_refuses_what_ended_two(planned: Plan) -> None:
    (chunk,) = chunks(planned.recipes[0], (("one", "two"),))
    task = replace(given(planned, chunk), begun=lambda name: 3)
    found = work(task, {}, None)
    assert found == Broke("lenient ended 2 workers and is not tried again: look at their logs and memory")


def test_accepted_pictures_travel(tmp_path: Path) -> None:
    """BF16's drift is measured by the worker, against what the caller accepted."""
    baselines = Path(__file__).parents[2] / "baselines"
    names = files_about(baselines, "mini")
    assert "mini/cpu/index.json" in names
    assert any(name.startswith("noise/mini/") for name in names)
    assert all(file.is_file() for file in names.values())
    small = plan("mini", ["bf16"], teacher_cases=0)
    with ThreadPoolExecutor(1) as pool:
        session = cluster.run(small, Settings(baselines), cluster.Workers(pool), chunk=5)
    drift = session.records[REFERENCE].figures["images"]["drift"]
    assert drift["metrics"]["lpips"]["max"] is not None


def test_a_worker_whose_gpu_is_not_empty_begins_nothing(
    planned: Plan, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_it = 0
    for module in (working, observer):
        monkeypatch.setattr(module, "held", lambda device: on_it)
    monkeypatch.setattr(working, "_BEFORE", {})
    (chunk,) = chunks(planned.recipes[0], (("one", "two"),))
    task = given(planned, chunk)
    bf16 = observed[1][REFERENCE]
    assert isinstance(work(task, {}, bf16), Done)
    on_it = 2**30
    found = work(task, {}, bf16)
    assert isinstance(found, Broke)
    assert "lenient was not begun: an earlier arm left 1,024 MiB on the GPU" in found.why


def test_a_worker_with_other_code_is_refused(planned: Plan) -> None:
    (chunk,) = chunks(planned.recipes[0], (("one", "two"),))
    found = work(replace(given(planned, chunk), sources="0" * 64), {}, None)
    assert isinstance(found, Broke)
    assert found.why.endswith("runs another ernie_qa than the caller: install the same code there")


def test_what_a_worker_meets_that_nobody_foresaw_is_told_and_not_tried_again(
    planned: Plan, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(working.tempfile, "TemporaryDirectory", full)
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(ErnieQAError, match=r"^worker on .*: OSError: .*No space"),
    ):
        cluster.run(planned, Settings(), cluster.Workers(pool))
    assert capfd.readouterr().err.count("OSError: [Errno 28] No space left on device") == 1


def test_a_model_is_called_what_the_caller_calls_it(planned: Plan, tmp_path: Path) -> None:
    copy = tmp_path / "another-name"
    shutil.copytree(planned.model.path, copy)
    asked = replace(planned.model, identity=replace(planned.model.identity, name="org/name", pinned=False))
    found = working._same(find_model(copy), asked)
    assert (found.path, found.identity, found.identity.pinned) == (copy, asked.identity, False)
