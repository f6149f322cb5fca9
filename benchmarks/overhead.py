"""What observing adds to steady latency: pictures with all of ernie_qa around them, and without.

    python benchmarks/overhead.py replica --recipe sdnq-uint4-static --blocks 4 --pictures 5

One pipeline in one process draws blocks of both in turn, so that clocks and temperature are the same for
both. Printed are the medians, the median ratio of neighbouring blocks, and how far bare blocks are apart.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from itertools import chain
from statistics import median
from typing import Any

from ernie_qa import compile_cache
from ernie_qa.drawing import latents
from ernie_qa.execute import hushed
from ernie_qa.meter import now
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
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


def main() -> None:
    """Draw in turn and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model")
    parser.add_argument("--recipe", default="sdnq-uint4-static")
    parser.add_argument("--suite", default="turbo10")
    parser.add_argument("--blocks", type=int, default=4, help="of each kind")
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
    for _ in range(options.blocks):
        with hushed():
            record = observe(pipe, options.recipe, suite)
        observed.append([one["seconds"] for one in list(record.figures[cost.NAME]["pictures"].values())[1:]])
        bare(pipe, cases[0], suite)
        plain.append([bare(pipe, case, suite) for case in cases[1:]])
    ratios = [median(one) / median(other) for one, other in zip(observed, plain, strict=True)]
    blocks = [median(block) for block in plain]
    print(
        f"{options.recipe}: bare {median(chain(*plain)):.4f} s, observed {median(chain(*observed)):.4f} s, "
        f"ratio of neighbouring blocks {median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f}), bare "
        f"blocks {min(blocks):.4f} to {max(blocks):.4f} s, {options.blocks} blocks of {options.pictures}"
    )


if __name__ == "__main__":
    main()
