"""`ernie-qa repair`: which layers a failing recipe has to keep in BF16."""

from __future__ import annotations

import argparse
import shutil
from importlib.metadata import version
from pathlib import Path

from ernie_qa.cli.arguments import add_any_allocator, add_device, add_model, add_suite
from ernie_qa.cli.exit_codes import FAILED, NOT_COMPARABLE, OK
from ernie_qa.errors import ErnieQAError, InputError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    repair = commands.add_parser(
        "repair",
        help="find the layers that a failing recipe must keep in BF16",
        description="Find a small set of layers that RECIPE has to keep in BF16 to pass its own limits, and\n"
        "write the recipe that keeps them. Layers are ranked by how far off they are by themselves and\n"
        "by what they cost in bytes; then sets of them are tried, each with the whole gate, which ends\n"
        "before a picture is drawn where the parts alone fail. At the end no single layer can go.",
        epilog="examples:\n"
        "  ernie-qa repair uint3.toml --output uint3-kept.toml\n"
        "      on the shipped miniature, in minutes on a CPU\n"
        "  ernie-qa repair nf4.toml --model ~/models/ERNIE-Image-Turbo --suite turbo10 \\\n"
        "      --device cuda --trials 20 --output nf4-kept.toml\n"
        "      the full size on a GPU, with a bound on what it takes\n"
        "  ernie-qa gate --recipe uint3-kept.toml --report out\n"
        "      what was written, judged again with a report\n\n"
        "exit codes: 0 repaired, or it passes already and nothing is written; 1 nothing that was tried\n"
        "passes, 2 bad input or something missing here, 3 the recipe is not comparable, 130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    repair.add_argument("recipe", metavar="RECIPE", help="a shipped name or a TOML file, which fails")
    repair.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="the new recipe, a .toml that is not there"
    )
    add_model(repair)
    add_suite(repair)
    add_device(repair)
    repair.add_argument(
        "--trials", type=int, default=100, metavar="N", help="try at most N sets of layers (100)"
    )
    add_any_allocator(repair)
    repair.set_defaults(run=_repair)


def _repair(options: argparse.Namespace) -> int:
    if options.output.suffix != ".toml":
        raise InputError(f"--output {options.output}: needed is the name of a new .toml file")
    if options.output.exists() or options.output.is_symlink():
        raise InputError(f"--output {options.output}: exists already; name another file")
    if not options.output.parent.is_dir():
        raise InputError(f"--output {options.output}: there is no directory {options.output.parent}")
    from ernie_qa import durable
    from ernie_qa.cli.bar import progress_bar
    from ernie_qa.plan import visible_device
    from ernie_qa.recipe import find_recipe
    from ernie_qa.repair import repair
    from ernie_qa.repair.told import comments, lines
    from ernie_qa.repair.written import rewritten
    from ernie_qa.verdict import Status

    recipe = find_recipe(options.recipe)
    with progress_bar("trial") as bar:
        found = repair(
            options.model,
            recipe,
            options.suite,
            options.device or visible_device(),
            name=options.output.stem,
            trials=options.trials,
            any_allocator=options.any_allocator,
            progress=bar.at,
        )
    print("\n".join(lines(found, shutil.get_terminal_size().columns)))
    if found.after is None or found.recipe is None:
        status = found.before.verdict.status
        return OK if status is Status.PASS else FAILED if status is Status.FAIL else NOT_COMPARABLE
    written = rewritten(recipe, found.recipe.options, comments(found, version("ernie-qa")))
    try:
        durable.write(options.output, written, over=False)
    except OSError as problem:
        raise ErnieQAError(durable.cannot(options.output, problem)) from None
    print(f"\nwritten: {options.output}")
    return OK
