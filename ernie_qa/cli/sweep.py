"""`ernie-qa sweep`: the arms of a grid, and the best of them."""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from ernie_qa.cli.exit_codes import FAILED, INTERRUPTED, NOT_COMPARABLE, OK


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
        "      on the shipped miniature; records as arms end, then the plot, go to out/\n"
        "  ernie-qa sweep grid.toml --model ~/models/ERNIE-Image-Turbo --suite turbo10 --device cuda\n"
        "      the full-size model on a GPU\n\n"
        "exit codes: 0 an arm passes, 1 none does, 2 bad input or something missing here, 3 none does\n"
        "and not all could be judged, 130 interrupted: what was drawn to its end is judged and kept",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sweep.add_argument("recipe", type=Path, metavar="RECIPE", help="a TOML file with a [grid]")
    sweep.add_argument(
        "--model",
        default="mini",
        metavar="MODEL",
        help="a shipped name, a diffusers directory or a hub id (mini)",
    )
    sweep.add_argument(
        "--suite", metavar="SUITE", help="a shipped name or a TOML file (the one that the model names)"
    )
    sweep.add_argument(
        "--device", choices=("cpu", "cuda"), help="where to run (cuda where there is a usable GPU, else cpu)"
    )
    sweep.add_argument(
        "--all-rungs",
        action="store_true",
        help="draw the pictures of arms too that failed before a picture was drawn",
    )
    sweep.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write records, verdict.json, the plot and pages, sweep.html first, to a new or empty directory",
    )
    sweep.add_argument("--dry-run", action="store_true", help="list the arms, checked, and run nothing")
    sweep.set_defaults(run=_sweep)


def _sweep(options: argparse.Namespace) -> int:
    from ernie_qa.cli.bar import progress_bar
    from ernie_qa.meter import require_device
    from ernie_qa.plan import plan, visible_device
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
    from ernie_qa.sweep.rows import found
    from ernie_qa.sweep.run import run
    from ernie_qa.sweep.told import lines, write
    from ernie_qa.verdict import Status

    checked = replace(checked, device=options.device or visible_device())
    require_device(checked.device)
    with progress_bar("picture") as progress:
        swept = run(checked, all_rungs=options.all_rungs, directory=options.report, progress=progress)
    best = found(swept.session, swept.errors)
    print(f"{checked.model.name} on suite {checked.suite.title}, {checked.device}\n")
    print("\n".join(lines(best, swept, shutil.get_terminal_size().columns)))
    for error in swept.errors.values():
        print(f"ernie-qa: {error}", file=sys.stderr)
    for warning in dict.fromkeys(checked.warnings):
        print(f"\n{warning}")
    if options.report:
        print(f"\nreport: {write(options.report, best, swept)}")
    if best.unfinished:
        return INTERRUPTED
    statuses = {row.status for row in best.arms}
    if Status.PASS in statuses:
        return OK
    return FAILED if statuses == {Status.FAIL} else NOT_COMPARABLE
