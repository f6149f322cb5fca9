"""What observing adds to steady latency: one picture with ernie_qa's windows and hooks around it, and bare.

    python benchmarks/overhead.py replica --recipe sdnq-uint4-static --rounds 20

One pipeline in one process draws both in turn, so that clocks and temperature are the same for both. Printed
is the ratio of the medians, and the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from statistics import median
from typing import Any

from ernie_qa import compile_cache
from ernie_qa.drawing import latents
from ernie_qa.execute import hushed
from ernie_qa.meter import now
from ernie_qa.observe import Observation, arm_of
from ernie_qa.pipeline import load_pipeline
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
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device")
    options = parser.parse_args()
    suite = find_suite(options.suite)
    case = suite.cases[0]
    compile_cache.keep(options.device or "cuda")
    with hushed():
        pipe: Any = load_pipeline(options.model, options.recipe, options.device)
    pipe.set_progress_bar_config(disable=True)
    for _ in range(2):
        bare(pipe, case, suite)
    # the same case again and again, and one before it that is not steady
    cases = tuple(replace(case, id=f"round-{index}") for index in range(options.rounds + 1))
    observation = Observation(arm_of(pipe, options.recipe, replace(suite, name="rounds", cases=cases)))
    observation.draw()
    observed, plain = [], []
    for _ in range(options.rounds):
        observed.append(observation.draw().seconds)
        with observation.arm.unwatched():
            plain.append(bare(pipe, case, suite))
    observation.close()
    neighbours = median(one / other for one, other in zip(observed, plain, strict=True))
    print(
        f"{options.recipe}: bare {median(plain):.4f} s, observed {median(observed):.4f} s, ratio "
        f"{median(observed) / median(plain):.4f}, of neighbours {neighbours:.4f}, {options.rounds} rounds"
    )


if __name__ == "__main__":
    main()
