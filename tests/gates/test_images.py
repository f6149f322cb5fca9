"""Rung 4: do the pictures still match?"""

from ernie_qa.pytest_gates import Gate


def test_suite(ernie_gate: Gate) -> None:
    ernie_gate("images")


def test_picture(ernie_gate: Gate, ernie_case: str) -> None:
    ernie_gate("images", ernie_case)
