"""A setting of torch's GPU allocator under which no figure of memory means anything."""

from collections.abc import Mapping

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Both count: torch 2.14 takes some options from the first that is set and some from the second
(c10/core/AllocatorConfig.h, c10/cuda/CUDAAllocatorConfig.h), so that options spread over them combine."""
REMEDY = (
    "remove one of expandable_segments:True and max_split_size_mb: "
    "together they let reserved memory grow without bound (pytorch issue 123548)"
)


def runaway(environment: Mapping[str, str]) -> str | None:
    """Why reserved memory would run away under `environment`: the variables with their values, and what to
    remove, in one line; None where it would not."""
    options = {name: _options(environment.get(name, "")) for name in VARIABLES}
    growing = [name for name, found in options.items() if found.get("expandable_segments") == "true"]
    split = [name for name, found in options.items() if "max_split_size_mb" in found]
    if not growing or not split:
        return None
    told = " ".join(f"{name}={environment[name]}" for name in VARIABLES if name in (*growing, *split))
    return f"{told}: {REMEDY}"


def _options(setting: str) -> dict[str, str]:
    """The options of one variable; as torch reads them, white space is nothing and the last one counts."""
    pairs = (part.partition(":") for part in "".join(setting.lower().split()).split(","))
    return {name: value for name, _, value in pairs}
