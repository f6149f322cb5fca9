"""The command line: `ernie-qa gate`, `recipes`, `models`, `show`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import ErnieQAError, InputError
from ernie_qa.verdict import Status

if TYPE_CHECKING:
    from ernie_qa.execute import Plan, Session

EXIT = {Status.PASS: 0, Status.FAIL: 1, Status.NOT_COMPARABLE: 3, Status.NOT_APPLICABLE: 3}
BAD_INPUT = 2
EXIT_CODES = "exit codes: 0 pass, 1 fail, 2 bad input or something missing here, 3 not comparable"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors are one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except ErnieQAError as error:
        print(f"ernie-qa: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        # the reader of a pipe has seen enough; what is still buffered must not raise again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ernie-qa",
        description="Is a quantized ERNIE-Image pipeline still good, and is it really running quantized?",
        epilog="first steps:\n"
        "  ernie-qa recipes                          what can be gated\n"
        "  ernie-qa gate --recipe sdnq-int8          gate one recipe on the shipped miniature\n"
        "  ernie-qa gate --help                      everything that a gate can be told",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ernie-qa {version('ernie-qa')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_gate(commands)
    for name, run, summary in (
        ("recipes", _recipes, "list the shipped recipes"),
        ("models", _models, "list the shipped models"),
    ):
        listing = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        listing.set_defaults(run=run)
    show = commands.add_parser(
        "show", help="print what a record holds", description="Print what a record holds."
    )
    show.add_argument(
        "record", metavar="RECORD", type=Path, help="directory of a record, as --report wrote it"
    )
    show.set_defaults(run=_show)
    return parser


def _add_gate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
        "      the full-size model on a GPU\n\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    gate.add_argument(
        "--model",
        default="mini",
        metavar="MODEL",
        help="a shipped name, a diffusers directory or a hub id (mini)",
    )
    gate.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="RECIPE",
        help="a shipped name or a TOML file; may be repeated (all shipped recipes)",
    )
    gate.add_argument(
        "--suite", metavar="SUITE", help="a shipped name or a TOML file (the one that the model names)"
    )
    gate.add_argument(
        "--device", choices=("cpu", "cuda"), help="where to run (cuda where there is a usable GPU, else cpu)"
    )
    gate.add_argument(
        "--require-baseline", action="store_true", help="without an accepted baseline, not comparable"
    )
    gate.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write records and verdict.json to a new or empty directory",
    )
    gate.add_argument("--json", action="store_true", help="print the verdicts as JSON instead of the table")
    gate.set_defaults(run=_gate)


def _gate(options: argparse.Namespace) -> int:
    # only a gate draws; --help and the lists stay instant
    from ernie_qa.execute import plan, visible_device
    from ernie_qa.meter import require_device
    from ernie_qa.report.files import check_directory, document, save

    if options.report:
        check_directory(options.report)
    checked = plan(options.model, options.recipe, options.suite)
    checked = replace(checked, device=options.device or visible_device())
    require_device(checked.device)
    session = _run(checked, options.require_baseline)
    verdicts = [outcome.verdict for outcome in session.outcomes]
    if options.report:
        save(options.report, session)
    if options.json:
        print(json.dumps(document(session), indent=2, ensure_ascii=False))
    else:
        from ernie_qa.report.terminal import lines

        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print(f"{checked.model.name} on suite {checked.suite.name}, {checked.device}\n")
        print("\n".join(lines(verdicts, colour=colour)))
    return EXIT[session.status]


def _run(plan: Plan, require_baseline: bool) -> Session:
    """Run the plan's arms under a progress bar on stderr, which shows only where stderr is a terminal."""
    from tqdm import tqdm

    from ernie_qa.execute import REFERENCE, Session

    # a descriptor of its own, for the session turns stderr away while libraries write to it
    with (
        os.fdopen(os.dup(2), "w") as terminal,
        tqdm(total=plan.pictures, unit="picture", disable=None, leave=False, file=terminal) as bar,
    ):

        def progress(recipe: str, drawn: int, wanted: int) -> None:
            bar.set_description(recipe)
            bar.update(drawn > 0)

        session = Session(plan, require_baseline=require_baseline, progress=progress)
        for recipe in plan.recipes:
            try:
                session.outcome(recipe)
            except ErnieQAError as error:
                if REFERENCE in session.broken or len(plan.recipes) == 1:
                    raise
                # what the others showed is not lost
                arm = "" if recipe.name in str(error) else f"{recipe.name}: "
                tqdm.write(f"ernie-qa: {arm}{error}", file=terminal)
    return session


def _recipes(options: argparse.Namespace) -> int:
    from ernie_qa.recipe import find_recipe, recipe_names

    for name in recipe_names():
        recipe = find_recipe(name)
        print(f"{name}\n    {recipe.summary}")
        print(f"    quantizes {', '.join(recipe.components) or 'nothing'}; {recipe.path}")
    return 0


def _models(options: argparse.Namespace) -> int:
    from ernie_qa.models.find import find_model, model_names

    for name in model_names():
        model = find_model(name)
        print(f"{name}\n    {model.manifest.summary if model.manifest else ''}")
        print(f"    {model.weights} weights, suite {model.suite}; {model.path}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from ernie_qa.record import load_record

    given = options.record
    if (given / "verdict.json").is_file():
        arms = ", ".join(sorted(str(path.parent) for path in given.glob("*/record.json")))
        raise InputError(f"{given}: a report of several records; name one of {arms or 'none'}")
    record = load_record(given.parent if given.name == "record.json" else given)
    for name, value in (
        ("record", record.hash),
        ("created", record.created),
        ("model", f"{record.model.name}, {record.model.weights} weights, {record.model.hash}"),
        ("recipe", f"{record.recipe.name}, {record.recipe.hash}"),
        ("suite", f"{record.suite.name}, {record.suite.hash}"),
        ("reference", record.reference or "none"),
    ):
        print(f"{name:<10} {value}")
    for line in _kernels(record.figures.get("activation", {}).get("components", {})):
        print(line)
    for title, values in (("machine", asdict(record.fingerprint)), *record.figures.items()):
        print(f"\n{title}")
        for line in _outline(values, "  "):
            print(line)
    return 0


def _kernels(components: Mapping[str, Any]) -> Iterator[str]:
    """What ran, a line a component: the calls of its layers, those in the kernel, why the others were not."""
    for component, figures in components.items():
        counted: Counter[str] = Counter()
        operators: set[str] = set()
        for group in figures.get("calls", ()):
            layers = len(group["names"])
            counted.update({"calls": group["total"] * layers, "quantized": group["quantized"] * layers})
            counted.update({reason: count * layers for reason, count in group["fallbacks"].items()})
            operators.update(group["ops"])
        calls, quantized = counted.pop("calls", 0), counted.pop("quantized", 0)
        others = "".join(f", {count} {reason}" for reason, count in sorted(counted.items()))
        kernel = f" ({', '.join(sorted(operators))})" if operators else ""
        yield f"{component:<14} {quantized} of {calls} calls ran the quantized kernel{kernel}{others}"


def _outline(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Figures three levels deep; what lies deeper, and longer lists, are counted: record.json has it all."""
    for key, value in values.items():
        if isinstance(value, Mapping) and len(indent) < 6:
            yield f"{indent}{key}"
            yield from _outline(value, indent + "  ")
        elif isinstance(value, Mapping | tuple) and not all(isinstance(item, str) for item in value):
            yield f"{indent}{key}: {len(value)} entries"
        elif isinstance(value, tuple):
            yield f"{indent}{key}: {', '.join(value) or 'none'}"
        else:
            yield f"{indent}{key}: {value}"


if __name__ == "__main__":
    sys.exit(main())
