import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st

from ernie_qa.recipe import REFERENCE
from ernie_qa.sweep.pareto import pareto
from ernie_qa.sweep.plot import svg
from ernie_qa.sweep.rows import LPIPS, Found, Row
from ernie_qa.verdict import Status

figures = st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, 2.0, 1e-9]) | st.floats(0, 1e6)] * 3)
points = st.lists(figures, max_size=12)


def better(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(
        a < b for a, b in zip(one, other, strict=True)
    )


@given(points)
def test_what_is_off_the_front_is_beaten_by_something_on_it(found: list[tuple[float, ...]]) -> None:
    marks = pareto(found)
    front = [one for one, on in zip(found, marks, strict=True) if on]
    assert bool(front) == bool(found)
    for one, on in zip(found, marks, strict=True):
        assert on is not any(better(other, one) for other in front)


@given(points, figures)
def test_a_worse_point_changes_nothing(found: list[tuple[float, ...]], worse: tuple[float, ...]) -> None:
    if any(better(one, worse) for one in found):
        assert pareto([*found, worse]) == [*pareto(found), False]


@given(points.flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))))
def test_order_does_not_matter(both: tuple[list[tuple[float, ...]], list[tuple[float, ...]]]) -> None:
    one, other = ({p for p, on in zip(found, pareto(found), strict=True) if on} for found in both)
    assert one == other


def row(number: int, name: str, status: Status | None, **figures: float | None) -> Row:
    values = {"fidelity": 0.1, "memory": 1e7, "seconds": 0.5, **figures}
    return Row(number, name, status, **values, stopped=False, front=False, note="")


def test_the_plot_has_a_mark_for_each_row_with_figures() -> None:
    rows = (
        row(0, REFERENCE, None, fidelity=0.0),
        row(1, "a", Status.PASS),
        row(2, "b", Status.FAIL, fidelity=0.7),
        row(3, "c", Status.FAIL, fidelity=None, seconds=None),
    )
    drawing = ElementTree.fromstring(svg(Found(rows, LPIPS, "weights in memory", 2, (), 1.0)))
    texts = [one.text for one in drawing.iter() if one.tag.endswith("text")]
    for number, panels in (("1", 2), ("2", 2), ("3", 0)):
        # axis numbers stand beside them: these values have none of the numbers of rows on an axis
        assert sum(number == text for text in texts if text) >= panels
    crosses = [one for one in drawing.iter() if one.get("stroke") == "#d4483f"]
    assert len(crosses) == 3, "one a panel and one in the legend"


def test_an_empty_plot_is_still_a_drawing() -> None:
    found = Found(
        (row(0, REFERENCE, None, fidelity=None, seconds=None),), LPIPS, "weights in memory", 2, (), 1.0
    )
    assert ElementTree.fromstring(svg(found)) is not None


def test_what_stopping_saved_is_an_estimate_of_the_arms_that_drew() -> None:
    stopped = Row(3, "c", Status.FAIL, None, 1e7, None, True, False, "")
    rows = (
        row(0, REFERENCE, None, seconds=9.0),
        row(1, "a", Status.PASS, seconds=1.0),
        row(2, "b", Status.PASS, seconds=3.0),
        stopped,
    )
    assert Found(rows, LPIPS, "", 10, (), 1.0).estimate == 20.0
    assert Found((rows[0], stopped), LPIPS, "", 10, (), 1.0).estimate is None
