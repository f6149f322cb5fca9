"""A gate that is killed, and the same command again: nothing is drawn twice, nothing is lost."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_qa.fidelity.lpips_weights import cache_path
from ernie_qa.record import load_record
from tests.judged import verdicts

RECIPES = ("first", "second", "third")
PLANT = """
import os, signal, time

if os.environ.get("LOADS"):
    from ernie_qa import observer

    load = observer.load_pipeline

    def loading(model, recipe, device, **options):
        with open(os.environ["LOADS"], "a") as file:
            file.write(recipe.name + "\\n")
        pipe = load(model, recipe, device, **options)
        if recipe.name == os.environ.get("DIES"):
            calls = []

            def die(*_):
                calls.append(1)
                if len(calls) > 3:
                    # the gate itself, which with a timeout is not the process that draws
                    os.kill(int(os.environ.get("GATE") or os.getpid()), signal.SIGKILL)
                    time.sleep(600)

            pipe.transformer.register_forward_pre_hook(die)
        return pipe

    observer.load_pipeline = loading
    os.environ.setdefault("GATE", str(os.getpid()))
"""
Gate = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def gate(
    tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path], tmp_path: Path
) -> Gate:
    """`gate(out, *options, dies)`: the same three recipes; the process is killed in the one that `dies`."""
    (tmp_path / "sitecustomize.py").write_text(PLANT, encoding="utf-8")
    cache = tmp_path / "cache"
    cache.mkdir()
    shutil.copy(cache_path(), cache)
    recipes = [f"--recipe={write_recipe(name, 1.0)}" for name in RECIPES]

    def run(out: str, *options: str, dies: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ernie_qa.cli", "gate", "--model", str(tiny_model), "--device=cpu"]
        command += ["--suite", str(small_suite), *recipes, *options, "--report", str(tmp_path / out)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            "ERNIE_QA_CACHE": str(cache),
            "LOADS": str(tmp_path / "loads"),
            "DIES": dies,
        }
        environment.pop("GATE", None)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("options", [(), ("--timeout=600",)], ids=["alone", "with a worker"])
def test_the_same_command_goes_on(gate: Gate, tmp_path: Path, options: tuple[str, ...]) -> None:
    killed = gate("out", "--resume", *options, dies="second")
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "out").exists()
    again = gate("out", "--resume", *options)
    assert again.returncode == 0, again.stderr
    assert again.stderr.startswith("ernie-qa: drawn before, and not again: bf16, first\n")
    loads = (tmp_path / "loads").read_text().split()
    assert loads == ["bf16", "first", "second", "second", "third"]
    # nothing is left, and the next run begins anew
    assert not list((tmp_path / "cache" / "unfinished").iterdir())
    unbroken = gate("other")
    assert unbroken.returncode == 0, unbroken.stderr
    assert verdicts(tmp_path / "out") == verdicts(tmp_path / "other")
    for name in ("bf16", *RECIPES):
        ours, theirs = (load_record(tmp_path / out / name) for out in ("out", "other"))
        assert [one.sha256 for one in ours.pictures] == [one.sha256 for one in theirs.pictures]
    assert (tmp_path / "out" / "bf16" / "trajectories.safetensors").is_file()


def test_a_run_that_was_not_to_be_resumed_leaves_nothing(gate: Gate, tmp_path: Path) -> None:
    assert gate("out", dies="first").returncode == -9
    assert not (tmp_path / "cache" / "unfinished").exists()
