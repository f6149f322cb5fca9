"""The components rung's figures by component, what it adds, and how soon a damaged recipe is refused.

    python benchmarks/components.py replica --recipe sdnq-uint4-static --recipe bnb-nf4

BF16 draws and records the first cases; each recipe is loaded once and fed them. Then the scales of one of its
components are damaged, and it is observed once more: printed are the seconds until the gate refuses it, and
by which check. Exits 1 where a recipe is not refused.
"""

from __future__ import annotations

import argparse
import gc
import sys
from dataclasses import replace
from typing import Any

from ernie_qa import compile_cache
from ernie_qa.judge import judge
from ernie_qa.meter import now
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quiet import hushed
from ernie_qa.recipe import REFERENCE, find_recipe
from ernie_qa.record import Record
from ernie_qa.rungs import components
from ernie_qa.suite import find_suite

DAMAGED = "text_encoder"


def damage(module: Any, factor: float) -> int:
    """Multiply every scale of the quantized layers in `module`; how many layers that were."""
    import torch

    layers = 0
    with torch.no_grad():
        for layer in module.modules():
            state = getattr(getattr(layer, "weight", None), "quant_state", None)
            if state is not None:
                # on a CPU without double quantization, after the first forward
                (state.state2 if state.nested else state).absmax.mul_(factor)
                if state.nested:
                    state.offset.mul_(factor)
            elif hasattr(layer, "sdnq_dequantizer"):
                layer.scale.mul_(factor)
                if layer.zero_point is not None:
                    layer.zero_point.mul_(factor)
            else:
                continue
            layers += 1
    return layers


def told(record: Record, recipe: str, reference: Record) -> None:
    """A line a figure: the value, where it is worst, and its limit."""
    verdict = judge(record, reference, find_recipe(recipe), None)
    for check in verdict.checks:
        if check.rung == components.NAME:
            value = "" if check.measured is None else f"{check.measured:.5g}"
            limit = "" if check.limit is None else f"{check.limit:.5g}"
            print(f"  {check.name:46} {value:>10} {limit:>8} {check.status}  {check.message[:90]}")
    for other in verdict.checks:
        if other.rung != components.NAME and other.required and other.status.name != "PASS":
            print(f"  {other.label}: {other.status}: {other.message[:150]}")


def main() -> None:
    """Record, feed, damage, feed again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model")
    parser.add_argument("--recipe", action="append", required=True)
    parser.add_argument("--suite", default="turbo10")
    parser.add_argument("--cases", type=int, default=components.CASES)
    parser.add_argument(
        "--factor", type=float, default=1.05, help=f"what {DAMAGED}'s scales are multiplied by"
    )
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    if options.device != "cpu":
        compile_cache.keep(options.device)
    suite = find_suite(options.suite)
    suite = replace(suite, cases=suite.cases[: options.cases])
    with hushed():
        pipe: Any = load_pipeline(options.model, REFERENCE, options.device)
        reference = observe(pipe, REFERENCE, suite, teacher_cases=options.cases)
    print(f"bf16: {reference.figures[components.NAME]['seconds']:.1f} s to record {options.cases} cases")
    survived = 0
    for recipe in options.recipe:
        del pipe
        gc.collect()
        with hushed():
            pipe = load_pipeline(options.model, recipe, options.device)
            place = pipe._execution_device
            began = now(place)
            record = observe(
                pipe, recipe, suite, reference=reference, teacher_cases=options.cases, all_rungs=True
            )
            whole = now(place) - began
        spent = record.figures[components.NAME]["seconds"]
        print(f"{recipe}: {spent:.1f} s of {whole:.1f} s in the rung")
        told(record, recipe, reference)
        layers = damage(getattr(pipe, DAMAGED), options.factor)
        with hushed():
            began = now(place)
            record = observe(pipe, recipe, suite, reference=reference, teacher_cases=options.cases)
            until = now(place) - began
        ended = record.ended
        survived += ended is None
        by = f"{ended.check}: {ended.message}" if ended else "nothing"
        print(
            f"  {layers} layers of {DAMAGED} x {options.factor:g}: refused after {until:.1f} s by {by}",
            flush=True,
        )
    sys.exit(bool(survived))


if __name__ == "__main__":
    main()
