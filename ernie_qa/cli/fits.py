"""`ernie-qa fits`: whether a recipe fits into so much GPU memory."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from ernie_qa.cli.arguments import add_model, add_suite
from ernie_qa.cli.exit_codes import FAILED, OK

if TYPE_CHECKING:
    from ernie_qa.fits import Fit

GIB = 2**30


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    fits = commands.add_parser(
        "fits",
        help="try whether a recipe fits into so much GPU memory",
        description="Load a recipe on the GPU and draw one picture of a suite, the largest, while torch's\n"
        "allocator and CUDA's own context are held within --memory. Run it with the GPU to itself.",
        epilog="examples:\n"
        "  ernie-qa fits --recipe sdnq-int8 --memory 4\n"
        "      the shipped miniature\n"
        "  ernie-qa fits --model ~/models/ERNIE-Image-Turbo --recipe sdnq-uint4-static --memory 16\n"
        "      the full-size model on a card of 16 GiB, tried on a larger one\n\n"
        "exit codes: 0 it fits, 1 it does not, 2 bad input or no usable GPU",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_model(fits)
    fits.add_argument("--recipe", required=True, metavar="RECIPE", help="a shipped name or a TOML file")
    fits.add_argument(
        "--memory", required=True, type=_gib, metavar="GIB", help="how much there may be, in GiB"
    )
    add_suite(fits)
    fits.add_argument("--case", metavar="ID", help="the case to draw (the one with the most pixels)")
    fits.add_argument(
        "--artifact",
        metavar="MODEL",
        help="a directory or hub id that holds the recipe's components quantized already",
    )
    fits.add_argument(
        "--offload",
        action="store_true",
        help="keep components in main memory and call them to the GPU one at a time",
    )
    fits.add_argument("--json", action="store_true", help="print the answer as JSON, in bytes")
    fits.set_defaults(run=_fits)


def _gib(text: str) -> int:
    """Bytes of a number of GiB."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < 2**20:
        raise argparse.ArgumentTypeError(f"needed is a number of GiB above 0, as 16 or 7.5; found {text!r}")
    return round(number * GIB)


def _fits(options: argparse.Namespace) -> int:
    from ernie_qa.fits import fits
    from ernie_qa.plan import plan
    from ernie_qa.recipe import find_recipe

    recipe = find_recipe(options.recipe)
    checked = plan(
        options.model,
        [recipe],
        options.suite,
        "cuda",
        artifacts=[f"{recipe.name}={options.artifact}"] if options.artifact else (),
        offload=[recipe.name] if options.offload else (),
    )
    found = fits(checked, options.memory, options.case)
    if options.json:
        print(json.dumps({"schema": 1, "fits": found.fits, **asdict(found)}, indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(found)))
    return OK if found.fits else FAILED


def lines(found: Fit) -> Iterator[str]:
    """The answer for a terminal."""
    limit = f"{found.memory / GIB:g} GiB"
    if found.ran_out is None:
        yield f"{found.recipe} on {found.model} fits in {limit}"
    else:
        reached = found.draw or found.load or {}
        yield (
            f"{found.recipe} on {found.model} does not fit in {limit}: ran out while {found.ran_out}, "
            f"{_said((reached.get('allocated') or 0) + found.context)} were in use"
        )
    yield f"  GPU              {found.gpu}, case {found.case}"
    yield f"  CUDA's context   {_said(found.context)}"
    for name, peak in (("loading", found.load), ("drawing", found.draw)):
        if peak:
            yield f"  {name:<16} {_peak(peak)}"
    yield f"  by the driver    {_said(found.driver)}"
    if found.compiled:
        yield f"  {found.compiled} kernels were compiled meanwhile; tuning them took memory too, once"


def _peak(peak: Mapping[str, int | None]) -> str:
    return f"{_said(peak['allocated'] or 0)} allocated, {_said(peak['reserved'] or 0)} reserved, at the peak"


def _said(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
