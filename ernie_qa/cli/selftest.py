"""`ernie-qa selftest`: what the gate catches, and what it is quiet about."""

from __future__ import annotations

import argparse
import json
import shutil
from typing import TYPE_CHECKING

from ernie_qa.cli.exit_codes import FAILED, OK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ernie_qa.faults import Fault
    from ernie_qa.selftest import Result


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    selftest = commands.add_parser(
        "selftest",
        help="damage pipelines on purpose, see what the gate says",
        description="Do every fault of the corpus to the shipped miniature, and see which rung catches\n"
        "it; clean variants, which change bits and no quality, must pass. It needs the\n"
        "engines that read words in pictures:\n"
        "  pip install 'ernie-qa[text]' && apt-get install tesseract-ocr-rus",
        epilog="examples:\n"
        "  ernie-qa selftest                          all of it: some minutes on two cores\n"
        "  ernie-qa selftest --recipe bnb-nf4         what is done to one recipe\n"
        "  ernie-qa selftest --list                   what there is\n\n"
        "exit codes: 0 every fault was caught but those that are known to survive, and no clean variant;\n"
        "1 not so, 2 bad input or something missing here",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    selftest.add_argument(
        "--recipe", action="append", default=[], metavar="RECIPE", help="only what is done to it; repeatable"
    )
    selftest.add_argument(
        "--fault", nargs="+", action="extend", default=[], metavar="NAME", help="only these"
    )
    selftest.add_argument(
        "--device", default="cpu", metavar="DEVICE", help="cuda tries what costs too much as well (cpu)"
    )
    selftest.add_argument(
        "--clean",
        type=int,
        metavar="N",
        help="instead, N clean variants that round otherwise, each with its own seed",
    )
    selftest.add_argument("--list", action="store_true", help="print the corpus and try nothing")
    selftest.add_argument("--json", action="store_true", help="print the result as JSON")
    selftest.set_defaults(run=_selftest)


def _selftest(options: argparse.Namespace) -> int:
    from ernie_qa.errors import InputError
    from ernie_qa.faults.rounding import rounded_otherwise
    from ernie_qa.meter import require_device
    from ernie_qa.report.selftest import document, lines, listing
    from ernie_qa.selftest import chosen

    if options.clean is not None and (options.fault or options.recipe):
        raise InputError("--clean draws its own variants: leave out --fault and --recipe")
    if options.clean is not None and options.clean < 1:
        raise InputError(f"--clean {options.clean}: needed is 1 or more")
    faults = rounded_otherwise(options.clean) if options.clean else chosen(options.fault, options.recipe)
    if options.list:
        print("\n".join(listing(faults)))
        return OK
    require_device(options.device)
    result = _run(faults, options.device)
    if options.json:
        print(json.dumps(document(result), indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(result, shutil.get_terminal_size().columns)))
    return OK if result.sound else FAILED


def _run(faults: Sequence[Fault], device: str) -> Result:
    from ernie_qa.cli.bar import progress_bar
    from ernie_qa.selftest import selftest

    with progress_bar("fault", len(faults)) as bar:
        return selftest(faults, device, lambda name, done, of: bar.at(done, of, name))
