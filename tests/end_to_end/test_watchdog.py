"""A step that never ends: the recipe is told with its stack, and the next one is judged."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hanging import planted

SECONDS = 20
"""Longer than any step of the tiny model takes here, imports included."""
BOUND = 15 * 60


@pytest.fixture
def gate(
    tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`gate(recipes, hangs)`: run these recipes beside BF16, with what befalls each."""

    def run(recipes: tuple[str, ...], *hangs: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ernie_qa.cli", "gate", "--model", str(tiny_model), "--device=cpu"]
        command += ["--suite", str(small_suite), f"--timeout={SECONDS}", "--report", str(tmp_path / "out")]
        command += [f"--recipe={write_recipe(name, 1.0)}" for name in recipes]
        (tmp_path / "temporary").mkdir()
        environment = {**os.environ, **planted(tmp_path, hangs), "TMPDIR": str(tmp_path / "temporary")}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=BOUND
        )
        # nothing is left of what the workers said to each other
        assert not list((tmp_path / "temporary").glob("ernie_qa-*"))
        return done

    return run


def verdict(directory: Path) -> Any:
    return json.loads((directory / "out" / "verdict.json").read_text(encoding="utf-8"))


def test_what_hangs_costs_its_recipe_alone(gate: Any, tmp_path: Path) -> None:
    done = gate(("first", "second", "third", "fourth"), "first=loading", "second=holding", "fourth=dying")
    assert done.returncode == 3, done.stderr
    lines = done.stderr.splitlines()
    broke = [line for line in lines if line.startswith("ernie-qa: ")]
    assert broke == [
        f"ernie-qa: first broke off: no progress for {SECONDS} s while loading",
        f"ernie-qa: second broke off: no progress for {SECONDS} s while measuring components",
        "ernie-qa: fourth broke off: worker 3 died while it was at it; run again",
    ]
    # a stack each, that names where it hung
    assert sum(line.startswith("  Timeout (") for line in lines) == 2
    assert any("in loading" in line for line in lines)
    assert any("in holding" in line for line in lines)
    assert "Traceback" not in done.stderr
    found = verdict(tmp_path)
    assert {one["recipe"]: one["status"] for one in found["verdicts"]} == {"third": "pass"}
    assert found["broke"] == ["first", "fourth", "second"]
    # BF16's trajectories came through as well
    assert (tmp_path / "out" / "bf16" / "trajectories.safetensors").is_file()


def test_without_bf16_nothing_is_tried(gate: Any, tmp_path: Path) -> None:
    done = gate(("first", "second"), "bf16=drawing")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ernie-qa: bf16 broke off: no progress for {SECONDS} s while ")
    assert done.stderr.count("Timeout (") == 1
    assert "first broke" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_device_that_hangs_ends_the_run(gate: Any) -> None:
    done = gate(("first", "second"), "device=drawing")
    assert done.returncode == 2
    assert done.stderr.count("Timeout (") == 1
    assert done.stderr.splitlines()[-1].startswith(f"ernie-qa: no progress for {SECONDS} s while getting cpu")
