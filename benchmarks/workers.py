"""The gates under pytest with one worker and with several: seconds, speed-up, and whether the verdicts agree.

    python benchmarks/workers.py                                      # the miniature, on a CPU
    python benchmarks/workers.py --model ~/models/replica --suite turbo10 --device cuda --recipe ... (four)

On GPUs each worker has one of its own. A run before those that count compiles and keeps kernels, unless
`--cold` is said. On a CPU every process computes on one thread. Eight digits stand for how every check ended:
runs of which they are the same, also of another day, ended alike.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ernie_qa.frozen import digest
from ernie_qa.record import load_record
from ernie_qa.rungs.cost import took

RECIPES = ("sdnq-int8", "bnb-nf4", "sdnq-uint4-static", "sdnq-uint4-dequant")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--suite")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--recipe", action="append", default=[], help="may be repeated (the four shipped ones)"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cold", action="store_true", help="no run before those that count")
    options = parser.parse_args()
    options.model, options.suite = placed(options.model), options.suite and placed(options.suite)
    options.recipe = [placed(one) for one in options.recipe]
    if options.device == "cuda" and not options.cold:
        gated(options, max(options.workers))
    first = found = None
    print("| workers | seconds | speed-up | verdicts | seconds of loading and drawing |")
    print("|---:|---:|---:|---|---|", flush=True)
    for workers in options.workers:
        seconds, verdicts, arms = gated(options, workers)
        first, found = first or seconds, found or verdicts
        ended = digest({name: sorted(map(str, checks.items())) for name, checks in verdicts.items()})[:8]
        agree = f"{ended}, the same" if verdicts == found else f"{ended}, DIFFER: {apart(found, verdicts)}"
        spent = ", ".join(f"{name} {one:.0f}" for name, one in arms.items())
        print(f"| {workers} | {seconds:.1f} | {first / seconds:.2f} | {agree} | {spent} |", flush=True)


def placed(name: str) -> str:
    """A path as it is found from elsewhere, where pytest runs; a name as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def gated(options: argparse.Namespace, workers: int) -> tuple[float, dict[str, Any], dict[str, float]]:
    """Seconds of the whole run; the status of every check by recipe; what each arm's pictures took."""
    environment = dict(os.environ)
    if options.device == "cpu":
        environment |= {"OMP_NUM_THREADS": "1", "SDNQ_USE_TORCH_COMPILE": "0"}
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--pyargs",
            "ernie_qa.gates",
            "-q",
            "-p",
            "no:cacheprovider",
        ]
        command += ["-m", "gpu" if options.device == "cuda" else "mini", f"-n{workers}", f"--rootdir={place}"]
        command += [f"--ernie-report={place}/out", f"--ernie-model={options.model}"]
        command += [f"--ernie-suite={options.suite}"] * bool(options.suite)
        command += [f"--ernie-recipe={recipe}" for recipe in options.recipe or RECIPES]
        began = time.monotonic()
        done = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - began
        out = Path(place) / "out"
        if done.returncode not in (0, 1) or not out.is_dir():
            raise SystemExit(f"exit code {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        told = json.loads((out / "verdict.json").read_text(encoding="utf-8"))["verdicts"]
        verdicts = {
            one["recipe"]: {(c["name"], c["case"]): c["status"] for c in one["checks"]} for one in told
        }
        arms = {
            file.parent.name: took(load_record(file))[0] or 0.0 for file in sorted(out.glob("*/record.json"))
        }
        return seconds, verdicts, arms


def apart(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The checks that ended otherwise."""
    found = [
        f"{recipe} {name}[{case}] {status}/{other.get(recipe, {}).get((name, case))}"
        for recipe, checks in one.items()
        for (name, case), status in checks.items()
        if other.get(recipe, {}).get((name, case)) != status
    ]
    return "; ".join(found[:5])


if __name__ == "__main__":
    main()
