"""What an earlier run left: taken where it is whole and of the same run, and of nobody else at the time."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ernie_qa import fingerprint
from ernie_qa import unfinished as resuming
from ernie_qa.errors import InputError
from ernie_qa.plan import Plan, plan
from ernie_qa.recipe import REFERENCE, Recipe
from ernie_qa.record import Record
from ernie_qa.rungs import cost
from ernie_qa.unfinished import FOLDER, KEPT_DAYS, finished, unfinished

Observed = tuple[Recipe, dict[str, Record]]


@pytest.fixture
def planned(
    observed: Observed, tiny_model: Path, small_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Plan:
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path / "cache"))
    return plan(tiny_model, [observed[0]], small_suite)


def begun(planned: Plan, records: dict[str, Record], *more: str) -> Path:
    """A run that kept these records, and was killed while it was at `more`."""
    with unfinished(planned, rungs=False) as (kept, told):
        assert not kept.earlier
        assert not told
        for name, record in records.items():
            kept.begin(name)
            kept.keep(name, record)
        for name in more:
            kept.begin(name)
        return kept.directory


def test_what_had_ended_is_found_and_what_had_not_may_begin(planned: Plan, observed: Observed) -> None:
    records = {REFERENCE: observed[1][REFERENCE]}
    begun(planned, records, "lenient")
    with unfinished(planned, rungs=False) as (kept, told):
        assert (kept.earlier, told) == ({REFERENCE}, ())
        assert kept.record(REFERENCE) == records[REFERENCE]
        kept.begin("lenient")
        finished(kept)
    with unfinished(planned, rungs=False) as (kept, _):
        assert not kept.earlier


def test_a_damaged_record_is_told_and_drawn_again(planned: Plan, observed: Observed) -> None:
    place = begun(planned, observed[1])
    picture = next((place / "records" / "lenient").rglob("*.png"))
    picture.write_bytes(picture.read_bytes()[:100])
    with unfinished(planned, rungs=False) as (kept, told):
        assert kept.earlier == {REFERENCE}
        (line,) = told
        assert line.startswith("lenient is drawn again: ")
        assert "\n" not in line
        kept.begin("lenient")


def test_without_bf16_nothing_is_taken(planned: Plan, observed: Observed) -> None:
    place = begun(planned, observed[1])
    (place / "records" / REFERENCE / "record.json").write_text("{")
    with unfinished(planned, rungs=False) as (kept, told):
        assert not kept.earlier
        assert [line.partition(":")[0] for line in told] == [
            f"{REFERENCE} is drawn again",
            f"without {REFERENCE}'s record, drawn again",
        ]
        for name in observed[1]:
            kept.begin(name)


def test_edited_code_is_another_run(
    planned: Plan, observed: Observed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(planned, observed[1])
    package = tmp_path / "ernie_qa"
    package.mkdir()
    (package / "observe.py").write_text("edited = True")
    monkeypatch.setattr(fingerprint, "__file__", str(package / "fingerprint.py"))
    # which is read once a process
    monkeypatch.setattr(resuming, "sources", fingerprint.sources.__wrapped__)
    with unfinished(planned, rungs=False) as (kept, _):
        assert not kept.earlier


def test_another_run_finds_nothing_of_it(
    planned: Plan, observed: Observed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(planned, observed[1])
    others = (
        replace(planned, teacher_cases=1),
        replace(planned, recipes=()),
        replace(planned, suite=replace(planned.suite, steps=3)),
        replace(planned, offloaded=frozenset({REFERENCE})),
    )
    for other in others:
        with unfinished(other, rungs=False) as (kept, _):
            assert not kept.earlier
    with unfinished(planned, rungs=True) as (kept, _):
        assert not kept.earlier
    with unfinished(planned, rungs=False, baselines=tmp_path) as (kept, _):
        assert not kept.earlier
    monkeypatch.setenv("SDNQ_ANYTHING", "1")
    with unfinished(planned, rungs=False) as (kept, _):
        assert not kept.earlier
    monkeypatch.delenv("SDNQ_ANYTHING")
    with unfinished(planned, rungs=False) as (kept, _):
        assert kept.earlier == set(observed[1])


@pytest.mark.parametrize(("name", "folder"), [("tiny", "tiny"), ("org/name", "org-name")])
def test_what_is_accepted_belongs_to_the_run(
    planned: Plan, observed: Observed, tmp_path: Path, name: str, folder: str
) -> None:
    model = replace(planned.model, identity=replace(planned.model.identity, name=name))
    planned = replace(planned, model=model)
    figures = tmp_path / "baselines" / folder / "cpu" / "index.json"
    figures.parent.mkdir(parents=True)
    places = set()
    for text in ("{}", "{ }"):
        figures.write_text(text)
        with unfinished(planned, baselines=tmp_path / "baselines") as (kept, _):
            places.add(kept.directory)
    assert len(places) == 2


def test_two_at_once_are_refused(planned: Plan) -> None:
    with unfinished(planned, rungs=False), pytest.raises(InputError, match="another process is at this run"):
        unfinished(planned, rungs=False).__enter__()


def test_what_nobody_goes_on_with_goes(planned: Plan, observed: Observed, tmp_path: Path) -> None:
    old = begun(planned, observed[1])
    then = old.stat().st_mtime - (KEPT_DAYS + 1) * 86400
    os.utime(old, (then, then))
    with unfinished(planned, rungs=False):
        pass
    # it was gone on with
    with unfinished(planned, rungs=True):
        assert old.is_dir()
    os.utime(old, (then, then))
    with unfinished(planned, rungs=True) as (kept, _):
        assert [one.name for one in (tmp_path / "cache" / FOLDER).iterdir()] == [kept.directory.name]


def test_a_ratio_to_an_earlier_runs_bf16_is_not_told(observed: Observed) -> None:
    arm = SimpleNamespace(reference=observed[1][REFERENCE], timed_apart=True)
    assert "was timed in an earlier run" in cost._ratios({}, arm)["why"]  # type: ignore[arg-type]
