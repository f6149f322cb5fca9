"""Faults that cost little, tried for real: a rung each, both quantizers, and clean variants."""

from collections.abc import Iterator

import pytest

from ernie_qa.faults import Fault
from ernie_qa.selftest import chosen, selftest
from ernie_qa.selftest.bench import Bench, bench
from ernie_qa.selftest.row import REFUSED

QUICK = (
    "flag off, kernels on",
    "INT8: one block left in BF16",
    "INT8: one layer's scales 2 % off",
    "NF4: FP4's codebook in one layer",
    "shift 2.9 behind the configuration's back",
    "a reference of another torch",
    "a truncated file in the artifact",
    "two pictures swapped",
)


@pytest.fixture(scope="module")
def stand() -> Iterator[Bench]:
    with bench() as made:
        yield made


@pytest.mark.parametrize("name", QUICK)
def test_a_fault_is_caught_by_the_rung_that_names_it(stand: Bench, name: str) -> None:
    (one,) = chosen([name])
    row = stand.tried(one)
    assert (row.caught_by, row.right) == (one.rung, True), row
    assert row.message


def test_a_clean_variant_differs_in_bits_and_passes(stand: Bench) -> None:
    (one,) = chosen(["INT8: latents rounded otherwise"])
    row = stand.tried(one)
    assert row.caught_by is None, row
    assert "10 of 10 pictures" in row.apart
    assert row.counts


def test_what_changes_nothing_does_not_count(stand: Bench) -> None:
    row = stand.tried(Fault("nothing", "none", "sdnq-int8", "pipe", lambda pipe: None))
    assert (row.caught_by, row.apart, row.counts) == (None, "", False)


def test_a_fault_that_cannot_be_done_is_not_caught(stand: Bench) -> None:
    def broken(pipe: object) -> None:
        raise TypeError("no such layer")

    row = stand.tried(Fault("broken", "none", "sdnq-int8", "pipe", broken, rung="images"))
    assert row.caught_by is None
    assert row.message == "broke off: TypeError: no such layer"


def test_a_fault_that_damages_nothing_survives_and_the_selftest_fails() -> None:
    result = selftest([Fault("nothing", "none", "sdnq-int8", "pipe", lambda pipe: None, rung="images")])
    assert (len(result.faults), len(result.killed), result.sound) == (1, 0, False)


def test_what_is_refused_says_so(stand: Bench) -> None:
    (one,) = chosen(["a truncated file in the artifact"])
    assert stand.tried(one).check == REFUSED


def test_a_fault_that_is_known_to_survive_counts_as_one_and_is_no_news() -> None:
    known = Fault(
        "known", "none", "sdnq-int8", "record", lambda record: record, rung="images", survives="why"
    )
    result = selftest([known])
    assert (len(result.faults), len(result.killed), result.sound) == (1, 0, True)
