"""Rung 6: what does it cost? Drawing comes before every other gate of a recipe, and is timed there."""

from collections.abc import Callable

from ernie_qa.pytest_gates import Gate


def test_draw(ernie_draw: Callable[[], None]) -> None:
    ernie_draw()


def test_cost(ernie_gate: Gate) -> None:
    ernie_gate("cost")
