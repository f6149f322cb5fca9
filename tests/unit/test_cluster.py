"""What becomes of what executors lose, and of what contradicts itself. Dask's own workers are in
tests/end_to_end/test_cluster.py."""

import os
import pickle
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from ernie_qa import cluster
from ernie_qa.cli import main
from ernie_qa.cluster import dispatch
from ernie_qa.cluster.work import Broke, Done, Task
from ernie_qa.errors import ErnieQAError, UnavailableError
from ernie_qa.plan import Plan, plan
from ernie_qa.recipe import REFERENCE
from ernie_qa.record import Record, load_record
from ernie_qa.settings import Settings
from ernie_qa.turns import longest_first
from tests.clusters import Observed, Played, known


@pytest.fixture(scope="module")
def planned(tiny_model: Path, small_suite: Path, observed: Observed) -> Plan:
    return plan(tiny_model, [observed[0]], small_suite)


def test_the_longest_is_given_out_first() -> None:
    names = ["sdnq-int8", "bnb-nf4", REFERENCE, "sdnq-uint4-static"]
    seconds = {REFERENCE: 1.0, "sdnq-int8": 20.0, "bnb-nf4": 30.0}
    assert longest_first(names, seconds) == [REFERENCE, "sdnq-uint4-static", "bnb-nf4", "sdnq-int8"]
    assert longest_first(names, {}) == [REFERENCE, "sdnq-int8", "bnb-nf4", "sdnq-uint4-static"]


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
