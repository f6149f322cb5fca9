"""`ernie-qa fits` on a real GPU and the shipped miniature, a process each. Run by `pytest -m gpu`."""

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.gpu

GIB = 2**30
COMMAND = (sys.executable, "-m", "ernie_qa.cli", "fits", "--recipe", "bnb-nf4")


def fits(memory: float) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [*COMMAND, "--json", f"--memory={memory}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def roomy() -> dict[str, Any]:
    """What 4 GiB show, in bytes."""
    code, told = fits(4)
    assert (code, told["fits"], told["ran_out"]) == (0, True, None), told
    print(json.dumps(told))
    return told


def test_the_miniature_fits_in_4_gib(roomy: dict[str, Any]) -> None:
    assert 0 < roomy["context"] < 2 * GIB
    assert 0 < roomy["load"]["allocated"] <= roomy["load"]["reserved"]
    assert 0 < roomy["draw"]["allocated"] <= roomy["draw"]["reserved"]
    assert roomy["context"] + roomy["draw"]["reserved"] <= roomy["memory"]
    assert roomy["driver"] <= roomy["memory"]


def test_it_does_not_fit_where_half_of_its_weights_do_not(roomy: dict[str, Any]) -> None:
    code, told = fits((roomy["context"] + roomy["load"]["allocated"] / 2) / GIB)
    assert (code, told["fits"]) == (1, False)
    assert told["ran_out"] == "loading"
    assert told["draw"] is None


def test_it_does_not_fit_where_there_is_no_room_to_draw(roomy: dict[str, Any]) -> None:
    # the allocator takes 2 MiB at a time
    loaded = max(roomy["load"]["reserved"], roomy["load"]["allocated"] + 2 * 2**20)
    if roomy["draw"]["allocated"] < loaded + 8 * 2**20:
        pytest.skip("drawing takes hardly more than loading")
    code, told = fits((roomy["context"] + loaded + 2 * 2**20) / GIB)
    assert (code, told["ran_out"]) == (1, "drawing"), told


def test_less_than_the_context_fits_nothing() -> None:
    code, told = fits(0.01)
    assert (code, told["ran_out"], told["load"]) == (1, "starting CUDA", None)


def test_more_than_the_gpu_has_is_refused() -> None:
    done = subprocess.run([*COMMAND, "--memory=5000"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--memory 5000: the GPU has" in done.stderr
