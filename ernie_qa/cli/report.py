"""`ernie-qa report` and `ernie-qa compare`: records as a page, and two of them beside each other."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.cli.exit_codes import NOT_COMPARABLE, OK
from ernie_qa.errors import InputError
from ernie_qa.toml_input import one_line

if TYPE_CHECKING:
    from ernie_qa.record import Record
    from ernie_qa.suite import Suite


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    report = commands.add_parser(
        "report",
        help="write a page about records",
        description="Write a static page about one or many records: verdict, ladder, pictures beside BF16's, "
        "cost. It draws nothing, and needs no server and no network.",
        epilog="example: ernie-qa gate --report out && ernie-qa report out --output page",
    )
    report.add_argument(
        "record",
        metavar="RECORD",
        type=Path,
        nargs="+",
        help="directory of a record, or one that --report wrote, with all of them",
    )
    _add_output(report, required=True)
    report.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="RECIPE",
        help="judge a record that lies beside no verdict.json by this TOML file; may be repeated",
    )
    report.add_argument(
        "--baselines",
        type=Path,
        metavar="DIR",
        help="judge the records again, by what was accepted and calibrated in this directory as well",
    )
    report.set_defaults(run=_report)
    compare = commands.add_parser(
        "compare",
        help="put two records beside each other",
        description="Every figure of two records beside each other, and how B differs from A. Figures of "
        "another model, suite or machine are shown and not compared.",
        epilog="exit codes: 0 compared, 2 bad input, 3 nothing could be compared",
    )
    compare.add_argument("a", metavar="A", type=Path, help="directory of a record")
    compare.add_argument("b", metavar="B", type=Path, help="directory of another")
    _add_output(compare, required=False)
    compare.set_defaults(run=_compare)


def _add_output(command: argparse.ArgumentParser, required: bool) -> None:
    command.add_argument(
        "--output",
        type=Path,
        required=required,
        metavar="DIR",
        help="new or empty directory for index.html and its pictures",
    )
    command.add_argument(
        "--suite", metavar="SUITE", help="the suite that was drawn, for its prompts (a shipped one is found)"
    )
    command.add_argument(
        "--pictures",
        type=int,
        metavar="N",
        help="show the N worst cases of each record (12, fewer of more than five records)",
    )


def _report(options: argparse.Namespace) -> int:
    from ernie_qa.report.files import check_directory
    from ernie_qa.report.shown import from_disk, unjudged
    from ernie_qa.report.written import write_page_alone

    _check_pictures(options.pictures)
    check_directory(options.output)
    shown = from_disk(options.record, options.recipe, options.baselines)
    broken, unfinished = unjudged(options.record)
    suite = _suite(options.suite, [one.record for one in shown])
    page = write_page_alone(
        options.output, shown, suite=suite, broken=broken, unfinished=unfinished, most=options.pictures
    )
    print(page)
    return OK


def _compare(options: argparse.Namespace) -> int:
    from ernie_qa.record import load_record
    from ernie_qa.report.compare import compare, lines
    from ernie_qa.report.files import check_directory
    from ernie_qa.report.labels import labels
    from ernie_qa.report.shown import from_disk, laid_out
    from ernie_qa.report.summary import append_summary, markdown_of
    from ernie_qa.report.written import write_page_alone

    _check_pictures(options.pictures)
    if options.output:
        check_directory(options.output)
    a, b = (laid_out(load_record(one)) for one in (options.a, options.b))
    suite = _suite(options.suite, [a, b])
    comparison = compare(a, b, labels([a.recipe.name, b.recipe.name], [options.a, options.b]))
    for line in lines(comparison, shutil.get_terminal_size().columns):
        print(line)
    append_summary(markdown_of(comparison))
    if options.output:
        shown = from_disk([options.a, options.b])
        place = write_page_alone(
            options.output, shown, suite=suite, comparison=comparison, most=options.pictures
        )
        print(f"\n{place}")
    return OK if comparison.comparable else NOT_COMPARABLE


def _check_pictures(most: int | None) -> None:
    if most is not None and most < 0:
        raise InputError(f"--pictures {most}: needed is 0 or more")


def _suite(given: str | None, records: Sequence[Record]) -> Suite | None:
    """The suite that is `given` for its prompts. InputError where none of the records drew it."""
    from ernie_qa.suite import find_suite, more_seeds

    if given is None:
        return None
    suite = find_suite(given)
    if all(more_seeds(record.suite.hash, suite.hash) is None for record in records):
        drawn = ", ".join(sorted({f"{one.suite.name} ({one.suite.hash[:12]})" for one in records}))
        raise InputError(
            one_line(
                f"--suite {given}: no record here drew it as it is now ({suite.hash[:12]}): they drew "
                f"{drawn}; name that one, or leave it out"
            )
        )
    return suite
