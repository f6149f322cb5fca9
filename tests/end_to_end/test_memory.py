"""Memory that runs out for real: one line, and the next recipe is judged."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.hanging import planted


def test_memory_that_runs_out_costs_its_recipe_alone(
    tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "ernie_qa.cli", "gate", "--model", str(tiny_model), "--device=cpu"]
    command += ["--suite", str(small_suite), "--report", str(tmp_path / "out")]
    command += [f"--recipe={write_recipe(name, 1.0)}" for name in ("loads", "draws", "fits")]
    environment = {**os.environ, **planted(tmp_path, ["loads=starving", "draws=hungry"])}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=15 * 60
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    loads, draws = (line for line in done.stderr.splitlines() if line.startswith("ernie-qa: "))
    assert loads.startswith(f"ernie-qa: loads: {tiny_model}: not enough main memory to load it: ")
    assert loads.endswith("; free some")
    assert draws.startswith("ernie-qa: draws broke off: RuntimeError: ")
    assert "can't allocate memory: you tried to allocate" in draws
    found = json.loads((tmp_path / "out" / "verdict.json").read_text(encoding="utf-8"))
    assert {one["recipe"]: one["status"] for one in found["verdicts"]} == {"fits": "pass"}
    assert found["broke"] == ["draws", "loads"]
