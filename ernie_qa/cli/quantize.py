"""`ernie-qa quantize`: what a recipe makes of a model, as a directory to publish."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.cli.exit_codes import INTERRUPTED, OK

if TYPE_CHECKING:
    from ernie_qa.quantize import Quantized

GIB = 2**30


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    quantize = commands.add_parser(
        "quantize",
        help="write a model as a recipe quantizes it, to publish or to gate",
        description="Load MODEL's components one after the other, quantize those that the recipe names,\n"
        "copy the others byte by byte, and write a directory that plain diffusers code loads:\n\n"
        "  runtime_config.json         how to load and run it: imports, SDNQ's matmul switch,\n"
        "                              allocator, steps, guidance\n"
        "  quantization_config.json    for SDNQ, in each component's folder too\n"
        "  quantization_metadata.json  for bitsandbytes\n\n"
        "Memory holds one component at a time. DIR is there whole or not at all. Interrupted,\n"
        "or on a full disk, the finished components stay in a hidden directory beside it, and\n"
        "the same command goes on there.",
        epilog="examples:\n"
        "  ernie-qa quantize mini --recipe sdnq-uint4-static --output /tmp/mini-uint4\n"
        "      the shipped miniature, in seconds on a CPU\n"
        "  ernie-qa quantize ~/models/ERNIE-Image-Turbo --recipe bnb-nf4 \\\n"
        "      --output ~/models/turbo-nf4 --suite turbo10\n"
        "      the full size on a GPU, with turbo10's steps and guidance as the recommended ones\n"
        "  ernie-qa gate --recipe sdnq-uint4-static --artifact sdnq-uint4-static=/tmp/mini-uint4\n"
        "      is what was written still good\n\n"
        "exit codes: 0 written, 2 bad input or something missing, 130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    quantize.add_argument(
        "model", metavar="MODEL", help="a shipped name, a diffusers directory or a hub id, in BF16"
    )
    quantize.add_argument("--recipe", required=True, metavar="R", help="a shipped name or a TOML file")
    quantize.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="a new or empty directory"
    )
    quantize.add_argument(
        "--overwrite",
        action="store_true",
        help="let it take the place of a model directory, which stays until the new one is whole",
    )
    quantize.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda or cuda:N (cuda where there is a usable GPU, else cpu)"
    )
    quantize.add_argument(
        "--suite",
        metavar="SUITE",
        help="whose steps and guidance to recommend (the one that the model names, else none)",
    )
    quantize.add_argument(
        "--json", action="store_true", help="print the result as JSON, in bytes and seconds"
    )
    quantize.set_defaults(run=_quantize)


def _quantize(options: argparse.Namespace) -> int:
    from ernie_qa.cli.bar import progress_bar
    from ernie_qa.quantize import Interrupted, quantize
    from ernie_qa.quiet import hushed

    stopped: KeyboardInterrupt | None = None
    with progress_bar("B") as bar, hushed():
        try:
            found = quantize(
                options.model,
                options.recipe,
                options.output,
                device=options.device,
                suite=options.suite,
                overwrite=options.overwrite,
                progress=bar.at,
            )
        except KeyboardInterrupt as interruption:
            stopped = interruption
    if stopped is not None:
        left = "nothing had been begun"
        if isinstance(stopped, Interrupted):
            left = "nothing is kept"
            if stopped.kept:
                verb = "is" if len(stopped.kept) == 1 else "are"
                left = f"kept {verb} {', '.join(stopped.kept)}, and the same command goes on there"
        print(f"ernie-qa: {options.output}: interrupted, not written; {left}", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        print(json.dumps(document(found), indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(found, options.model, options.recipe)))
    return OK


def document(found: Quantized) -> dict[str, object]:
    """The result as JSON values."""
    return {"schema": 1, **asdict(found), "directory": str(found.directory)}


def lines(found: Quantized, model: str, recipe: str) -> Iterator[str]:
    """The result for a terminal: bytes by component, what it took, and the gate and the card to make next."""
    for part in found.parts:
        how = part.quantizer or "copied"
        if part.name in found.resumed:
            how += ", done before"
        yield _row(part.name, part.before, part.after, how)
    yield _row("total", found.before, found.after, "")
    on_gpu = "" if found.peak_allocated is None else f"{_gib(found.peak_allocated)} allocated on the GPU, "
    yield (
        f"{found.directory}: {found.model} by {found.recipe} in {found.seconds:.1f} s on {found.device}; "
        f"at most {on_gpu}{_gib(found.peak_resident)} resident in main memory"
    )
    yield ""
    gate = ["--model", model, "--recipe", recipe, "--artifact", f"{found.recipe}={found.directory}"]
    out = f"{found.directory}-gated"
    yield f"ernie-qa gate {shlex.join([*gate, '--report', out])}"
    yield f"ernie-qa card {shlex.join([out, '--artifact', str(found.directory)])}"


def _row(name: str, before: int, after: int, how: str) -> str:
    return (
        f"{name:<12} {before:>14,} B {after:>14,} B {1 - after / max(before, 1):>8.2%} less  {how}".rstrip()
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
