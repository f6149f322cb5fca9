"""How pictures answer to damage: the noise floor, every shipped recipe, UINT3 and UINT2, beside the limits.

    python benchmarks/damage.py                    # on the shipped miniature, on the CPU
    python benchmarks/damage.py --device cuda

The floor is BF16 against BF16: once more as it is, and once with another attention kernel. UINT3 and UINT2
are sdnq-uint4-static with another `weights_dtype` and nothing else.
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from ernie_qa.execute import hushed
from ernie_qa.frozen import Frozen
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.recipe import Recipe, find_recipe

if TYPE_CHECKING:
    from ernie_qa.record import Record

RECIPES = ("sdnq-int8", "bnb-nf4", "sdnq-uint4-static", "sdnq-uint4-dequant")
FIGURES = (("lpips", "mean"), ("lpips", "max"), ("ssim", "mean"), ("psnr", "mean"))


def with_weights(weights_dtype: str) -> Recipe:
    """sdnq-uint4-static with other weights."""
    recipe = find_recipe("sdnq-uint4-static")
    options = Frozen({"sdnq": Frozen({**recipe.options["sdnq"], "weights_dtype": weights_dtype})})
    return replace(recipe, name=f"sdnq-{weights_dtype}-static", options=options)


def draw(
    recipe: Recipe, device: str, reference: Record | None, within: AbstractContextManager[None]
) -> Record:
    """One arm on the suite of the miniature."""
    with hushed(), within:
        pipe = load_pipeline("mini", recipe, device)
        return observe(pipe, recipe, "mini", reference=reference)


def row(title: str, record: Record) -> str:
    """The figures of one arm."""
    metrics = record.figures["images"]["metrics"]
    values = (metrics[name][statistic] for name, statistic in FIGURES)
    return f"{title:24}" + "".join(
        f"{value:>12}" if isinstance(value, str) else f"{value:12.5f}" for value in values
    )


def main() -> None:
    """Draw every arm and print a row each."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    device = parser.parse_args().device

    bf16 = find_recipe("bf16")
    reference = draw(bf16, device, None, nullcontext())
    print(f"{'arm':24}" + "".join(f"{f'{name} {statistic}':>12}" for name, statistic in FIGURES))
    print(row("floor: BF16 again", draw(bf16, device, reference, nullcontext())), flush=True)
    other = sdpa_kernel(SDPBackend.MATH)
    print(row("floor: math attention", draw(bf16, device, reference, other)), flush=True)
    for recipe in (*map(find_recipe, RECIPES), with_weights("uint3"), with_weights("uint2")):
        print(row(recipe.name, draw(recipe, device, reference, nullcontext())), flush=True)
    for name in ("sdnq-int8", "sdnq-uint4-static"):
        limits = find_recipe(name).gates["mini"].limits
        bounds = (limits[f"images.{metric}_{statistic}"] for metric, statistic in FIGURES)
        print(
            f"{'limit: ' + name:24}"
            + "".join(f"{limit.max if limit.max is not None else limit.min:12.5f}" for limit in bounds)
        )


if __name__ == "__main__":
    main()
