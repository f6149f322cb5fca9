"""Where the GPU's time goes in one forward of the transformer, by kind of kernel, recipe by recipe.

    python benchmarks/forward_kernels.py replica --recipe bf16 --recipe sdnq-uint4-static

One step at 1024 x 1024 under torch.profiler, after two to warm up. Kernels are told apart by their names; the
ten longest of each recipe are printed too.
"""

from __future__ import annotations

import argparse
import gc
from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ernie_qa import compile_cache
from ernie_qa.drawing import warm_up
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quiet import hushed
from ernie_qa.suite import find_suite

KINDS = (
    ("int8 product", ("scaled_mm", "int_mm", "_mm_kernel", "int8")),
    ("attention", ("flash", "fmha", "attention", "sdpa")),
    ("4-bit product", ("gemm_4bit", "gemv_4bit")),
    ("dequantizing", ("dequant", "kdequant")),
    ("BF16 product", ("nvjet", "gemm", "cutlass", "xmma", "cublas")),
    ("compiled, elementwise", ("triton_",)),
)
"""Kind -> parts of a kernel's name, the first that fits; the rest is `other`."""


def kind(name: str) -> str:
    """What sort of kernel has that name."""
    low = name.lower()
    return next((title for title, parts in KINDS if any(part in low for part in parts)), "other")


def step(model: str, recipe: str) -> Counter[str]:
    """Kernel -> microseconds on the GPU in one forward of the transformer."""
    suite = find_suite("turbo10")
    with hushed():
        pipe: Any = load_pipeline(model, recipe, "cuda")
        calls: list[tuple[Any, Any]] = []
        hook = pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
        )
        for _ in range(2):
            warm_up(pipe, suite.cases[0], suite)
        hook.remove()
    args, kwargs = calls[-1]
    with torch.no_grad(), profile(activities=[ProfilerActivity.CUDA]) as profiler:
        pipe.transformer(*args, **kwargs)
        torch.cuda.synchronize()
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        spent[event.key] += event.self_device_time_total
    return spent


def main() -> None:
    """Profile the recipes and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model")
    parser.add_argument("--recipe", action="append", default=[])
    options = parser.parse_args()
    compile_cache.keep("cuda")
    for recipe in options.recipe or ["bf16", "sdnq-uint4-static", "sdnq-uint4-dequant", "bnb-nf4"]:
        spent = step(options.model, recipe)
        kinds: Counter[str] = Counter()
        for name, time in spent.items():
            kinds[kind(name)] += time
        print(f"{recipe}: {sum(spent.values()) / 1000:.1f} ms on the GPU")
        for title, time in kinds.most_common():
            print(f"  {time / 1000:8.2f} ms  {title}")
        for name, time in spent.most_common(10):
            print(f"      {time / 1000:8.2f} ms  {name[:90]}")
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
