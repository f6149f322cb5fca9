"""Rung 3: how far off is each part alone, when it is fed what BF16 fed it?"""

from ernie_qa.pytest_gates import Gate


def test_components(ernie_gate: Gate) -> None:
    ernie_gate("components")
