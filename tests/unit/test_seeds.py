"""More seeds than a case's own: what is drawn, what it is called, and which hash it has."""

from pathlib import Path

import pytest

from ernie_qa.errors import SuiteError
from ernie_qa.execute import Session
from ernie_qa.plan import plan
from ernie_qa.record import Record, load_record
from ernie_qa.suite import MAX_SEEDS, find_suite, is_own, more_seeds


def test_own_seeds_come_first_and_others_follow_from_them() -> None:
    suite = find_suite("mini")
    three = suite.with_seeds(3)
    assert three.cases[:10] == three.own == suite.cases
    assert [case.id for case in three.cases[10::10]] == ["00-cyrillic-poster+1", "00-cyrillic-poster+2"]
    # the start of sha256("41001+1"), which no release may change: records of two would not compare
    assert three.cases[10].seed == 1344880666
    assert len({case.seed for case in three.cases}) == 30
    assert three.with_seeds(2) == suite.with_seeds(2)
    assert suite.with_seeds(2).cases == three.cases[:20]
    assert three.with_seeds(1) == suite
    assert [is_own(case.id) for case in three.cases] == [True] * 10 + [False] * 20
    assert (suite.title, three.title, three.name) == ("mini", "mini with 3 seeds a case", "mini")
    assert [case.text for case in three.cases[10:20]] == [case.text for case in suite.cases]


def test_the_hash_says_how_many_more() -> None:
    suite = find_suite("mini")
    hashes = [suite.with_seeds(seeds).hash for seeds in range(1, 5)]
    assert len(set(hashes)) == 4
    assert [more_seeds(one, hashes[1]) for one in hashes] == [None, 0, 1, 2]
    assert more_seeds(suite.with_seeds(MAX_SEEDS).hash, suite.hash) == MAX_SEEDS - 1
    assert more_seeds(find_suite("turbo10").hash, suite.hash) is None


@pytest.mark.parametrize("seeds", [0, -1, MAX_SEEDS + 1])
def test_too_many_seeds_or_none(seeds: int) -> None:
    with pytest.raises(SuiteError, match=rf"{seeds} seeds a case: allowed are 1 to 100"):
        find_suite("mini").with_seeds(seeds)


def test_a_case_of_a_file_cannot_be_called_like_one(small_suite: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(small_suite.read_text(encoding="utf-8").replace('"two"', '"one+1"'), encoding="utf-8")
    with pytest.raises(SuiteError, match="allowed is 1 to 100 letters"):
        find_suite(path)


def test_two_seeds_are_drawn(
    tiny_model: Path, small_suite: Path, observed: tuple[object, dict[str, Record]], tmp_path: Path
) -> None:
    session = Session(plan(tiny_model, ["bf16"], small_suite, seeds=2))
    (outcome,) = session
    record = outcome.record
    assert [picture.case for picture in record.pictures] == ["one", "two", "one+1", "two+1"]
    # the first of them are what one seed draws
    assert record.pictures[:2] == observed[1]["bf16"].pictures
    assert len({picture.sha256 for picture in record.pictures}) == 4
    assert record.suite.name == "small"
    assert more_seeds(record.suite.hash, observed[1]["bf16"].suite.hash) == 1
    record.save(tmp_path / "record")
    assert load_record(tmp_path / "record") == record
