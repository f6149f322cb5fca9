"""An arm in pieces that several workers draw: who draws what, and what each says of a piece that was lost."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ernie_qa.errors import ErnieQAError
from ernie_qa.exchange import Exchange
from ernie_qa.helped import helped
from ernie_qa.observer import Observer
from ernie_qa.plan import Plan, plan
from ernie_qa.recipe import REFERENCE, Recipe, find_recipe
from ernie_qa.record import Record
from ernie_qa.settings import Part, Settings

PIECES = (("one",), ("two",))
DIED = (
    "bf16+2of2 broke off: worker gw1 died while it was at it, and nothing can be compared without it; "
    "run again"
)
Draw = Callable[[tuple[str, ...]], Record]


@pytest.fixture(scope="module")
def draw(tiny_model: Path, small_suite: Path, observed: tuple[Recipe, dict[str, Record]]) -> Draw:
    planned: Plan = plan(tiny_model, [observed[0]], small_suite, teacher_cases=0)
    bf16 = find_recipe(REFERENCE)
    known = {cases: Observer(planned, Settings(), part=Part(cases, None)).record(bf16) for cases in PIECES}
    return known.__getitem__


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    found = Exchange(tmp_path, "gw0", among=2)
    found.make()
    return found


def test_one_alone_draws_all(exchange: Exchange, draw: Draw) -> None:
    drawn: list[tuple[str, ...]] = []

    def noting(cases: tuple[str, ...]) -> Record:
        drawn.append(cases)
        return draw(cases)

    found = helped(exchange, REFERENCE, PIECES, noting)
    assert drawn == list(PIECES)
    assert [picture.case for picture in found.pictures] == ["one", "two"]
    assert exchange.begun == (REFERENCE,)
    left = exchange.record(REFERENCE)
    assert left
    assert left.hash == found.hash
    # who comes later finds it
    assert helped(replace(exchange, worker="gw1"), REFERENCE, PIECES, noting).hash == found.hash
    assert len(drawn) == 2


def test_what_another_drew_is_taken(exchange: Exchange, draw: Draw) -> None:
    other = replace(exchange, worker="gw1").below(REFERENCE)
    other.begin("bf16+1of2")
    other.keep("bf16+1of2", draw(("one",)))
    drawn: list[tuple[str, ...]] = []

    def noting(cases: tuple[str, ...]) -> Record:
        drawn.append(cases)
        return draw(cases)

    assert len(helped(exchange, REFERENCE, PIECES, noting).pictures) == 2
    assert drawn == [("two",)]


def test_a_piece_whose_worker_died_is_lost(exchange: Exchange, draw: Draw) -> None:
    replace(exchange, worker="gw1").below(REFERENCE).begin("bf16+2of2")
    for worker in ("gw0", "gw2"):
        with pytest.raises(ErnieQAError) as told:
            helped(replace(exchange, worker=worker), REFERENCE, PIECES, draw)
        assert str(told.value) == DIED
    assert exchange.is_told(REFERENCE)
    assert exchange.record(REFERENCE) is None
    assert exchange.gather([REFERENCE]) == ({}, [exchange.ended(REFERENCE)])


def test_a_piece_that_broke_off_is_told_by_all(exchange: Exchange, draw: Draw) -> None:
    def breaking(cases: tuple[str, ...]) -> Record:
        if cases == ("two",):
            raise ErnieQAError("bf16 broke off: no such kernel")
        return draw(cases)

    with pytest.raises(ErnieQAError, match=r"^bf16 broke off: no such kernel$"):
        helped(exchange, REFERENCE, PIECES, breaking)
    with pytest.raises(ErnieQAError, match=r"^bf16\+2of2 broke off before, in worker gw0: .*no such kernel$"):
        helped(replace(exchange, worker="gw1"), REFERENCE, PIECES, draw)


def test_a_piece_at_which_a_worker_hung_is_told(exchange: Exchange, draw: Draw) -> None:
    replace(exchange, worker="gw1").below(REFERENCE).begin("bf16+2of2")
    (exchange.directory / "steps" / "gw1").write_text(
        "bf16\nno progress for 5 s while drawing picture 1 of 2\nTimeout (0:00:05)!\n", encoding="utf-8"
    )
    with pytest.raises(ErnieQAError, match=r"^bf16 broke off: no progress for 5 s while drawing"):
        helped(exchange, REFERENCE, PIECES, draw)


def test_of_an_arm_that_broke_off_elsewhere_no_more_is_drawn(exchange: Exchange, draw: Draw) -> None:
    def breaking(cases: tuple[str, ...]) -> Record:
        # another worker meets its end while this one draws
        other = replace(exchange, worker="gw1")
        other.begin(REFERENCE)
        other.broke(REFERENCE, "its parts do not fit")
        drawn.append(cases)
        return draw(cases)

    drawn: list[tuple[str, ...]] = []
    with pytest.raises(ErnieQAError, match=r"^bf16 broke off before, in worker gw1: its parts do not fit$"):
        helped(exchange, REFERENCE, PIECES, breaking)
    assert drawn == [("one",)]
