"""Does a recipe fit into so many bytes of GPU memory? Answered by loading and drawing within them.

torch's allocator is held to what CUDA's own context leaves of them. A GPU of that size may still differ a
little: its context has another size, and libraries that look at its free memory see less.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ernie_qa.allocator import runaway
from ernie_qa.compile_cache import compiled_files, keep
from ernie_qa.doctor.findings import GIB, OWN_CONTEXT
from ernie_qa.errors import InputError, OutOfMemoryError, UnavailableError
from ernie_qa.meter import peaks, physical, require_device
from ernie_qa.toml_input import did_you_mean

if TYPE_CHECKING:
    import torch

    from ernie_qa.plan import Plan
    from ernie_qa.suite import Case, Suite


@dataclass(frozen=True, slots=True)
class Fit:
    """What loading and drawing `case` within `memory` took; all in bytes.

    `context` is what CUDA took before anything was loaded, `load` and `draw` the peaks of
    `ernie_qa.meter.peaks`, None where it did not come to that. `driver` is the most that the driver counted
    as used after either, `compiled` how many kernels were compiled meanwhile, whose tuning takes memory too.
    `ran_out` says while doing what memory ran out; None where all of it fits.
    """

    model: str
    recipe: str
    case: str
    gpu: str
    memory: int
    context: int
    load: Mapping[str, int | None] | None
    draw: Mapping[str, int | None] | None
    driver: int
    compiled: int
    ran_out: str | None

    @property
    def fits(self) -> bool:
        """Whether all of it fits."""
        return self.ran_out is None


def fits(plan: Plan, memory: int, case: str | None = None) -> Fit:
    """Load the plan's one recipe on the GPU and draw a case, the largest or that of the id `case`, with at
    most `memory` bytes in use.

    To be called in a process that has not used the GPU yet, and with the GPU to itself. InputError where the
    GPU has less, or there is no such case; UnavailableError where there is no GPU, or others are on it.
    """
    import torch

    chosen = largest(plan.suite, case)
    if reason := runaway(os.environ):
        raise InputError(reason)
    require_device("cuda")
    keep("cuda")
    place = torch.device("cuda", torch.cuda.current_device())
    total = physical(place) or 0
    context = _outside(place)
    if context > OWN_CONTEXT:
        raise UnavailableError(
            f"{context / GIB:.1f} GiB of the GPU are in use before anything is loaded: end what runs there"
        )
    share = allocator_share(memory, context, total)
    before = compiled_files()
    load, draw, driver, ran_out = _run(plan, chosen, memory, place, share)
    return Fit(
        model=plan.model.name,
        recipe=plan.recipes[0].name,
        case=chosen.id,
        gpu=torch.cuda.get_device_name(place),
        memory=memory,
        context=context,
        load=load,
        draw=draw,
        driver=driver,
        compiled=compiled_files() - before,
        ran_out=ran_out,
    )


def _run(
    plan: Plan, case: Case, memory: int, place: torch.device, share: float
) -> tuple[Mapping[str, int | None] | None, Mapping[str, int | None] | None, int, str | None]:
    """Peaks of loading and of drawing, the most that the driver counted, and while doing what it ran out."""
    import torch

    from ernie_qa.drawing import draw
    from ernie_qa.meter import open_window
    from ernie_qa.pipeline import load_pipeline

    if share == 0:
        return None, None, _used(place), "starting CUDA"
    torch.cuda.set_per_process_memory_fraction(share, place)
    (recipe,) = plan.recipes
    loaded = None
    try:
        pipe = load_pipeline(
            plan.model,
            recipe,
            plan.device,
            artifact=plan.artifacts.get(recipe.name),
            offload=recipe.name in plan.offloaded,
        )
        loaded, driver = peaks(place), _used(place)
        drawn = draw(pipe, case, plan.suite).peak
        outside = _outside(place)
        if outside + (drawn["reserved"] or 0) > memory:
            # drawing loads kernels and more into the context; what the allocator merely cached may go for it
            open_window(place)
            torch.cuda.set_per_process_memory_fraction(
                allocator_share(memory, outside, physical(place) or 0), place
            )
            drawn = draw(pipe, case, plan.suite).peak
        if _used(place) > memory:
            return loaded, drawn, max(driver, _used(place)), "drawing"
    except (torch.OutOfMemoryError, OutOfMemoryError):
        reached = peaks(place)
        if loaded is None:
            return reached, None, _used(place), "loading"
        return loaded, reached, max(driver, _used(place)), "drawing"
    return loaded, drawn, max(driver, _used(place)), None


def allocator_share(memory: int, context: int, total: int) -> float:
    """The share of a GPU's `total` bytes that an allocator may take so that it stays within `memory` beside a
    `context` of so many bytes: 0 where that alone does not. InputError where `memory` is above `total`."""
    if memory > total:
        raise InputError(
            f"--memory {memory / GIB:g}: the GPU has {total / GIB:.1f} GiB; ask for less, or on a larger one"
        )
    return max(0, memory - context) / total


def largest(suite: Suite, case: str | None = None) -> Case:
    """The first case of `suite` with the most pixels, or the one of the id `case`. InputError where there is
    none of that id."""
    cases = {one.id: one for one in suite.cases}
    if case is None:
        return max(cases.values(), key=lambda one: one.width * one.height)
    if case not in cases:
        raise InputError(
            f"{suite.path}: no case {case!r}; there are {', '.join(cases)}{did_you_mean(case, cases)}"
        )
    return cases[case]


def _used(place: torch.device) -> int:
    """Bytes in use on the GPU, as the driver counts them."""
    import torch

    free, total = torch.cuda.mem_get_info(place)
    return total - free


def _outside(place: torch.device) -> int:
    """Bytes in use on the GPU that torch's allocator does not hold: CUDA's context, and other processes."""
    import torch

    return _used(place) - torch.cuda.memory_reserved(place)
