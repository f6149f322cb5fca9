"""What importing costs: ernie_qa, what judging needs beside it, and torch, in fresh processes.

python benchmarks/import_time.py
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median

RUNS = 9
WHAT = {
    "nothing": "pass",
    "import ernie_qa": "import ernie_qa",
    "ernie_qa.judge, load_record": "from ernie_qa import judge, load_record",
    "import torch": "import torch",
}


def seconds(statement: str) -> float:
    """Median time of `statement` in a fresh process, the start of Python left out."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            for _ in range(RUNS)]  # fmt: skip
    return median(float(run.stdout) for run in runs)


def main() -> None:
    """Print a row each."""
    for title, statement in WHAT.items():
        print(f"{title:30} {seconds(statement):.3f} s")


if __name__ == "__main__":
    main()
