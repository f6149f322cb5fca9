"""How a gate's wall time, processor time and peak resident memory grow with cases and with recipes.

    python benchmarks/growth.py --cases 10 40 160 --recipes 1 4 16

Each row is one `ernie-qa gate` in a process of its own, BF16 included: first one recipe and more and more
pictures (the suite's ten cases with more seeds), then ten pictures and more and more recipes (copies of four
shipped ones, each loaded and drawn by itself). Memory is the process's highest resident set.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from ernie_qa.recipe import find_recipe
from ernie_qa.suite import find_suite

SHIPPED = ("sdnq-int8", "bnb-nf4", "sdnq-uint4-static", "sdnq-uint4-dequant")
MIB = 2**20


def recipes(count: int, directory: Path) -> list[str]:
    """That many recipes: shipped ones, and copies under other names."""
    found: list[str] = []
    for index, name in enumerate(islice(cycle(SHIPPED), count)):
        copy = directory / f"{name}-{index // len(SHIPPED)}.toml"
        copy.write_text(find_recipe(name).path.read_text(encoding="utf-8"), encoding="utf-8")
        found.append(str(copy))
    return found


def gate(options: Sequence[str]) -> str:
    """Run one, and say what it took."""
    command = [sys.executable, "-m", "ernie_qa.cli", "gate", "--json", *options]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    # 0 pass, 1 fail: which, is the gate's to say and nothing here
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    peak = used.ru_maxrss * 1024 / MIB
    return f"{seconds:8.1f} s {used.ru_utime + used.ru_stime:8.1f} s {peak:8.0f} MiB"


def main() -> None:
    """Print a row for each gate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--suite", default="mini")
    parser.add_argument("--cases", type=int, nargs="*", default=[10, 40, 160])
    parser.add_argument("--recipes", type=int, nargs="*", default=[1, 4, 16])
    options = parser.parse_args()
    length = len(find_suite(options.suite).cases)
    rows = [(cases, 1) for cases in options.cases] + [(length, count) for count in options.recipes]
    print("cases recipes       wall  processor      memory")
    for cases, count in dict.fromkeys(rows):
        if cases % length:
            parser.error(f"--cases {cases}: {options.suite} has {length}, and each gets as many seeds")
        with tempfile.TemporaryDirectory() as directory:
            given = [f"--recipe={recipe}" for recipe in recipes(count, Path(directory))]
            given += [f"--model={options.model}", f"--suite={options.suite}", f"--seeds={cases // length}"]
            print(f"{cases:5} {count:7} {gate(given)}", flush=True)


if __name__ == "__main__":
    main()
