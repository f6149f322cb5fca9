"""What the repository's own test run needs; a project that only uses the gates needs none of it."""

from pathlib import Path

import pytest

from ernie_qa.pytest_plugin import MARKS, register_marks

pytest_plugins = ["pytester"]

GATES_ONLY = tuple(MARKS)
OTHERS = tuple(Path(__file__).parent / "tests" / name for name in ("unit", "plugin"))


def pytest_configure(config: pytest.Config) -> None:
    register_marks(config)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m mini` and `-m gpu` run gates alone: nothing of the `dev` extra need be there to be imported."""
    gates_only = config.getoption("markexpr").strip() in GATES_ONLY
    return True if gates_only and collection_path in OTHERS else None
