"""All rungs together: what decides, whether or not a gate of its own shows it."""

from ernie_qa.pytest_gates import Gate


def test_verdict(ernie_gate: Gate) -> None:
    ernie_gate()
