"""What to do next, in words that hold for `ernie-qa gate` and for pytest alike."""

KEPT = "of what --report DIR (pytest: --ernie-report=DIR) keeps"
"""Without one of the two no picture and no record is kept to be looked at."""


def explain(recipe: str) -> str:
    """The command that ranks the layers of that recipe's record."""
    return f"`ernie-qa explain DIR/{recipe}`"


def seeds(count: int | str) -> str:
    """The option that draws so many seeds a case."""
    return f"--seeds {count} (pytest: --ernie-seeds={count})"
