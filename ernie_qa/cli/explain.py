"""`ernie-qa explain`: which layers are furthest off by themselves."""

from __future__ import annotations

import argparse
from pathlib import Path

from ernie_qa.cli.exit_codes import OK


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    explain = commands.add_parser(
        "explain",
        help="rank a record's layers by their own error",
        description="Rank the layers of each component by how far off their own output is when they are fed "
        "BF16's rows: by its relative error, and by its gain, in which noise averages out and a wrong scale "
        "does not.",
        epilog="example: ernie-qa gate --recipe bnb-nf4 --report out && ernie-qa explain out/bnb-nf4",
    )
    explain.add_argument(
        "record", metavar="RECORD", type=Path, help="directory of a record, as --report wrote it"
    )
    explain.add_argument("--all", action="store_true", help="every layer")
    explain.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    from ernie_qa.record import load_record
    from ernie_qa.report.components import explained

    record = load_record(options.record)
    for line in explained(record, whole=options.all):
        print(line)
    return OK
