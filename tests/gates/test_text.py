"""Rung 5: can the words still be read?"""

from ernie_qa.pytest_gates import Gate


def test_text(ernie_gate: Gate) -> None:
    ernie_gate("text")
