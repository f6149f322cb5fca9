"""Two Dask workers of this machine draw, and a gate beside them judges; workers are killed in the middle."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ernie_qa.fidelity.lpips_weights import cache_path
from ernie_qa.record import load_record
from tests.judged import verdicts

RECIPES = ("first", "second")
PLANT = """
import os, signal

if os.environ.get("LOADS"):
    from ernie_qa import observer

    load = observer.load_pipeline

    def loading(model, recipe, device, **options):
        with open(os.environ["LOADS"], "a") as file:
            file.write(recipe.name + "\\n")
        pipe = load(model, recipe, device, **options)
        orders = os.environ["LOADS"] + "." + recipe.name
        taken = f"{orders}.{os.getpid()}"
        try:
            # one worker takes them
            os.rename(orders, taken)
        except FileNotFoundError:
            return pipe
        whom, times = open(taken).read().split()
        calls = []

        def die(*_):
            calls.append(1)
            if len(calls) == 3:
                if int(times) > 1:
                    with open(orders, "w") as file:
                        file.write(f"{whom} {int(times) - 1}")
                os.kill(int(whom) or os.getpid(), signal.SIGKILL)

        pipe.transformer.register_forward_pre_hook(die)
        return pipe

    observer.load_pipeline = loading
"""
Gate = Callable[..., "subprocess.Popen[str]"]


def started(module: str, *options: str, environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", f"distributed.cli.{module}", *options, "--no-dashboard"]
    with log.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plant, the cache and the orders to die lie."""
    directory = tmp_path_factory.mktemp("cluster")
    (directory / "sitecustomize.py").write_text(PLANT, encoding="utf-8")
    (directory / "cache").mkdir()
    shutil.copy(cache_path(), directory / "cache")
    return directory


@pytest.fixture(scope="module")
def environment(place: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(place), *sys.path]),
        "ERNIE_QA_CACHE": str(place / "cache"),
        "LOADS": str(place / "loads"),
        # as Dask sets it for its workers
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def scheduler(place: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of a scheduler with two workers, which are replaced when they die."""
    told = place / "scheduler.json"
    processes = [
        started(
            "dask_scheduler",
            "--port=0",
            f"--scheduler-file={told}",
            environment=environment,
            log=place / "scheduler.log",
        )
    ]
    try:
        for _ in range(300):
            if told.is_file():
                break
            time.sleep(0.1)
        address: str = json.loads(told.read_text())["address"]
        for number in range(2):
            log = place / f"worker{number}.log"
            local = f"--local-directory={place / f'worker{number}'}"
            options = (address, "--nthreads=1", "--memory-limit=0", local)
            processes.append(started("dask_worker", *options, environment=environment, log=log))
        from distributed import Client

        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address
    finally:
        for process in reversed(processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def gate(
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
    environment: dict[str, str],
    place: Path,
    tmp_path: Path,
) -> Gate:
    """`gate(out, *options)`: the same two recipes, with nothing noted yet of what was loaded."""
    recipes = [f"--recipe={write_recipe(name, 1.0)}" for name in RECIPES]
    (place / "loads").unlink(missing_ok=True)

    def run(out: str, *options: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "ernie_qa.cli", "gate", "--model", str(tiny_model), "--device=cpu"]
        command += ["--suite", str(small_suite), *recipes, "--teacher-cases=1", *options]
        command += ["--report", str(tmp_path / out)]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return run


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def idle(scheduler: str) -> None:
    """Wait until no worker is at anything: what a killed gate gave out is drawn to its end."""
    from distributed import Client

    with Client(scheduler, set_as_default=False) as client:
        for _ in range(300):
            if not any(client.processing().values()):
                return
            time.sleep(0.1)


def loads(place: Path) -> list[str]:
    return sorted((place / "loads").read_text().split())


@pytest.fixture(scope="module")
def alone(
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The report of a run without a cluster."""
    out = tmp_path_factory.mktemp("alone") / "out"
    command = [sys.executable, "-m", "ernie_qa.cli", "gate", "--model", str(tiny_model), "--device=cpu"]
    command += ["--suite", str(small_suite), "--teacher-cases=1", "--report", str(out)]
    command += [f"--recipe={write_recipe(name, 1.0)}" for name in RECIPES]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    return out


def assert_same(out: Path, alone: Path, *recipes: str) -> None:
    assert verdicts(out) == verdicts(alone)
    for name in ("bf16", *RECIPES):
        ours, theirs = (load_record(place / name) for place in (out, alone))
        assert [one.sha256 for one in ours.pictures] == [one.sha256 for one in theirs.pictures]


@pytest.mark.parametrize(("options", "times"), [((), 1), (("--chunk=1",), 2)], ids=["whole", "in parts"])
def test_the_verdict_is_that_of_one_process(
    gate: Gate, scheduler: str, alone: Path, place: Path, tmp_path: Path, options: tuple[str, ...], times: int
) -> None:
    code, out, err = ended(gate("out", f"--cluster={scheduler}", *options))
    assert (code, err) == (0, ""), out
    assert loads(place) == sorted(("bf16", *RECIPES) * times)
    assert_same(tmp_path / "out", alone)


def test_what_a_killed_worker_was_at_is_drawn_again(
    gate: Gate, scheduler: str, alone: Path, place: Path, tmp_path: Path
) -> None:
    (place / "loads.second").write_text("0 1")
    code, _out, err = ended(gate("out", f"--cluster={scheduler}", "--chunk=1"))
    assert code == 0, err
    assert "was lost with its worker, and drawn again" in err
    # a part of the second once more; of what had ended, at most what nobody had fetched from the dead worker
    assert loads(place).count("second") >= 3
    assert loads(place).count("bf16") == 2
    assert_same(tmp_path / "out", alone)


def test_what_kills_two_workers_is_reported(
    gate: Gate, scheduler: str, alone: Path, place: Path, tmp_path: Path
) -> None:
    (place / "loads.second").write_text("0 9")
    code, _out, err = ended(gate("out", f"--cluster={scheduler}"))
    # nobody took the rest of the orders
    assert (place / "loads.second").read_text() == "0 7"
    (place / "loads.second").unlink()
    assert code == 3, err
    assert err.count("second ended 2 workers and is not tried again") == 1
    assert loads(place).count("second") == 2
    assert loads(place).count("bf16") == 1
    assert [one["recipe"] for one in verdicts(tmp_path / "out")] == ["first"]
    assert verdicts(tmp_path / "out")[0] == verdicts(alone)[0]


def test_a_killed_gate_goes_on(gate: Gate, scheduler: str, alone: Path, place: Path, tmp_path: Path) -> None:
    options = (f"--cluster={scheduler}", "--chunk=1", "--resume")
    process = gate("out", *options)
    # the gate's own process, while a worker is at a part of a recipe
    (place / "loads.second").write_text(f"{process.pid} 1")
    assert ended(process)[0] == -signal.SIGKILL
    idle(scheduler)
    before = len(loads(place))
    code, _out, err = ended(gate("out", *options))
    assert code == 0, err
    kept = err.splitlines()[0].removeprefix("ernie-qa: drawn before, and not again: ").split(", ")
    assert "bf16" in kept
    # a whole arm is two parts
    assert len(loads(place)) - before == 6 - sum(1 if "+" in name else 2 for name in kept)
    assert_same(tmp_path / "out", alone)
    assert not list((place / "cache" / "unfinished").iterdir())


def test_without_a_gpu_worker_nothing_is_drawn(gate: Gate, scheduler: str, place: Path) -> None:
    code, _, err = ended(gate("out", f"--cluster={scheduler}", "--device=cuda"))
    assert code == 2
    assert "none of its 2 workers has a GPU as a resource; start one a GPU: dask worker tcp://" in err
    assert err.count("\n") == 1
    assert not (place / "loads").exists()
