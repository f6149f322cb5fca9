"""A repaired recipe beside random sets of layers that take as many bytes, or just more.

    ernie-qa repair uint3.toml --output uint3-kept.toml
    python benchmarks/repair.py uint3.toml uint3-kept.toml --seeds 8

For each seed, the layers that the broken recipe has to keep, for they are beyond a limit on single layers,
are kept, and others of the same components, at random, until the bytes are as many as the repair's; with
`--blind` all of them at random. Each set is judged with every rung. Exits 1 where the repair does not pass,
or half of the random sets do.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from ernie_qa.execute import Outcome, Session
from ernie_qa.plan import plan
from ernie_qa.recipe import REFERENCE
from ernie_qa.repair import Bench
from ernie_qa.repair.candidates import Layer, layers, needed, quantized
from ernie_qa.repair.told import memory
from ernie_qa.verdict import Status

SHOWN = ("components.transformer_l2_max", "images.lpips_mean", "images.ssim_mean")


def at_random(found: Sequence[Layer], must: frozenset[Layer], size: int, seed: int) -> frozenset[Layer]:
    """`must`, and others until all take at least so many bytes."""
    kept, left = set(must), sorted(set(found) - must, key=lambda layer: (layer.component, layer.name))
    random.Random(seed).shuffle(left)
    while left and sum(layer.more for layer in kept) < size:
        kept.add(left.pop())
    return frozenset(kept)


def row(what: str, outcome: Outcome, kept: int, before: int) -> str:
    """A line of the table."""
    verdict = outcome.verdict
    values = {check.name: check.measured for check in verdict.checks}
    shown = " | ".join(f"{values[name]:.4f}" for name in SHOWN)
    more, failed = memory(outcome.record) - before, len(verdict.of(Status.FAIL))
    return f"| {what} | {kept} | {more:,} | {shown} | {failed} | {verdict.status} |"


def main() -> None:
    """Draw the two, then the random ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("recipe")
    parser.add_argument("repaired")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--suite")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--blind", action="store_true")
    options = parser.parse_args()

    wanted = plan(options.model, [options.recipe, options.repaired], options.suite, options.device)
    session = Session(wanted, all_rungs=True)
    before, after = session
    broken, size = wanted.recipes[0], memory(before.record)
    was, now = quantized(before.record), quantized(after.record)
    count = sum(len(own) - len(now[part]) for part, own in was.items())
    more = memory(after.record) - size
    found = layers(before.record)
    must = frozenset() if options.blind else needed(found, before.verdict)
    touched = {part for part, own in was.items() if len(own) > len(now[part])}
    found = tuple(layer for layer in found if layer.component in touched)
    print(f"| kept | layers | bytes more | {' | '.join(SHOWN)} | failed checks | verdict |")
    print("|---|---:|---:|" + "---:|" * len(SHOWN) + "---:|---|")
    print(row("none", before, 0, size))
    print(row("repair", after, count, size), flush=True)
    bench, passed = Bench(wanted, broken, session.records[REFERENCE], "random"), 0
    for seed in range(options.seeds):
        kept = at_random(found, must, more, seed)
        outcome = bench.tried({(one.component, one.name) for one in kept}, all_rungs=True)
        passed += outcome.verdict.status is Status.PASS
        print(row(f"random, seed {seed}", outcome, len(kept), size), flush=True)
    print(f"\n{passed} of {options.seeds} random sets pass")
    sys.exit(after.verdict.status is not Status.PASS or 2 * passed >= options.seeds)


if __name__ == "__main__":
    main()
