"""A kernel that never returns, and an arm that leaves memory on a real GPU. Run by `pytest -m gpu`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hanging import planted

pytestmark = pytest.mark.gpu
SECONDS = 120


def gate(directory: Path, hangs: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ernie_qa.cli", "gate", "--device=cuda", *options]
    command += ["--recipe=bnb-nf4", "--recipe=sdnq-uint4-dequant"]
    environment = {**os.environ, **planted(directory, [hangs])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)


def test_a_kernel_that_never_returns_costs_its_recipe_alone(tmp_path: Path) -> None:
    done = gate(tmp_path, "bnb-nf4=computing", f"--timeout={SECONDS}")
    print(done.stderr)
    assert done.returncode == 3
    assert f"ernie-qa: bnb-nf4 broke off: no progress for {SECONDS} s while" in done.stderr
    assert done.stderr.count("Timeout (") == 1
    assert "sdnq-uint4-dequant  pass" in done.stdout


@pytest.mark.parametrize("timeout", [0, SECONDS])
def test_a_leak_is_told_and_in_no_other_figures(tmp_path: Path, timeout: int) -> None:
    done = gate(tmp_path, "bnb-nf4=leaking", f"--timeout={timeout}")
    print(done.stderr)
    # the tensor that is kept, and what libraries keep
    assert re.search(r"bnb-nf4 left (2[5-9]|3[0-8])\d MiB on the GPU", done.stderr)
    if timeout:
        # in a process of its own
        assert "not begun" not in done.stderr
        assert "sdnq-uint4-dequant  pass" in done.stdout
    else:
        assert done.returncode == 3
        assert "sdnq-uint4-dequant was not begun" in done.stderr
