"""`ernie-qa ab`: one gate under two releases of a library."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.cli.exit_codes import BAD_INPUT, INTERRUPTED, OF_STATUS
from ernie_qa.cli.gate import add_run
from ernie_qa.errors import ErnieQAError, InputError
from ernie_qa.redaction import without_secrets

if TYPE_CHECKING:
    from packaging.requirements import Requirement

INSTALLED = "as it is installed"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    ab = commands.add_parser(
        "ab",
        help="run one gate under two releases of a library, and compare",
        description="Run the same gate in two environments, each in its own process, and tell what differs:\n"
        "verdicts, figures, pictures. With one --with, A is what is installed and B has that release;\n"
        "with two, A has the first and B the second. pip installs them into environments over this one,\n"
        "which go afterwards: this one stays as it is.\n\n"
        "BF16 is drawn in both. Figures of the recipes are compared only where it is the same to the bit.",
        epilog="examples:\n"
        "  ernie-qa ab --with bitsandbytes==0.50.0 --recipe bnb-nf4\n"
        "      what is installed beside an older release, on the shipped miniature\n"
        "  ernie-qa ab --with diffusers==0.42.0 --with diffusers==0.42.1 --report out\n"
        "      two releases; out/a and out/b hold the two runs, out/ab.md the table for a pull request\n"
        "  ernie-qa ab --with 'sdnq @ git+https://github.com/Disty0/sdnq@main'\n"
        "      all shipped recipes with what is not released yet\n\n"
        "exit codes: as `ernie-qa gate` gives them in B, and 3 where BF16 is not the same in both",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    ab.add_argument(
        "--with",
        dest="releases",
        action="append",
        nargs="+",
        required=True,
        metavar="RELEASE",
        help="what differs, as pip takes it; several are of one environment; once for B, or for A and B",
    )
    add_run(ab)
    ab.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write both runs and ab.md, the table in Markdown, to a new or empty directory",
    )
    ab.set_defaults(run=_ab)


def _ab(options: argparse.Namespace) -> int:
    from ernie_qa.overlay import overlay, requirements
    from ernie_qa.report.ab import FILE, beside, lines, markdown, status
    from ernie_qa.report.files import check_directory, write_whole
    from ernie_qa.report.page import PAGE
    from ernie_qa.report.shown import from_disk
    from ernie_qa.report.summary import append_summary

    if len(options.releases) > 2:
        raise InputError(f"--with is said {len(options.releases)} times: once for B, or for A and B")
    sides = [requirements(one) for one in options.releases]
    if len(sides) == 1:
        sides.insert(0, ())
    if options.report:
        check_directory(options.report)
    names = (_name(sides[0]), _name(sides[1]))
    with tempfile.TemporaryDirectory(prefix="ernie_qa-ab-") as directory:
        kept = options.report or Path(directory) / "runs"
        places = (kept / "a", kept / "b")
        # both before anything is drawn
        pythons = [overlay(Path(directory) / side, one) for side, one in zip("AB", sides, strict=True)]
        for side, name, python, place in zip("AB", names, pythons, places, strict=True):
            print(f"ernie-qa: {side}: {name}", file=sys.stderr)
            code = _gate(python, options, place)
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            if code == BAD_INPUT or not place.is_dir():
                raise ErnieQAError(f"{side}, {name}: no verdict there, as told above: nothing is compared")
        a, b = (from_disk([place]) for place in places)
        found = beside(a, b, names)
    print("\n".join(lines(found, shutil.get_terminal_size().columns)))
    text = markdown(found)
    append_summary(text)
    if options.report:
        write_whole(options.report / FILE, text)
        print(f"\nreport: {options.report / FILE}, {places[0] / PAGE}, {places[1] / PAGE}")
    return OF_STATUS[status(found, b)]


def _name(side: Sequence[Requirement]) -> str:
    """What the table calls a side: for others to read, so without directories and passwords."""
    said = (
        f"{one.name} @ {one.url.rpartition('/')[2]}" if one.url and one.url.startswith("file:") else str(one)
        for one in side
    )
    return without_secrets(", ".join(said)) or INSTALLED


def _gate(python: Path, options: argparse.Namespace, place: Path) -> int:
    """Run the gate there, its progress on stderr; its exit code."""
    command = [str(python), "-P", "-m", "ernie_qa.cli", "gate", *_arguments(options), f"--report={place}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                # Ctrl-C reaches both: the gate keeps what it has, and says so by its code
                continue


def _arguments(options: argparse.Namespace) -> Iterator[str]:
    """The gate's own options as they were given."""
    own = argparse.ArgumentParser(add_help=False)
    add_run(own)
    for name, default in vars(own.parse_args([])).items():
        value, option = getattr(options, name), f"--{name.replace('_', '-')}"
        if value == default:
            continue
        if value is True:
            yield option
        else:
            yield from (f"{option}={one}" for one in (value if isinstance(value, list) else [value]))
