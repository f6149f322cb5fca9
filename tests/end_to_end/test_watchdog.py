"""A step that never ends: the recipe is told with its stack, and the next one is judged."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.hanging import planted

SECONDS = 30
"""Longer than any step of the tiny model takes here, imports included."""
BOUND = 15 * 60


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(
    tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path], tmp_path: Path
) -> Start:
    """`start(recipes, *hangs, seconds, device)`: gate these recipes beside BF16, with what befalls each."""

    def started(
        recipes: Iterable[str], *hangs: str, seconds: int = SECONDS, device: str = "cpu"
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ernie_qa.cli", "gate", "--model", str(tiny_model)]
        command += [f"--device={device}", "--suite", str(small_suite), f"--timeout={seconds}"]
        command += ["--report", str(tmp_path / "out")]
        command += [f"--recipe={write_recipe(name, 1.0)}" for name in recipes]
        (tmp_path / "temporary").mkdir()
        environment = {**os.environ, **planted(tmp_path, hangs), "TMPDIR": str(tmp_path / "temporary")}
        return subprocess.Popen(
            command,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            # what a shell starts in the background ignores Ctrl-C, and so does all that it starts
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return started


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and stderr, which ends with the last of its workers: they write there as well."""
    with process:
        _, errors = process.communicate(timeout=BOUND)
    return process.returncode, errors


def wait_for(process: subprocess.Popen[str], recipe: str, directory: Path) -> None:
    end = time.monotonic() + BOUND
    while not list(directory.glob(f"temporary/ernie_qa-*/began/{recipe}")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.2)


def verdict(directory: Path) -> Any:
    return json.loads((directory / "out" / "verdict.json").read_text(encoding="utf-8"))


def test_what_hangs_costs_its_recipe_alone(start: Start, tmp_path: Path) -> None:
    recipes = ("first", "second", "third", "fourth")
    code, errors = ended(start(recipes, "first=loading", "second=holding", "fourth=dying"))
    assert code == 3, errors
    lines = errors.splitlines()
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
    assert "Traceback" not in errors
    found = verdict(tmp_path)
    assert {one["recipe"]: one["status"] for one in found["verdicts"]} == {"third": "pass"}
    assert found["broke"] == ["first", "fourth", "second"]
    # BF16's trajectories came through as well
    assert (tmp_path / "out" / "bf16" / "trajectories.safetensors").is_file()
    # and nothing is left of what the workers said to each other
    assert not list(tmp_path.glob("temporary/ernie_qa-*"))


def test_without_bf16_nothing_is_tried(start: Start, tmp_path: Path) -> None:
    code, errors = ended(start(("first", "second"), "bf16=drawing"))
    assert code == 2
    last = errors.splitlines()[-1]
    assert last.startswith(f"ernie-qa: bf16 broke off: no progress for {SECONDS} s while ")
    assert errors.count("Timeout (") == 1
    assert "first broke" not in errors
    assert not (tmp_path / "out").exists()


def test_a_device_that_hangs_ends_the_run(start: Start) -> None:
    code, errors = ended(start(("first", "second"), "device=drawing"))
    assert code == 2
    assert errors.count("Timeout (") == 1
    assert errors.splitlines()[-1].startswith(f"ernie-qa: no progress for {SECONDS} s while getting cpu")


def test_what_is_missing_is_told_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, errors = ended(start(("first", "second"), device="cuda"))
    assert code == 2
    (line,) = errors.splitlines()
    assert line.startswith("ernie-qa: no usable GPU: ")


def test_ctrl_c_ends_a_worker_that_hangs(start: Start, tmp_path: Path) -> None:
    process = start(("first", "second", "third"), "second=holding", seconds=3600)
    wait_for(process, "second", tmp_path)
    process.send_signal(signal.SIGINT)
    code, errors = ended(process)
    assert code == 130
    assert errors.splitlines()[-1] == "ernie-qa: interrupted, and not judged: second, third"
    assert verdict(tmp_path)["unfinished"] == ["second", "third"]
    assert {one["recipe"] for one in verdict(tmp_path)["verdicts"]} == {"first"}


def test_a_worker_ends_with_who_started_it(start: Start, tmp_path: Path) -> None:
    process = start(("first",), "bf16=drawing", seconds=3600)
    wait_for(process, "bf16", tmp_path)
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL


def test_a_worker_runs_nothing_of_the_current_directory(
    tiny_model: Path, small_suite: Path, tmp_path: Path
) -> None:
    # of a model's directory, say
    (tmp_path / "pickle.py").write_text("raise SystemExit('of the current directory')")
    entry = "import sys; from ernie_qa.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-P", "-c", entry, "gate", "--model", str(tiny_model), "--recipe=bf16"]
    command += ["--suite", str(small_suite), "--device=cpu", "--timeout=600"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bf16" in done.stdout
