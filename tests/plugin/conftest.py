"""Running pytest on the installed gates, as another project does."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ernie_qa.fidelity.lpips_weights import cache_path

GATES = ("--pyargs", "ernie_qa.gates")
Gated = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def gated() -> Gated:
    """`gated(directory, *arguments)`: run the gates in `directory`, in a process of their own."""
    cache = cache_path().parent
    # a step's summary is about the run that GitHub started, not about those inside its tests
    outer = {name: value for name, value in os.environ.items() if name != "GITHUB_STEP_SUMMARY"}

    def run(
        directory: Path, *arguments: object, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", *GATES, *map(str, arguments)],
            cwd=directory,
            env={**outer, "ERNIE_QA_CACHE": str(cache), "PYTEST_ADDOPTS": "", **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )

    return run
