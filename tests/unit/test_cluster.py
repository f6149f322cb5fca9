"""Chunks, what a worker refuses, and what becomes of what executors lose. Dask's own workers are in
tests/end_to_end/test_cluster.py."""

import os
import pickle
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from ernie_qa import cluster, observer
from ernie_qa.baseline.store import files_about
from ernie_qa.cli import main
from ernie_qa.cluster import dispatch
from ernie_qa.cluster import work as working
from ernie_qa.cluster.chunks import Chunk, check_size, chunks
from ernie_qa.cluster.work import Broke, Done, Task, places, work
from ernie_qa.errors import ErnieQAError, InputError, RecordError, UnavailableError
from ernie_qa.exchange import Exchange
from ernie_qa.fingerprint import sources
from ernie_qa.models.find import find_model
from ernie_qa.pieces import arm_of, pieces
from ernie_qa.plan import Plan, plan
from ernie_qa.recipe import REFERENCE, Recipe
from ernie_qa.record import Record, load_record
from ernie_qa.settings import Settings
from ernie_qa.turns import longest_first

Observed = tuple[Recipe, dict[str, Record]]


@pytest.fixture(scope="module")
def planned(tiny_model: Path, small_suite: Path, observed: Observed) -> Plan:
    return plan(tiny_model, [observed[0]], small_suite)


class Played(Executor):
    """Gives what `answer` makes of a task, or raises it, as an executor in another process does."""

    def __init__(self, answer: Callable[[Task], Done | Broke]) -> None:
        self.answer = answer
        self.given: list[str] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.given.append(args[0].chunk.name)
        try:
            future.set_result(self.answer(args[0]))
        except OSError as problem:
            future.set_exception(problem)
        return future


def given(planned: Plan, chunk: Chunk) -> Task:
    return Task(planned, Settings(), chunk, places(planned), sources(), None, False)


def known(observed: Observed) -> Callable[[Task], Done]:
    return lambda task: Done(observed[1][task.chunk.recipe.name], 1)


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


def test_the_longest_is_given_out_first() -> None:
    names = ["sdnq-int8", "bnb-nf4", REFERENCE, "sdnq-uint4-static"]
    seconds = {REFERENCE: 1.0, "sdnq-int8": 20.0, "bnb-nf4": 30.0}
    assert longest_first(names, seconds) == [REFERENCE, "sdnq-uint4-static", "bnb-nf4", "sdnq-int8"]
    assert longest_first(names, {}) == [REFERENCE, "sdnq-int8", "bnb-nf4", "sdnq-uint4-static"]


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


def test_a_session_of_what_came_back(planned: Plan, observed: Observed) -> None:
    drawn: list[tuple[str, int]] = []
    played = Played(known(observed))
    session = cluster.run(
        planned,
        Settings(),
        cluster.Workers(played),
        progress=lambda recipe, some: drawn.append((recipe, some)),
    )
    assert played.given == [REFERENCE, "lenient"]
    assert [outcome.verdict.status for outcome in session.outcomes] == ["pass"]
    assert drawn == [(REFERENCE, 2), ("lenient", 2)]
    assert {name: one.hash for name, one in session.records.items()} == {
        name: one.hash for name, one in observed[1].items()
    }


@pytest.mark.parametrize(("times", "fine"), [(1, True), (2, False)])
def test_what_is_lost_is_given_out_once_more(
    planned: Plan, observed: Observed, times: int, fine: bool
) -> None:
    told: list[str] = []

    def answer(task: Task) -> Done:
        if played.given.count("lenient") in range(1, times + 1):
            raise ConnectionResetError("gone")
        return known(observed)(task)

    played = Played(answer)
    workers = cluster.Workers(played)
    if fine:
        session = cluster.run(planned, Settings(), workers, told=told.append)
        assert len(session.outcomes) == 1
    else:
        with pytest.raises(ErnieQAError, match=r"^lenient was not drawn, given out 2 times: Conn.*: gone$"):
            cluster.run(planned, Settings(), workers, told=told.append)
        assert len(told) == 1
    assert told[0] == "lenient was lost, and is given out again: ConnectionResetError: gone"
    assert played.given.count("lenient") == 2


def test_what_broke_off_is_told_and_the_others_stand(
    planned: Plan, observed: Observed, write_recipe: Callable[[str, float], Path]
) -> None:
    both = plan(
        planned.model, [write_recipe("broken", 1.0), observed[0]], planned.suite.path, teacher_cases=2
    )
    told: list[str] = []

    def answer(task: Task) -> Done | Broke:
        name = task.chunk.recipe.name
        return Broke("broken: out of memory") if name == "broken" else known(observed)(task)

    session = cluster.run(both, Settings(), cluster.Workers(Played(answer)), told=told.append)
    assert told == ["broken: out of memory"]
    assert session.broken == ("broken",)
    assert [outcome.verdict.recipe for outcome in session.outcomes] == ["lenient"]
    assert session.status == "not_comparable"


def test_without_bf16_nothing_is_given_out(planned: Plan) -> None:
    played = Played(lambda task: Broke("bf16: out of memory"))
    with pytest.raises(ErnieQAError, match="bf16: out of memory"):
        cluster.run(planned, Settings(), cluster.Workers(played))
    assert played.given == [REFERENCE]


def test_when_no_worker_is_left_the_run_ends(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "POLL", 0.01)
    monkeypatch.setattr(dispatch, "GRACE", 0.05)

    class Silent(Played):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            self.given.append(args[0].chunk.name)
            return Future()

    workers = cluster.Workers(Silent(lambda task: Broke("")), count=lambda: 0)
    with pytest.raises(ErnieQAError, match="bf16 was not drawn: no worker is left; start some"):
        cluster.run(planned, Settings(), workers)


def test_an_interrupted_run_judges_what_is_there(
    planned: Plan, observed: Observed, write_recipe: Callable[[str, float], Path]
) -> None:
    later = plan(planned.model, [observed[0], write_recipe("later", 1.0)], planned.suite.path)

    def progress(recipe: str, drawn: int) -> None:
        if recipe == "lenient":
            raise KeyboardInterrupt

    class Slow(Played):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return Future() if args[0].chunk.name == "later" else super().submit(fn, *args, **kwargs)

    session = cluster.run(later, Settings(), cluster.Workers(Slow(known(observed))), progress=progress)
    assert session.unfinished == ("later",)
    assert [outcome.verdict.recipe for outcome in session.outcomes] == ["lenient"]


def test_kept_chunks_are_not_given_out(planned: Plan, observed: Observed, tmp_path: Path) -> None:
    exchange = Exchange(tmp_path, "gate")
    exchange.make()
    cluster.run(planned, Settings(), cluster.Workers(Played(known(observed))), kept=exchange)
    assert exchange.begun == (REFERENCE, "lenient")
    again = Played(known(observed))
    kept = replace(exchange, earlier=frozenset(exchange.begun))
    session = cluster.run(planned, Settings(), cluster.Workers(again), kept=kept)
    assert again.given == []
    assert len(session.outcomes) == 1


def test_what_was_measured_against_another_bf16_is_drawn_again(
    planned: Plan, observed: Observed, tmp_path: Path
) -> None:
    exchange = Exchange(tmp_path, "gate")
    exchange.make()
    for name, record in observed[1].items():
        exchange.begin(name)
        exchange.keep(name, record)
    moved = replace(observed[1][REFERENCE], created="2026-01-01T00:00:00+00:00")
    exchange.forget(REFERENCE)

    def answer(task: Task) -> Done:
        one = observed[1][task.chunk.recipe.name]
        return Done(moved if task.chunk.recipe.name == REFERENCE else replace(one, reference=moved.hash), 1)

    played = Played(answer)
    kept = replace(exchange, earlier=frozenset({"lenient"}))
    cluster.run(planned, Settings(), cluster.Workers(played), kept=kept)
    assert played.given == [REFERENCE, "lenient"]


def killed(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_pool_whose_process_died_is_told(planned: Plan) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(killed).exception()
        with pytest.raises(ErnieQAError, match="bf16 was not drawn: BrokenProcessPool"):
            cluster.run(planned, Settings(), cluster.Workers(pool))


def test_a_pool_of_processes_draws(planned: Plan, observed: Observed) -> None:
    """Everything that travels is pickled, and nothing is on a shared disk but the model."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        session = cluster.run(planned, Settings(), cluster.Workers(pool))
    for name, record in session.records.items():
        assert [one.sha256 for one in record.pictures] == [one.sha256 for one in observed[1][name].pictures]
    assert [outcome.verdict.status for outcome in session.outcomes] == ["pass"]


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--chunk=2"], "--chunk: is what a cluster's workers are given"),
        (["--cluster=tcp://127.0.0.1:9", "--timeout=5"], "--timeout: ends a process of this machine"),
        (["--cluster=tcp://127.0.0.1:9", "--dry-run"], "--dry-run: tells what this machine needs"),
        (["--cluster=nowhere://x"], "--cluster 'nowhere://x': no address; needed is one as tcp://host:8786"),
        (["--cluster=http://127.0.0.1:9"], "no address"),
        (["--cluster=foo"], "no address"),
        (["--cluster="], "--cluster '': no address"),
    ],
)
def test_what_contradicts_itself_is_refused(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gate", *options]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_no_scheduler_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ernie_qa.cluster import dask

    monkeypatch.setattr(dask, "PATIENCE", 1)
    assert main(["gate", "--cluster=tcp://127.0.0.1:9"]) == 2
    err = capsys.readouterr().err
    assert "no scheduler answers there" in err
    assert err.count("\n") == 1


def test_without_dask_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from ernie_qa.cluster.dask import connected

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UnavailableError, match=r"pip install 'ernie-qa\[cluster\]'"):
        connected("tcp://127.0.0.1:9").__enter__()


def test_a_scheduler_that_has_died_is_one_line(planned: Plan, observed: Observed) -> None:
    def share(value: Any) -> Any:
        raise OSError("Timed out trying to connect")

    with pytest.raises(ErnieQAError, match=r"^bf16 was not drawn: OSError: Timed out trying to connect$"):
        cluster.run(planned, Settings(), cluster.Workers(Played(known(observed)), share=share))


def test_what_cannot_be_kept_costs_its_recipe_alone(
    planned: Plan,
    observed: Observed,
    write_recipe: Callable[[str, float], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = plan(planned.model, [write_recipe("other", 1.0), observed[0]], planned.suite.path)
    exchange, keep, told = Exchange(tmp_path, "gate"), Exchange.keep, list[str]()
    exchange.make()

    def keeping(self: Exchange, name: str, record: Record) -> None:
        if name == "other":
            raise RecordError("no room")
        keep(self, name, record)

    def answer(task: Task) -> Done:
        name = task.chunk.recipe.name
        return Done(observed[1]["lenient" if name == "other" else name], 1)

    monkeypatch.setattr(Exchange, "keep", keeping)
    session = cluster.run(both, Settings(), cluster.Workers(Played(answer)), kept=exchange, told=told.append)
    assert told == ["other: no room"]
    assert [outcome.verdict.recipe for outcome in session.outcomes] == ["lenient"]
    assert session.broken == ("other",)


def test_who_waited_for_workers_in_vain_has_waited_for_all(
    planned: Plan, observed: Observed, write_recipe: Callable[[str, float], Path]
) -> None:
    both = plan(planned.model, [write_recipe("other", 1.0), observed[0]], planned.suite.path)
    shared: list[Any] = []
    told: list[str] = []

    def share(value: Any) -> Any:
        shared.append(value)
        # BF16 has come back by then
        if len(shared) > 2:
            raise TimeoutError("No valid workers found")
        return value

    workers = cluster.Workers(Played(known(observed)), share=share, count=lambda: 0)
    session = cluster.run(both, Settings(), workers, told=told.append)
    assert len(shared) == 3
    assert sorted(told) == [
        f"{name} was not drawn: no worker is left; start some" for name in ("lenient", "other")
    ]
    assert session.broken == ("lenient", "other")


def test_what_bf16_fed_its_parts_travels_though_it_lies_in_a_file(
    planned: Plan, observed: Observed, tmp_path: Path
) -> None:
    observed[1][REFERENCE].save(tmp_path / "bf16")
    record = load_record(tmp_path / "bf16")
    assert record.trajectories
    content = record.trajectories.content()
    travelled = pickle.dumps(record)
    shutil.rmtree(tmp_path / "bf16")
    again: Record = pickle.loads(travelled)
    assert again.hash == record.hash
    assert again.trajectories
    assert again.trajectories.content() == content


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


def test_of_an_arm_that_broke_off_no_more_is_given_out(planned: Plan) -> None:
    class Queue(Played):
        """Answers the first of several, and leaves the others waiting."""

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            if not self.given:
                return super().submit(fn, *args, **kwargs)
            waiting: Future[Any] = Future()
            self.given.append(args[0].chunk.name)
            futures.append(waiting)
            return waiting

    futures: list[Future[Any]] = []
    played = Queue(lambda task: Broke("bf16: no such kernel"))
    with pytest.raises(ErnieQAError, match=r"^bf16: no such kernel$"):
        cluster.run(replace(planned, teacher_cases=0), Settings(), cluster.Workers(played), chunk=1)
    assert played.given == ["bf16+1of2", "bf16+2of2"]
    assert [future.cancelled() for future in futures] == [True]


def test_a_lost_part_of_an_arm_that_broke_off_is_not_given_out_again(planned: Plan) -> None:
    def lost_or_broken(task: Task) -> Broke:
        if task.chunk.number == 0:
            raise ConnectionResetError("gone")
        return Broke("bf16: no such kernel")

    told: list[str] = []
    played = Played(lost_or_broken)
    with pytest.raises(ErnieQAError, match=r"^bf16: no such kernel$"):
        cluster.run(
            replace(planned, teacher_cases=0), Settings(), cluster.Workers(played), chunk=1, told=told.append
        )
    assert played.given == ["bf16+1of2", "bf16+2of2"]


def test_a_whole_arm_is_kept_instead_of_its_parts(planned: Plan, tmp_path: Path) -> None:
    exchange = Exchange(tmp_path, "gate")
    exchange.make()
    apart = replace(planned, teacher_cases=0)
    with ThreadPoolExecutor(1) as pool:
        first = cluster.run(apart, Settings(), cluster.Workers(pool), chunk=1, kept=exchange)
    assert exchange.begun == (REFERENCE, "lenient")
    # however many workers there are, and however it is divided
    again = Played(lambda task: Broke("was given out"))
    kept = replace(exchange, earlier=frozenset(exchange.begun))
    session = cluster.run(apart, Settings(), cluster.Workers(again, count=lambda: 3), kept=kept)
    assert again.given == []
    assert {name: one.hash for name, one in session.records.items()} == {
        name: one.hash for name, one in first.records.items()
    }


def test_parts_that_never_fit_are_not_kept(planned: Plan, tmp_path: Path) -> None:
    exchange = Exchange(tmp_path, "gate")
    exchange.make()
    apart = replace(planned, teacher_cases=0)

    def elsewhere(task: Task) -> Done | Broke:
        found = work(task, {}, None)
        if isinstance(found, Done) and task.chunk.number:
            other = replace(found.record.fingerprint, settings={"SDNQ_ANYTHING": "1"})
            return Done(replace(found.record, fingerprint=other), 1)
        return found

    with pytest.raises(
        ErnieQAError, match=r"different builds or machines .*settings\.SDNQ_ANYTHING: 1 / none"
    ):
        cluster.run(apart, Settings(), cluster.Workers(Played(elsewhere)), chunk=1, kept=exchange)
    assert exchange.begun == ()
