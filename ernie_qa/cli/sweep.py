"""`ernie-qa sweep`: the arms of a grid, and the best of them."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from ernie_qa.cli.arguments import add_device, add_model, add_resume, add_session, add_suite
from ernie_qa.cli.exit_codes import FAILED, INTERRUPTED, NOT_COMPARABLE, OK
from ernie_qa.cli.where import add_cluster, where


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    sweep = commands.add_parser(
        "sweep",
        help="run all combinations of a recipe's grid and show the best of them",
        description="Run BF16 once and then every arm that a recipe's [grid] makes: each combination of the\n"
        "options and components that it lists. An arm that fails a cheap rung draws no pictures. The\n"
        "Pareto front of fidelity, memory and latency is told; only arms that pass can be on it.",
        epilog="a grid, in a recipe:\n"
        "  [grid]\n"
        '  components = [["transformer"], ["text_encoder", "transformer"]]\n'
        "  [grid.sdnq]\n"
        '  weights_dtype = ["int8", "uint4"]\n'
        "  use_quantized_matmul = [true, false]\n\n"
        "examples:\n"
        "  ernie-qa sweep grid.toml --dry-run\n"
        "      the arms that the grid makes; runs nothing\n"
        "  ernie-qa sweep grid.toml --report out\n"
        "      on the shipped miniature; records and the plot go to out/\n"
        "  ernie-qa sweep grid.toml --model ~/models/ERNIE-Image-Turbo --suite turbo10 --device cuda \\\n"
        "      --resume --report out\n"
        "      the full-size model on a GPU; killed, the same command goes on where it was\n\n"
        "exit codes: 0 an arm passes, 1 none does, 2 bad input or something missing here, 3 none does\n"
        "and not all could be judged, 130 interrupted: what was drawn to its end is judged and kept",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sweep.add_argument("recipe", type=Path, metavar="RECIPE", help="a TOML file with a [grid]")
    add_model(sweep)
    add_suite(sweep)
    add_device(sweep)
    add_session(sweep)
    add_resume(sweep)
    add_cluster(sweep)
    sweep.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write records, verdict.json, the plot and pages, sweep.html first, to a new or empty directory",
    )
    sweep.add_argument("--dry-run", action="store_true", help="list the arms, checked, and run nothing")
    sweep.set_defaults(run=_sweep)


def _sweep(options: argparse.Namespace) -> int:
    from ernie_qa.plan import plan
    from ernie_qa.report.files import check_directory
    from ernie_qa.sweep.grid import arms
    from ernie_qa.wording import counted

    if options.report:
        check_directory(options.report)
    checked = plan(options.model, arms(options.recipe), options.suite)
    if options.dry_run:
        print("\n".join(recipe.name for recipe in checked.recipes))
        print(f"\n{counted(len(checked.recipes), 'arm')} and bf16, at most {checked.pictures} pictures")
        return OK
    from ernie_qa.cli.arms import let_go, resumable
    from ernie_qa.settings import Settings
    from ernie_qa.sweep.rows import found
    from ernie_qa.sweep.told import lines, write
    from ernie_qa.verdict import Status

    settings = Settings(None, False, options.any_allocator, options.all_rungs)
    with where(options) as place:
        checked = place.planned(checked, options.device)
        began = time.monotonic()
        with resumable(checked, settings, options.resume, **place.asked) as kept:
            session = place.run(checked, settings, kept)
            best = found(session, time.monotonic() - began)
            print(f"{checked.model.name} on suite {checked.suite.title}, {checked.device}\n")
            print("\n".join(lines(best, shutil.get_terminal_size().columns)))
            for warning in dict.fromkeys(checked.warnings):
                print(f"\n{warning}")
            if options.report:
                print(f"\nreport: {write(options.report, best, session)}")
            let_go(kept, session)
    if session.unfinished:
        return INTERRUPTED
    statuses = {row.status for row in best.arms}
    if Status.PASS in statuses:
        return OK
    return FAILED if statuses == {Status.FAIL} else NOT_COMPARABLE
