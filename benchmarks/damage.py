"""How pictures answer to damage: the noise floor, every shipped recipe, UINT3 and UINT2, beside the limits.

    python benchmarks/damage.py                    # on the shipped miniature, on the CPU
    python benchmarks/damage.py --device cuda
    python benchmarks/damage.py --recipe mine.toml --recipe sdnq-int8      # these instead

The floor is BF16 against BF16: once more as it is, and once with another attention kernel. UINT3 and UINT2
are sdnq-uint4-static with another `weights_dtype` and nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from ernie_qa.errors import ErnieQAError
from ernie_qa.frozen import Frozen
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quantizers import checked_options
from ernie_qa.quiet import hushed
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


def chosen(given: Sequence[str]) -> tuple[Recipe, ...]:
    """The recipes of those names or files; the shipped ones, UINT3 and UINT2 without any. RecipeError where
    one is wrong or its options are."""
    if not given:
        return (*map(find_recipe, RECIPES), with_weights("uint3"), with_weights("uint2"))
    found = tuple(map(find_recipe, given))
    for recipe in found:
        checked_options(recipe)
    return found


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


def limit_row(recipe: Recipe) -> str:
    """The recipe's limits for the miniature, a dash where it has none of a figure; empty without any."""
    gate = recipe.gates.get("mini")
    limits = (
        [gate.limits.get(f"images.{metric}_{statistic}") for metric, statistic in FIGURES] if gate else []
    )
    bounds = [limit and (limit.max if limit.max is not None else limit.min) for limit in limits]
    if all(bound is None for bound in bounds):
        return ""
    return f"{'limit: ' + recipe.name:24}" + "".join(
        f"{'-':>12}" if bound is None else f"{bound:12.5f}" for bound in bounds
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw every arm and print a row each."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--recipe", action="append", default=[], help="a shipped name or a TOML file")
    options = parser.parse_args(arguments)
    device = options.device
    try:
        recipes = chosen(options.recipe)
    except ErnieQAError as error:
        parser.error(str(error))

    bf16 = find_recipe("bf16")
    reference = draw(bf16, device, None, nullcontext())
    print(f"{'arm':24}" + "".join(f"{f'{name} {statistic}':>12}" for name, statistic in FIGURES))
    print(row("floor: BF16 again", draw(bf16, device, reference, nullcontext())), flush=True)
    other = sdpa_kernel(SDPBackend.MATH)
    print(row("floor: math attention", draw(bf16, device, reference, other)), flush=True)
    for recipe in recipes:
        print(row(recipe.name, draw(recipe, device, reference, nullcontext())), flush=True)
    # the others' are those of sdnq-uint4-static
    limiting = recipes if options.recipe else map(find_recipe, ("sdnq-int8", "sdnq-uint4-static"))
    for said in filter(None, map(limit_row, limiting)):
        print(said)


if __name__ == "__main__":
    main()
