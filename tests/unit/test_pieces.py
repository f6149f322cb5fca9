from hypothesis import given
from hypothesis import strategies as st

from ernie_qa.pieces import LEAST, arm_of, piece_name, pieces, shares

suites = st.integers(1, 40).map(lambda count: [f"case{number}" for number in range(count)])


@given(suites, st.integers(0, 50))
def test_pieces_are_the_suite(cases: list[str], size: int) -> None:
    found = pieces(cases, size)
    assert [case for piece in found for case in piece] == cases
    assert all(len(piece) == (size or len(cases)) for piece in found[:-1])


@given(suites, st.integers(1, 9), st.integers(0, 12))
def test_shares_are_the_suite_and_alike(cases: list[str], workers: int, fed: int) -> None:
    found = shares(cases, workers, fed)
    assert [case for piece in found for case in piece] == cases
    assert 1 <= len(found) <= workers
    if len(found) > 1:
        fed = min(fed, len(cases))
        assert len(found[0]) >= fed
        assert all(len(piece) >= LEAST for piece in found)
        others = [len(piece) for piece in found[1:]]
        assert max(others) - min(others) <= 1


def test_two_workers_draw_six_pictures_each() -> None:
    cases = [str(number) for number in range(10)]
    # the first two are drawn once more by who has them
    assert [len(piece) for piece in shares(cases, 2, 2)] == [4, 6]
    assert [len(piece) for piece in shares(cases, 2, 0)] == [5, 5]
    assert [len(piece) for piece in shares(cases, 8, 2)] == [3, 4, 3]
    assert shares(cases, 1, 2) == (tuple(cases),)
    assert shares(cases[:2], 2, 2) == (("0", "1"),)


def test_names() -> None:
    assert piece_name("mine", 0, 1) == "mine"
    assert piece_name("mine", 1, 3) == "mine+2of3"
    assert arm_of("mine+2of3") == arm_of("mine") == "mine"
