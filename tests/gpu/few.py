"""A short run on a GPU."""

from dataclasses import replace

from ernie_qa.plan import Plan, plan
from ernie_qa.suite import find_suite


def few(*recipes: str) -> Plan:
    """Three cases of the miniature's suite."""
    suite = find_suite("mini")
    return plan("mini", recipes, replace(suite, name="few", cases=suite.cases[:3]), "cuda")
