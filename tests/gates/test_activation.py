"""Rung 2: does it really run quantized?"""

from ernie_qa.pytest_gates import Gate


def test_activation(ernie_gate: Gate) -> None:
    ernie_gate("activation")
