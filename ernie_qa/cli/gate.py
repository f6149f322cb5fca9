"""`ernie-qa gate`: the gates without pytest."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.cli.arguments import add_device, add_model, add_resume, add_session, add_suite
from ernie_qa.cli.exit_codes import BAD_INPUT, INTERRUPTED, OF_STATUS, OK
from ernie_qa.cli.where import HERE, add_cluster, where
from ernie_qa.errors import InputError

if TYPE_CHECKING:
    from ernie_qa.execute import Session
    from ernie_qa.models.find import Model
    from ernie_qa.plan import Plan

EXIT_CODES = (
    "exit codes: 0 pass, 1 fail, 2 bad input or something missing here, 3 not comparable,\n"
    "130 interrupted: what was drawn to its end is judged and kept"
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    gate = commands.add_parser(
        "gate",
        help="run recipes on a model and judge them",
        description="Draw a suite with each recipe, prove what ran, compare it with BF16, and judge.\n"
        "BF16 is always drawn first, as the reference. Each recipe loads once.",
        epilog="examples:\n"
        "  ernie-qa gate\n"
        "      all shipped recipes on the shipped miniature\n"
        "  ernie-qa gate --recipe mine.toml --recipe sdnq-int8 --report out\n"
        "      a recipe of your own beside a shipped one; records and pictures go to out/\n"
        "  ernie-qa gate --model ~/models/ERNIE-Image-Turbo --suite turbo10 --device cuda\n"
        "      the full-size model on a GPU\n"
        "  ernie-qa gate --resume --report out\n"
        "      a long run: killed, the same command goes on after the last recipe that had ended\n"
        "  ernie-qa gate --dry-run --baselines baselines\n"
        "      what that would fetch, write and take here; draws nothing\n\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_run(gate)
    gate.add_argument(
        "--update",
        action="store_true",
        help="keep the records as candidates below --baselines; accepts nothing",
    )
    gate.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write records, verdict.json and a page, index.html, to a new or empty directory",
    )
    add_resume(gate)
    add_cluster(gate)
    gate.add_argument(
        "--dry-run",
        action="store_true",
        help="check the input, tell what a run would need (downloads, disk, memory, time), and run nothing",
    )
    gate.add_argument(
        "--json",
        action="store_true",
        help="print the verdicts, or what a run would need, as JSON instead of the table",
    )
    gate.set_defaults(run=_gate)


def add_run(command: argparse.ArgumentParser) -> None:
    """Add the options that say what is drawn, how, and what it is judged by."""
    add_model(command)
    command.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="RECIPE",
        help="a shipped name or a TOML file; may be repeated (all shipped recipes)",
    )
    add_suite(command)
    command.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="draw every case with N seeds, its own and others: what may decide an undecided limit (1)",
    )
    add_device(command)
    command.add_argument(
        "--artifact",
        action="append",
        default=[],
        metavar="RECIPE=MODEL",
        help="a directory or hub id that holds this recipe's components quantized already; may be repeated",
    )
    command.add_argument(
        "--offload",
        action="append",
        default=[],
        metavar="RECIPE",
        help="keep this recipe's components in main memory and call them to the GPU one at a time, so that "
        "BF16 fits a small one; may be repeated, bf16 is the reference",
    )
    command.add_argument(
        "--teacher-cases",
        type=int,
        default=2,
        metavar="N",
        help="feed each part what BF16 fed it in the first N cases of the suite (2)",
    )
    add_session(command)
    command.add_argument(
        "--baselines", type=Path, metavar="DIR", help="accepted figures to compare with (none)"
    )
    command.add_argument(
        "--require-baseline",
        action="store_true",
        help="where nothing was accepted for a recipe, its verdict is not comparable",
    )


def _gate(options: argparse.Namespace) -> int:
    # only a gate draws; --help and the lists stay instant
    from ernie_qa.baseline.bundle import make_room
    from ernie_qa.report.files import check_directory

    if options.update and not options.baselines:
        raise InputError("--update keeps candidates beside the baselines: name them, --baselines DIR")
    if options.report:
        check_directory(options.report)
    if options.dry_run:
        return _dry_run(options)
    from ernie_qa.cli.arms import let_go, resumable
    from ernie_qa.settings import Settings

    if options.update:
        make_room(options.baselines)
    settings = Settings(options.baselines, options.require_baseline, options.any_allocator, options.all_rungs)
    with where(options) as place:
        checked = place.planned(_plan(options, options.model), options.device)
        with resumable(checked, settings, options.resume, **place.asked) as kept:
            session = place.run(checked, settings, kept)
            _tell(options, session)
            # last: a run that is killed while it is told can still be gone on with
            let_go(kept, session)
    return INTERRUPTED if session.unfinished else OF_STATUS[session.status]


def _tell(options: argparse.Namespace, session: Session) -> None:
    """Print and write what a session has judged."""
    from ernie_qa.report.files import document, next_step, save_candidates
    from ernie_qa.report.written import summarize, write_report

    verdicts = [outcome.verdict for outcome in session.outcomes]
    if session.unfinished:
        print(f"ernie-qa: interrupted, and not judged: {', '.join(session.unfinished)}", file=sys.stderr)
    summarize(session)
    bundle = save_candidates(options.baselines, session) if options.update else None
    if options.json:
        print(json.dumps(document(session), indent=2, ensure_ascii=False))
    elif verdicts:
        from ernie_qa.report.terminal import lines

        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        plan = session.plan
        print(f"{plan.model.name} on suite {plan.suite.title}, {plan.device}\n")
        width = shutil.get_terminal_size().columns
        print("\n".join(lines(verdicts, colour=colour, width=width)))
        if session.broken:
            print(f"\nbroke off, and not judged: {', '.join(session.broken)}")
        if session.compared:
            print(f"\n{session.compared}\n{session.floor}")
        for warning in plan.warnings:
            print(f"\n{warning}")
    if bundle and not options.json:
        print("", *next_step(options.baselines, session, bundle), sep="\n")
    # last: what was measured is told and kept, even where this cannot be written
    if options.report:
        page = write_report(options.report, session)
        if not options.json:
            print(f"\nreport: {page}")


def _plan(options: argparse.Namespace, model: Model | str) -> Plan:
    """What will run, wherever that is."""
    from ernie_qa.plan import plan

    return plan(
        model,
        options.recipe,
        options.suite,
        artifacts=options.artifact,
        offload=options.offload,
        teacher_cases=options.teacher_cases,
        seeds=options.seeds,
    )


def _dry_run(options: argparse.Namespace) -> int:
    """Tell what a run here would need; of a model that is not here yet, only its download."""
    from ernie_qa.forecast import forecast, forecast_download
    from ernie_qa.models.find import find_model, to_fetch
    from ernie_qa.report.forecast import document, forecast_lines

    if options.cluster is not None:
        raise InputError("--dry-run: tells what this machine needs, and nothing of a cluster; leave one out")
    if download := to_fetch(options.model):
        found = forecast_download(download)
    else:
        checked = HERE.planned(_plan(options, find_model(options.model, fetch=False)), options.device)
        found = forecast(checked, baselines=options.baselines, report=options.report, update=options.update)
    if options.json:
        print(json.dumps(document(found), indent=2, ensure_ascii=False))
    else:
        print("\n".join(forecast_lines(found)))
    return OK if found.ready else BAD_INPUT
