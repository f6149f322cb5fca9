"""Rung 2: does it really run quantized?"""

from ernie_qa.pytest_plugin import Gate


def test_activation(ernie_gate: Gate) -> None:
    ernie_gate("activation")
