"""Does the latency gate catch a slow transformer, the memory gate a fat one, and both stay quiet otherwise?

    python benchmarks/regressions.py replica --recipe sdnq-uint4-static --reruns 10

Loads the recipe once, observes the suite again and again, and judges each record against what was accepted
for this GPU: first unchanged, then with a transformer that is 10 % slower, then with 3 % more memory at the
peak. BF16 is observed in the same process, as the reference. Exits 1 where a verdict is not the expected one.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ernie_qa import compile_cache
from ernie_qa.baseline.store import find_baseline
from ernie_qa.fingerprint import machine_of
from ernie_qa.judge import judge
from ernie_qa.models.find import find_model
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quiet import hushed
from ernie_qa.recipe import REFERENCE, find_recipe
from ernie_qa.record import Record
from ernie_qa.rungs import cost, rungs
from ernie_qa.suite import find_suite
from ernie_qa.verdict import Status

observing: Any = importlib.import_module("ernie_qa.observe")
GATES = "baseline.cost."
RUNGS = ("activation", "cost")
"""What is measured: the others say nothing of cost, and read 31 GB of weights again for every record."""
FIGURES = ("latency", "latency_ratio", "peak_allocated")


@contextmanager
def slower(pipe: Any, record: Record, share: float) -> Iterator[None]:
    """A GPU that is busy with nothing for `share` of what a forward of the transformer took in `record`."""
    pictures = list(record.figures[cost.NAME]["pictures"].values())[1:]
    steps = find_suite(record.suite.name).steps
    forward = sum(one["stages"]["transformer"] for one in pictures) / len(pictures) / steps
    # cycles of the SM clock, measured: _sleep counts them
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    torch.cuda._sleep(10**9)
    end.record()
    torch.cuda.synchronize()
    cycles = int(10**9 * forward * share / (start.elapsed_time(end) / 1000))
    hook = pipe.transformer.register_forward_hook(lambda *_: torch.cuda._sleep(cycles))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def fatter(pipe: Any, record: Record, share: float) -> Iterator[None]:
    """A tensor of `share` of the peak in `record`, held while a picture is drawn."""
    size = int(cost.measured(record)["peak_allocated"] * share)
    held = torch.empty(size, dtype=torch.uint8, device=pipe._execution_device)
    try:
        yield
    finally:
        del held


def main() -> None:
    """Observe, judge, and print a line a record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model")
    parser.add_argument("--baselines", type=Path, default=Path("baselines"))
    parser.add_argument("--recipe", default="sdnq-uint4-static")
    parser.add_argument("--suite", default="turbo10")
    parser.add_argument("--reruns", type=int, default=10)
    options = parser.parse_args()
    compile_cache.keep("cuda")
    observing.rungs = lambda: tuple(one for one in rungs() if one.NAME in RUNGS)
    model, recipe = find_model(options.model), find_recipe(options.recipe)
    baseline = find_baseline(options.baselines, model.name, machine_of("cuda"))
    with hushed():
        pipe: Any = load_pipeline(model, REFERENCE, "cuda")
        reference = observing.observe(pipe, REFERENCE, options.suite)
        del pipe
        gc.collect()
        torch.cuda.empty_cache()
        pipe = load_pipeline(model, recipe, "cuda")
    runs: list[tuple[str, Any, str]] = [("unchanged", None, "")] * options.reruns
    runs += [("transformer 10 % slower", slower, "latency"), ("3 % more memory", fatter, "peak_allocated")]
    wrong, last = 0, reference
    shares = {slower: 0.10, fatter: 0.03}
    for title, fault, expected in runs:
        with hushed(), fault(pipe, last, shares[fault]) if fault else nullcontext():
            record = observing.observe(pipe, recipe, options.suite, reference=reference)
        verdict = judge(record, reference, recipe, baseline, require_baseline=True)
        gates = [one for one in verdict.checks if one.name.startswith(GATES)]
        failed = {one.name for one in gates if one.status is not Status.PASS}
        found = cost.measured(record)
        told = "  ".join(f"{name} {found[name]:.6g}" for name in FIGURES)
        if fault:
            right = any(expected in one.name and one.status is Status.FAIL for one in gates)
        else:
            right = len(gates) >= len(FIGURES) and not failed
        wrong += not right
        print(f"{title:24} {told}  {' '.join(sorted(failed)) or f'{len(gates)} passed'}", flush=True)
        last = record if not fault else last
    print(f"{len(runs) - wrong} of {len(runs)} verdicts as expected")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
