"""What has changed since a person accepted it, on every rung?"""

from ernie_qa.pytest_gates import Gate


def test_baseline(ernie_gate: Gate) -> None:
    ernie_gate("baseline")
