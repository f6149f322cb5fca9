"""What a run on a cluster keeps for the one that goes on with it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ernie_qa import cluster
from ernie_qa.cluster.work import Broke, Done, Task, work
from ernie_qa.errors import ErnieQAError, RecordError
from ernie_qa.exchange import Exchange
from ernie_qa.plan import Plan, plan
from ernie_qa.recipe import REFERENCE
from ernie_qa.record import Record
from ernie_qa.settings import Settings
from tests.clusters import Observed, Played, known


@pytest.fixture(scope="module")
def planned(tiny_model: Path, small_suite: Path, observed: Observed) -> Plan:
    return plan(tiny_model, [observed[0]], small_suite)


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
