"""What is counted and measured, as a reader expects it."""

import pytest

from ernie_qa.wording import counted, figure


def test_what_is_counted_stands_in_its_right_form() -> None:
    assert [counted(count, "layer") for count in (0, 1, 2)] == ["0 layers", "1 layer", "2 layers"]
    assert [counted(count, "weight is", "weights are") for count in (1, 2)] == [
        "1 weight is",
        "2 weights are",
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (9.379e-05, "0.00009379"),
        (0.0001159, "0.0001159"),
        (-9.3794e-05, "-0.00009379"),
        (123456.0, "123500"),
        (0.5, "0.5"),
        (0.0, "0"),
        (1e-12, "1e-12"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_a_figure_is_written_out(value: float, said: str) -> None:
    assert figure(value) == said
