"""`ernie-qa show`: what a record holds."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from ernie_qa.cli.exit_codes import OK


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    show = commands.add_parser(
        "show",
        help="print what a record holds",
        description="Print what a record holds: what ran quantized, every picture with its scores and the "
        "words read in it, and what it cost.",
        epilog="example: ernie-qa gate --recipe bnb-nf4 --report out && ernie-qa show out/bnb-nf4",
    )
    show.add_argument(
        "record", metavar="RECORD", type=Path, help="directory of a record, as --report wrote it"
    )
    show.add_argument("--all", action="store_true", help="every figure, and the machine")
    show.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    from ernie_qa.record import load_record
    from ernie_qa.report.record import outline, record_lines

    record = load_record(options.record)
    for line in record_lines(record):
        print(line)
    if options.all:
        identities = {name: asdict(getattr(record, name)) for name in ("model", "recipe", "suite")}
        machine = asdict(record.fingerprint)
        for title, values in (*identities.items(), ("machine", machine), *record.figures.items()):
            print(f"\n{title}")
            for line in outline(values):
                print(line)
    return OK
