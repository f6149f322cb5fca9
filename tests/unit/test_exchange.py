"""What workers leave for each other: begun once, whole or not at all, told by name."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ernie_qa import observer
from ernie_qa.errors import ErnieQAError, RecordError
from ernie_qa.exchange import Exchange
from ernie_qa.execute import Session
from ernie_qa.plan import plan
from ernie_qa.recipe import REFERENCE, Recipe
from ernie_qa.record import Record


@pytest.fixture
def workers(tmp_path: Path) -> tuple[Exchange, Exchange]:
    """Two workers of one run."""
    first = Exchange(tmp_path, "gw0")
    first.make()
    return first, Exchange(tmp_path, "gw1")


def test_an_arm_is_begun_once(workers: tuple[Exchange, Exchange]) -> None:
    first, second = workers
    first.begin("sdnq-int8")
    with pytest.raises(
        ErnieQAError, match=r"^sdnq-int8 broke off: worker gw0 died while it was at it; run again$"
    ):
        second.begin("sdnq-int8")
    assert second.begun == ("sdnq-int8",)


def test_what_broke_off_elsewhere_says_why(workers: tuple[Exchange, Exchange]) -> None:
    first, second = workers
    first.begin("bnb-nf4")
    first.broke("bnb-nf4", "the GPU's memory ran out")
    with pytest.raises(
        ErnieQAError, match=r"^bnb-nf4 broke off before, in worker gw0: the GPU's memory ran out$"
    ):
        second.begin("bnb-nf4")


def test_a_record_comes_back_with_its_hash(
    workers: tuple[Exchange, Exchange], observed: tuple[Recipe, dict[str, Record]]
) -> None:
    first, second = workers
    record = observed[1][REFERENCE]
    assert second.record(REFERENCE) is None
    first.keep(REFERENCE, record)
    found = second.record(REFERENCE)
    assert found is not None
    assert found.hash == record.hash
    file = first.directory / "records" / REFERENCE / "record.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"small"', '"large"'), encoding="utf-8")
    with pytest.raises(RecordError, match="was edited"):
        second.record(REFERENCE)


def test_the_second_session_finds_the_reference_and_draws_only_its_own(
    workers: tuple[Exchange, Exchange],
    observed: tuple[Recipe, dict[str, Record]],
    tiny_model: Path,
    small_suite: Path,
) -> None:
    first, second = workers
    recipe, records = observed
    first.keep(REFERENCE, records[REFERENCE])
    planned = plan(tiny_model, [REFERENCE, recipe], small_suite)
    session = Session(planned, exchange=second)
    outcome = session.outcome(recipe)
    assert second.begun == (recipe.name,)
    assert outcome.record.reference == records[REFERENCE].hash
    # who only judges has the same verdict from the same records
    judging = Session(planned)
    found = {name: record for name in (REFERENCE, recipe.name) if (record := first.record(name))}
    judging.adopt(found, second.begun, {recipe.name})
    assert [one.verdict for one in judging.outcomes] == [outcome.verdict]
    assert (judging.broken, judging.status) == ((), outcome.verdict.status)


def test_what_was_begun_and_left_no_record_broke_off(
    observed: tuple[Recipe, dict[str, Record]], tiny_model: Path, small_suite: Path
) -> None:
    recipe, records = observed
    judging = Session(plan(tiny_model, [REFERENCE, recipe], small_suite))
    judging.adopt({REFERENCE: records[REFERENCE]}, (REFERENCE, recipe.name), {REFERENCE, recipe.name})
    assert [one.verdict.recipe for one in judging.outcomes] == [REFERENCE]
    assert judging.broken == (recipe.name,)
    assert judging.status == "not_comparable"


def test_without_the_reference_nothing_is_judged(
    observed: tuple[Recipe, dict[str, Record]], tiny_model: Path, small_suite: Path
) -> None:
    recipe, records = observed
    judging = Session(plan(tiny_model, [recipe], small_suite))
    judging.adopt({recipe.name: records[recipe.name]}, (recipe.name, REFERENCE), {recipe.name})
    assert judging.outcomes == ()
    assert judging.broken == (REFERENCE,)


def test_whatever_ends_an_arm_in_a_process_that_lives_on_is_told(
    workers: tuple[Exchange, Exchange], tiny_model: Path, small_suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaving(*given: object, **options: object) -> None:
        raise SystemExit("no licence")

    monkeypatch.setattr(observer, "load_pipeline", leaving)
    first, second = workers
    session = Session(plan(tiny_model, [REFERENCE], small_suite), exchange=first)
    with pytest.raises(SystemExit):
        session.outcome(session.plan.recipes[0])
    assert second.ended(REFERENCE).startswith("bf16 broke off before, in worker gw0: SystemExit: no licence ")


TURN = """
import sys
from pathlib import Path
from ernie_qa.exchange import Exchange
with Exchange(Path(sys.argv[1]), "gw0").turn():
    {inside}
"""
FORK = "import os, time; print(os.fork(), flush=True); time.sleep(60)"


def test_a_turn_ends_with_its_process_though_a_child_lives_on(workers: tuple[Exchange, Exchange]) -> None:
    def command(inside: str) -> list[str]:
        return [sys.executable, "-c", TURN.format(inside=inside), str(workers[0].directory)]

    with subprocess.Popen(command(FORK), stdout=subprocess.PIPE, text=True, start_new_session=True) as holder:
        try:
            assert holder.stdout
            assert int(holder.stdout.readline())
            with pytest.raises(subprocess.TimeoutExpired):
                subprocess.run(command("pass"), timeout=3, check=True)
            holder.kill()
            holder.wait()
            subprocess.run(command("pass"), timeout=30, check=True)
        finally:
            # the child too
            os.killpg(holder.pid, signal.SIGKILL)
