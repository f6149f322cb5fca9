"""What the repository's own test run needs; a project that only uses the gates needs none of it."""

from pathlib import Path

import pytest

from ernie_qa.pytest_plugin import MARKS, register_marks

pytest_plugins = ["pytester"]

GATES_ONLY = tuple(MARKS)
TESTS = Path(__file__).parent / "tests"
OTHERS = tuple(TESTS / name for name in ("unit", "plugin", "end_to_end"))


def pytest_configure(config: pytest.Config) -> None:
    register_marks(config)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m mini` and `-m gpu` need nothing of the `dev` extra; what needs a GPU runs under `-m gpu` alone."""
    marks = config.getoption("markexpr").strip()
    if collection_path == TESTS / "gpu":
        return marks != "gpu" or None
    return True if marks in GATES_ONLY and collection_path in OTHERS else None
