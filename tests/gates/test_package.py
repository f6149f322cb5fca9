"""Rung 1: is the artifact what the recipe says?"""

from ernie_qa.pytest_gates import Gate


def test_package(ernie_gate: Gate) -> None:
    ernie_gate("package")
