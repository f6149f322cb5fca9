"""What observing adds to steady latency: pictures with all of ernie_qa around them, and without.

    python benchmarks/overhead.py replica --recipe sdnq-uint4-static --rounds 12 --blocks 4 --pictures 5

One pipeline in one process. First single pictures in turn: bare; by `ernie_qa.drawing.draw`, which times the
stages; and that beside the thread that asks NVML for the GPU's clocks, which is all that a gate does while it
times a picture. Then blocks in turn: observed as a whole, and bare. So clocks and temperature are the same
for all. Printed are medians, the median ratio to the bare picture or block beside, the middle half of these
ratios, and how far bare ones are apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from statistics import median
from typing import Any

from ernie_qa import compile_cache
from ernie_qa.drawing import draw, latents
from ernie_qa.meter import now
from ernie_qa.nvml import watching
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quiet import hushed
from ernie_qa.rungs import cost
from ernie_qa.suite import Case, Suite, find_suite


def bare(pipe: Any, case: Case, suite: Suite) -> float:
    """Seconds of one picture without ernie_qa."""
    place = pipe._execution_device
    now(place)
    began = time.perf_counter()
    pipe(
        prompt=case.prompt,
        width=case.width,
        height=case.height,
        num_inference_steps=suite.steps,
        guidance_scale=suite.guidance,
        latents=latents(pipe, case).to(place, pipe.transformer.dtype),
        use_pe=False,
        output_type="np",
    )
    now(place)
    return time.perf_counter() - began


def drawn(pipe: Any, case: Case, suite: Suite) -> float:
    """The same as the gate draws it, its stages timed."""
    return draw(pipe, case, suite).seconds


def gated(pipe: Any, case: Case, suite: Suite) -> float:
    """The same as the gate draws and watches it: its stages timed, while NVML is asked."""
    with watching(pipe._execution_device):
        return drawn(pipe, case, suite)


def in_turn(pipe: Any, case: Case, suite: Suite, rounds: int) -> str:
    """Single pictures of each kind, the order turned by one each round."""
    kinds: tuple[Callable[..., float], ...] = (bare, drawn, gated)
    found: dict[str, list[float]] = {kind.__name__: [] for kind in kinds}
    for index in range(rounds):
        turn = index % len(kinds)
        for kind in kinds[turn:] + kinds[:turn]:
            found[kind.__name__].append(kind(pipe, case, suite))
    plain = found.pop("bare")
    told = [f"bare {median(plain):.4f} s ({min(plain):.4f} to {max(plain):.4f})"]
    for name, seconds in found.items():
        ratios = sorted(one / other for one, other in zip(seconds, plain, strict=True))
        quarter = len(ratios) // 4
        told.append(
            f"{name} {median(seconds):.4f} s, ratio {median(ratios):.4f} "
            f"(middle half {ratios[quarter]:.4f} to {ratios[-1 - quarter]:.4f})"
        )
    return "; ".join(told) + f"; {rounds} rounds"


def main() -> None:
    """Draw in turn and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model")
    parser.add_argument("--recipe", default="sdnq-uint4-static")
    parser.add_argument("--suite", default="turbo10")
    parser.add_argument("--rounds", type=int, default=12, help="single pictures of each kind")
    parser.add_argument("--blocks", type=int, default=4, help="of each kind; 0 for none")
    parser.add_argument("--pictures", type=int, default=5, help="in a block")
    parser.add_argument("--device")
    options = parser.parse_args()
    compile_cache.keep(options.device or "cuda")
    suite = find_suite(options.suite)
    # the same case again and again, and one before it that is not steady
    cases = tuple(replace(suite.cases[0], id=f"picture-{index}") for index in range(options.pictures + 1))
    suite = replace(suite, name="one-case", cases=cases)
    with hushed():
        pipe: Any = load_pipeline(options.model, options.recipe, options.device)
    pipe.set_progress_bar_config(disable=True)
    observed, plain = [], []
    bare(pipe, cases[0], suite)
    if options.rounds:
        print(f"{options.recipe}: {in_turn(pipe, cases[0], suite, options.rounds)}", flush=True)
    for _ in range(options.blocks):
        with hushed():
            record = observe(pipe, options.recipe, suite)
        observed.append([one["seconds"] for one in list(record.figures[cost.NAME]["pictures"].values())[1:]])
        bare(pipe, cases[0], suite)
        plain.append([bare(pipe, case, suite) for case in cases[1:]])
    if not options.blocks:
        return
    ratios = [median(one) / median(other) for one, other in zip(observed, plain, strict=True)]
    blocks = [median(block) for block in plain]
    print(
        f"{options.recipe}: bare {median(chain(*plain)):.4f} s, observed {median(chain(*observed)):.4f} s, "
        f"ratio of neighbouring blocks {median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f}), bare "
        f"blocks {min(blocks):.4f} to {max(blocks):.4f} s, {options.blocks} blocks of {options.pictures}"
    )


if __name__ == "__main__":
    main()
