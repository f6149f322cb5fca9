"""`--ernie-timeout`: what hangs costs its recipe, under pytest as well."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hanging import planted
from tests.plugin.conftest import Gated

pytest.importorskip("xdist")
SECONDS = 30


@pytest.fixture
def small(tiny_model: Path, small_suite: Path, write_recipe: Callable[[str, float], Path]) -> list[str]:
    """Options: two recipes on the tiny model, with a timeout."""
    recipes = ("bf16", write_recipe("first", 1.0), write_recipe("second", 1.0))
    return [
        f"--ernie-model={tiny_model}",
        f"--ernie-suite={small_suite}",
        "--ernie-report=out",
        *(f"--ernie-recipe={recipe}" for recipe in recipes),
    ]


def test_what_hangs_costs_its_recipe_alone(gated: Gated, tmp_path: Path, small: list[str]) -> None:
    environment = planted(tmp_path, ["first=drawing"])
    done = gated(tmp_path, f"--ernie-timeout={SECONDS}", *small, environment=environment)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    why = f"first broke off: no progress for {SECONDS} s while measuring components"
    assert why in done.stdout.splitlines()
    # its other gates did not wait again
    assert done.stdout.count("Timeout (") == 1
    assert "in drawing" in done.stdout
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert failed
    assert all("first" in line for line in failed)
    found = json.loads((tmp_path / "out" / "verdict.json").read_text(encoding="utf-8"))
    assert {one["recipe"]: one["status"] for one in found["verdicts"]} == {"bf16": "pass", "second": "pass"}
    assert found["broke"] == ["first"]
    assert found["status"] == "not_comparable"


def test_a_device_that_hangs_is_waited_for_once(gated: Gated, tmp_path: Path, small: list[str]) -> None:
    environment = planted(tmp_path, ["device=drawing"])
    done = gated(tmp_path, "-n1", f"--ernie-timeout={SECONDS}", *small, environment=environment)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert done.stdout.count("Timeout (") == 1
    assert "ready: a worker was ended there before" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ernie-timeout=5", "-n0"), "leave out -n 0"),
        (("--ernie-timeout=5", "-p", "no:xdist"), "install the extra xdist"),
        (("--ernie-timeout=soon",), "--ernie-timeout soon: needed is a whole number"),
        (
            ("--ernie-timeout=10000000000",),
            "--ernie-timeout 10000000000: needed are seconds, 2592000 at most",
        ),
    ],
)
def test_what_cannot_be_watched_is_one_line(
    gated: Gated, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    done = gated(tmp_path, "-m", "mini", *options)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("ERROR"))
    assert said in error


def test_no_limit_is_no_worker(gated: Gated, tmp_path: Path) -> None:
    done = gated(tmp_path, "-m", "mini", "--ernie-timeout=0", "--ernie-recipe=bf16", "-k", "package")
    assert done.returncode == 0, done.stdout
    assert "gw0" not in done.stdout
