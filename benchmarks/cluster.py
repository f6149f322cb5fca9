"""A gate of the miniature's four recipes in one process, and on two Dask workers of the same machine,
of which one is killed in the middle: seconds, whether the verdicts agree, and what was drawn again.

    python benchmarks/cluster.py [--chunk 5]

Every process computes on one thread, as Dask sets it for its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from distributed import Client

GATE = [sys.executable, "-m", "ernie_qa.cli", "gate", "--device", "cpu", "--json"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "SDNQ_USE_TORCH_COMPILE": "0"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--chunk", type=int, default=5, metavar="N", help="cases of a chunk in the last two rows (5)"
    )
    chunk = parser.parse_args().chunk
    print("| run | seconds | against one process | verdicts | said |\n|---|---:|---:|---|---|", flush=True)
    alone, base, _ = gated()
    row("one process", alone, alone, "")
    with tempfile.TemporaryDirectory() as place, cluster(Path(place)) as address:
        for name, options, kills in (
            ("two workers, just started", (), False),
            ("two workers", (), False),
            ("two workers, one killed", (), True),
            (f"chunks of {chunk}", (f"--chunk={chunk}",), False),
            (f"chunks of {chunk}, one killed", (f"--chunk={chunk}",), True),
        ):
            with ExitStack() as stack:
                if kills:
                    stack.enter_context(killing(address))
                seconds, found, said = gated(f"--cluster={address}", *options)
            agree = "the same" if found == base else "DIFFER"
            row(name, seconds, alone, f"{agree}, {len(found)} recipes", said)


def row(name: str, seconds: float, alone: float, verdicts: str, said: str = "") -> None:
    told = said.strip().replace("\n", "; ").replace("ernie-qa: ", "")
    print(f"| {name} | {seconds:.1f} | {alone / seconds:.2f} | {verdicts} | {told} |", flush=True)


def gated(*options: str) -> tuple[float, list[Any], str]:
    """Seconds, the verdicts without what is timed, and stderr."""
    began = time.monotonic()
    done = subprocess.run([*GATE, *options], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode}: {done.stderr}")
    verdicts = json.loads(done.stdout)["verdicts"]
    return seconds, [(one["recipe"], one["status"], checks(one)) for one in verdicts], done.stderr


def checks(verdict: dict[str, Any]) -> list[Any]:
    return [
        (one["name"], one["case"], one["status"], None if one["rung"] == "cost" else one["measured"])
        for one in verdict["checks"]
    ]


@contextmanager
def cluster(place: Path) -> Iterator[str]:
    """The address of a scheduler with two workers."""
    told, processes = place / "scheduler.json", []

    def start(module: str, *options: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.{module}", "--no-dashboard", *options]
        quiet = subprocess.DEVNULL
        processes.append(
            subprocess.Popen(command, env=ENVIRONMENT, stdout=quiet, stderr=quiet, start_new_session=True)
        )

    try:
        start("dask_scheduler", "--port=0", f"--scheduler-file={told}")
        while not told.is_file():
            time.sleep(0.1)
        address = json.loads(told.read_text())["address"]
        for number in range(2):
            start(
                "dask_worker",
                address,
                "--nthreads=1",
                "--memory-limit=0",
                f"--local-directory={place / str(number)}",
            )
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address
    finally:
        for process in reversed(processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def killing(address: str) -> Iterator[None]:
    """Kill one worker three seconds after both have begun a recipe, which is after BF16."""
    done = threading.Event()

    def watch() -> None:
        with Client(address, set_as_default=False) as client:
            processes = client.run(os.getpid)
            while not done.wait(0.2):
                if sum(bool(at) for at in client.processing().values()) == 2:
                    time.sleep(3)
                    os.kill(next(iter(processes.values())), signal.SIGKILL)
                    return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
