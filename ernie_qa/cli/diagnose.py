"""`ernie-qa diagnose`: why pictures come out bad, and a file to attach to a bug report."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.cli.arguments import add_device
from ernie_qa.errors import InputError

if TYPE_CHECKING:
    from ernie_qa.diagnose.call import Call

FOUND = 2


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    diagnose = commands.add_parser(
        "diagnose",
        help="say why a quantized model's pictures come out bad",
        description="Look at a quantized directory, how it is called, and this machine: is the package\n"
        "whole, does it run quantized, is it what its publisher's capsule holds, are the call's\n"
        "settings those that it was published with, is there memory. The BF16 model is not needed.\n\n"
        "  CAUSE    spoils pictures by itself\n"
        "  SUSPECT  not as published: may change a picture, or cost time alone\n"
        "  ADVICE   costs time or memory, and no picture",
        epilog="examples:\n"
        "  ernie-qa diagnose ~/models/turbo-uint4 --script my_script.py\n"
        "      how the script loads and calls it is read; the script is never run\n"
        "  ernie-qa diagnose ~/models/turbo-uint4 --steps 8 --guidance 1 --no-use-pe --size 1024x1024\n"
        "      or say the settings\n"
        "  ernie-qa diagnose org/model-nf4 --capsule nf4.capsule --output diagnosis.zip --draw\n"
        "      with the publisher's capsule; a file for a bug report, and a picture in it\n\n"
        "exit codes: 0 nothing found that is to blame, 2 something is, or bad input",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    diagnose.add_argument("directory", metavar="DIR", help="the quantized model, a directory or a hub id")
    diagnose.add_argument(
        "--model", metavar="BF16_DIR", help="the BF16 model that it was made of, where it is at hand"
    )
    diagnose.add_argument(
        "--capsule", type=Path, metavar="FILE", help="the publisher's capsule (the one in DIR)"
    )
    diagnose.add_argument(
        "--recipe", metavar="RECIPE", help="what it was quantized by (what its own files say)"
    )
    diagnose.add_argument(
        "--script",
        type=Path,
        metavar="FILE",
        help="read the settings from this Python file; it is not run",
    )
    diagnose.add_argument("--steps", type=int, metavar="N", help="num_inference_steps of your call")
    diagnose.add_argument("--guidance", type=float, metavar="G", help="guidance_scale of your call")
    diagnose.add_argument("--size", type=_size, metavar="WxH", help="width and height of your pictures")
    diagnose.add_argument("--seed", type=int, metavar="N", help="what --draw starts from")
    diagnose.add_argument(
        "--use-pe",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether your call lets the prompt enhancer write",
    )
    diagnose.add_argument(
        "--draw", action="store_true", help="draw a picture at these settings, put beside --output or into it"
    )
    add_device(diagnose)
    diagnose.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="a new .json or .zip that names neither you nor this machine",
    )
    diagnose.set_defaults(run=_diagnose)


def _size(text: str) -> tuple[int, int]:
    """Width and height of `1024x768`."""
    found = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", text)
    if not found or not (int(found[1]) and int(found[2])):
        raise argparse.ArgumentTypeError(f"needed is a width and a height, as 1024x768; found {text!r}")
    return int(found[1]), int(found[2])


def _call(options: argparse.Namespace) -> Call:
    from ernie_qa.diagnose.call import flags

    if options.steps is not None and not 1 <= options.steps <= 1000:
        raise InputError(f"--steps {options.steps}: allowed are 1 to 1000")
    if options.guidance is not None and not 0 <= options.guidance <= 100:
        raise InputError(f"--guidance {options.guidance:g}: allowed are 0 to 100")
    if options.seed is not None and not 0 <= options.seed < 2**63:
        raise InputError(f"--seed {options.seed}: allowed are 0 and more, of 63 bits")
    call = flags(options.steps, options.guidance, options.size, options.use_pe, options.seed)
    if options.script and call.settings:
        where = next(iter(call.settings.values())).where
        raise InputError(f"{where}: with --script the settings are the script's; give one of the two")
    return call


def _diagnose(options: argparse.Namespace) -> int:
    from ernie_qa.cli.bar import progress_bar
    from ernie_qa.diagnose.attached import check_output, write
    from ernie_qa.diagnose.script import read_script

    call = _call(options)
    if options.draw and not options.output:
        raise InputError("--draw: nowhere to put the picture; name a file, --output diagnosis.zip")
    if options.output:
        check_output(options.output)
    script = read_script(options.script) if options.script else None
    from ernie_qa.diagnose import diagnose
    from ernie_qa.diagnose.told import lines

    with progress_bar("step") as bar:
        found = diagnose(
            options.directory,
            model=options.model,
            recipe=options.recipe,
            capsule=options.capsule,
            script=script,
            call=call,
            device=options.device,
            draw=options.draw,
            progress=bar.at,
        )
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print("\n".join(lines(found, colour=colour, width=shutil.get_terminal_size().columns)))
    if options.output:
        named = (options.directory, options.model, options.recipe, options.capsule, options.script)
        files = write(found, options.output, *(Path(one) for one in named if one))
        print(f"\nto attach to a bug report: {', '.join(map(str, files))}")
    else:
        print("\n--output diagnosis.json writes this and all figures, to attach to a bug report")
    return 0 if found.clean else FOUND
