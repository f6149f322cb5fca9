"""`ernie-qa calibrate`: how far BF16 is from BF16 where nothing that matters has changed."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.cli.bar import progress_bar
from ernie_qa.cli.exit_codes import OK
from ernie_qa.errors import InputError

if TYPE_CHECKING:
    from ernie_qa.calibration import Result, Subject
    from ernie_qa.changes import Change


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "calibrate",
        help="measure the noise floor: BF16 against BF16",
        description="Draw with BF16 under changes that ought not to matter, and keep how far that moves\n"
        "each figure beside the baselines. Limits below this floor are then refused, and figures are\n"
        "shown beside it.",
        epilog="examples:\n"
        "  ernie-qa calibrate mini                                        every change possible here\n"
        "  ernie-qa calibrate mini --change math-attention batch-of-two   these alone; others stay\n"
        "  ernie-qa calibrate mini --record there                         on another machine; then here:\n"
        "  ernie-qa calibrate mini --against there                        what the machine makes of it\n\n"
        "exit codes: 0 measured, 1 a change named by --change was not, 2 bad input or something missing here",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model",
        nargs="?",
        default="mini",
        metavar="MODEL",
        help="a shipped name, a directory or a hub id (mini)",
    )
    parser.add_argument("--suite", metavar="SUITE", help="a shipped name or a file (the one the model names)")
    parser.add_argument(
        "--baselines",
        type=Path,
        default=Path("baselines"),
        metavar="DIR",
        help="where to keep it (baselines)",
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda or cuda:N (cuda where there is one)")
    parser.add_argument(
        "--change", nargs="+", action="extend", default=[], metavar="NAME", help="only these (all)"
    )
    parser.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="RECORD",
        help="a BF16 record of another machine, by --record or a gate's --report; may be repeated",
    )
    parser.add_argument("--cases", type=int, metavar="N", help="draw the first N cases of the suite (all)")
    parser.add_argument(
        "--teacher-cases", type=int, default=2, metavar="N", help="feed the parts of the first N cases (2)"
    )
    parser.add_argument(
        "--record", type=Path, metavar="DIR", help="only draw, and leave the record in a new directory"
    )
    parser.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--list", action="store_true", help="print the changes and draw nothing")
    parser.set_defaults(run=_calibrate)


def _calibrate(options: argparse.Namespace) -> int:
    from ernie_qa.baseline.noise import make_noise_room
    from ernie_qa.calibration import chosen, sizes, stand, subject
    from ernie_qa.calibration.process import STEP
    from ernie_qa.calibration.steps import Steps
    from ernie_qa.meter import require_device
    from ernie_qa.plan import visible_device
    from ernie_qa.recipe import REFERENCE

    wanted = chosen(options.change)
    if options.list:
        from ernie_qa.report.calibration import listing

        print("\n".join(listing(wanted, options.device or visible_device())))
        return OK
    device = options.device or visible_device()
    require_device(device)
    of = subject(options.model, options.suite, device, options.cases, options.teacher_cases)
    if not options.record:
        make_noise_room(options.baselines)
    if options.record:
        if options.record.exists():
            raise InputError(f"{options.record}: exists already; name a new directory")
        with progress_bar("picture") as bar:
            steps = Steps({REFERENCE: sizes(of)[REFERENCE]}, lambda name, done, of: bar.at(done, of, name))
            steps.begin(REFERENCE)

            def step() -> None:
                steps()
                # who started this process counts them
                if options.steps:
                    print(STEP, flush=True)

            with stand(of, step) as here:
                here.record.save(options.record)
        print(f"BF16 of {of.model.name} is in {options.record}: ernie-qa calibrate --against it elsewhere")
        return OK
    return _measure(of, wanted, options)


def _measure(of: Subject, wanted: tuple[Change, ...], options: argparse.Namespace) -> int:
    from ernie_qa.baseline.noise import read_noise, save_noise
    from ernie_qa.report.calibration import lines

    result = _run(of, wanted if options.change or not options.against else (), options.against)
    file = save_noise(options.baselines, result.noise)
    print("\n".join(lines(read_noise(file), result.skipped, shutil.get_terminal_size().columns)))
    print(f"\nkept in {file}; commit it")
    if why := result.noise.partial:
        print(f"{why}: the gate goes by a floor of the whole suite alone")
    return int(not result.skipped.keys().isdisjoint(options.change))


def _run(of: Subject, wanted: tuple[Change, ...], against: list[Path]) -> Result:
    from ernie_qa.calibration import calibrate

    with progress_bar("picture") as bar:
        return calibrate(of, wanted, against, lambda name, done, of: bar.at(done, of, name))
